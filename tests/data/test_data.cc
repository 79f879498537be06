#include "tests/data/test_data.h"

#include <unistd.h>

#include <atomic>
#include <fstream>

#include "base/error.h"

namespace pocketvlm::test {

TestFolder::TestFolder() {
  static std::atomic<int> count{0};
  folder_ = std::filesystem::temp_directory_path() /
            fmt::format("pocketvlm_data_test_{}_{}", ::getpid(), count++);
  std::filesystem::create_directories(folder_);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string TestFolder::write(const std::string& name, std::string_view bytes) const {
  const std::filesystem::path path = folder_ / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

Tokenizer byte_tokenizer() {
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  const auto add = [&](const std::string& piece, TokenType type) {
    vocabulary.pieces.push_back(piece);
    vocabulary.scores.push_back(0.0F);
    vocabulary.types.push_back(type);
  };
  add("<unk>", TokenType::kUnknown);
  add("<s>", TokenType::kControl);
  add("</s>", TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), TokenType::kByte);
  for (const char* piece :
       {"<image>", "</image>", "<slice>", "</slice>", "<|im_start|>", "<|im_end|>",
        "<image_id>", "</image_id>"}) {
    add(piece, TokenType::kUserDefined);
  }
  vocabulary.unk_id = 0;
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.add_space_prefix = false;
  return Tokenizer(std::move(vocabulary));
}

PromptConfig small_prompt() {
  PromptConfig prompt;
  prompt.num_queries = 4;
  return prompt;
}

ImageConfig small_images() {
  ImageConfig image;
  image.scale_resolution = 28;
  image.max_slices = 4;
  return image;
}

Image test_picture(int width, int height, int seed) {
  Image image(width, height);
  for (std::size_t i = 0; i < image.rgb.size(); ++i) {
    image.rgb[i] =
        static_cast<std::uint8_t>((i * 37 + i / 97 + static_cast<std::size_t>(seed) * 101) % 256);
  }
  return image;
}

Sample document(const std::string& id, std::size_t bytes) {
  Sample sample;
  sample.id = id;
  sample.task = "text";
  std::string text;
  // The id is part of the text, so that no two documents are equal.
  while (text.size() < bytes) text += id + ".";
  text.resize(bytes);
  sample.chat.turns.push_back({"assistant", text});
  return sample;
}

void sign_tar_header(std::string& tar, std::size_t offset) {
  for (std::size_t i = 148; i < 156; ++i) tar[offset + i] = ' ';
  unsigned sum = 0;
  for (std::size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(tar[offset + i]);
  tar.replace(offset + 148, 7, fmt::format("{:06o}", sum) + std::string(1, '\0'));
}

std::string make_tar(const std::vector<TarEntry>& entries, bool with_end) {
  std::string tar;
  const auto put = [&](std::size_t at, const std::string& text) {
    tar.replace(at, text.size(), text);
  };
  for (const TarEntry& entry : entries) {
    const std::size_t header = tar.size();
    tar.append(512, '\0');
    put(header, entry.name);
    put(header + 100, "0000644");
    put(header + 108, "0000000");
    put(header + 116, "0000000");
    put(header + 124,
        entry.size_field.empty() ? fmt::format("{:011o}", entry.data.size()) : entry.size_field);
    put(header + 136, "00000000000");
    tar[header + 156] = entry.type;
    put(header + 257,
        std::string("ustar\0"
                    "00",
                    8));
    put(header + 345, entry.prefix);
    sign_tar_header(tar, header);
    tar += entry.data;
    tar.append((512 - entry.data.size() % 512) % 512, '\0');
  }
  if (with_end) tar.append(1024, '\0');
  return tar;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace pocketvlm::test
