#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/preprocess/prompt.h"
#include "data/sample.h"

namespace pocketvlm::test {

/// A folder that goes away with the test.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const;

 private:
  std::filesystem::path folder_;
};

/// A sentencepiece vocabulary of the specials, the 256 bytes and nothing else: every byte of text
/// is a token, so lengths are easy to predict.
Tokenizer byte_tokenizer();

/// Slices of 28 x 28 pixels, patches of 14, four visual tokens a slice, ChatML.
PromptConfig small_prompt();
ImageConfig small_images();

/// A picture whose every pixel depends on its place and `seed`.
Image test_picture(int width, int height, int seed = 0);

/// Documents of given lengths, made up when asked for; some positions damaged.
class MadeUpSource : public SampleSource {
 public:
  MadeUpSource(std::string name, std::int64_t size, std::function<Sample(std::int64_t)> make)
      : name_(std::move(name)), size_(size), make_(std::move(make)) {}
  std::int64_t size() const override { return size_; }
  Sample at(std::int64_t index) const override { return make_(index); }
  std::string name() const override { return name_; }

 private:
  std::string name_;
  std::int64_t size_;
  std::function<Sample(std::int64_t)> make_;
};

/// A document of `bytes` letters; encodes to that many tokens and BOS and EOS.
Sample document(const std::string& id, std::size_t bytes);

/// One member of an archive, with every field open to abuse.
struct TarEntry {
  std::string name;
  std::string data;
  char type = '0';
  std::string size_field;  // empty: the right one, octal
  std::string prefix;
};

/// An archive in ustar format with end blocks.
std::string make_tar(const std::vector<TarEntry>& entries, bool with_end = true);

/// Computes the checksum of the header at `offset` again.
void sign_tar_header(std::string& tar, std::size_t offset);

/// The text of the Error that `action` throws, empty when it throws none.
std::string error_of(const std::function<void()>& action);

}  // namespace pocketvlm::test
