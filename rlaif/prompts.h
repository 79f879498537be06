#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/sample.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// A picture to be talked about, and what is asked about it.
struct Picture {
  std::string id;
  Image image;
  Json truth;  // what its source knows (Sample::truth), or null
  std::string question;
  std::string language = {};  // of the answer, where an instruction says so; empty: it is found out
};

/// The prompts of a round, numbered from 0: pictures of a source, each asked the same `instruction`,
/// or the rows of an instructions file with questions of their own. Round r takes the stretch behind
/// that of round r - 1; a source that ends is begun again. A function of round and index alone.
class Prompts {
 public:
  /// Throws Error when a source of pictures holds fewer than `num_prompts`. A file of instructions
  /// may hold fewer.
  explicit Prompts(const RlaifConfig& config, std::int64_t round = 0);
  ~Prompts();

  std::int64_t size() const { return size_; }
  /// Prompts of this round that an earlier one had, too.
  std::int64_t repeated() const { return repeated_; }
  /// Throws Error for a damaged sample, a missing picture, and a sample that does not hold exactly
  /// one picture.
  Picture at(std::int64_t index) const;
  /// Of a prompt whose picture may be missing.
  std::string id(std::int64_t index) const;

 private:
  struct Instruction {
    std::string id, question, language, path;
    std::string encoded;  // the picture itself, base64, instead of a path
    Json truth;
  };
  void read_instructions(const std::string& path);
  const Instruction& instruction_at(std::int64_t index) const;

  std::string instruction_;
  std::unique_ptr<SampleSource> source_;
  std::vector<Instruction> instructions_;
  std::string instructions_path_;
  std::int64_t size_ = 0;
  std::int64_t first_ = 0;
  std::int64_t repeated_ = 0;
};

}  // namespace pocketvlm
