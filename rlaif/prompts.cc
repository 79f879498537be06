#include "rlaif/prompts.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <sstream>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "rlaif/picture_field.h"
#include "rlaif/truth.h"

namespace pocketvlm {
namespace {

// The text of the first field that is there; numbers count as text, for ids are written both ways.
std::string text_of(const Json& row, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (!row.contains(name) || row[name].is_null()) continue;
    return row[name].is_string() ? row[name].get<std::string>() : row[name].dump();
  }
  return "";
}

}  // namespace

Prompts::Prompts(const RlaifConfig& config, std::int64_t round)
    : instruction_(config.instruction), size_(config.num_prompts) {
  std::int64_t available = 0;
  if (!config.instructions.empty()) {
    read_instructions(config.instructions);
    available = static_cast<std::int64_t>(instructions_.size());
    size_ = std::min(size_, available);
  } else {
    source_ = open_source(config.prompts);
    available = source_->size();
    PV_CHECK(size_ <= available,
             "num_prompts is {}, but the source {} has {} samples; lower num_prompts or add pictures",
             size_,
             source_->name(),
             available);
  }
  first_ = round * size_ % available;
  repeated_ = std::clamp((round + 1) * size_ - std::max(available, round * size_), std::int64_t{0}, size_);
}

Prompts::~Prompts() = default;

void Prompts::read_instructions(const std::string& path) {
  instructions_path_ = path;
  std::istringstream lines(read_file(path));
  std::string line;
  for (std::int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", path, number);
    const Json row = parse_json(line, where);
    PV_CHECK(row.is_object(), "{}: expected an object, got {}", where, row.type_name());
    Instruction instruction;
    instruction.id = text_of(row, {"ds_question_id", "question_id", "id", "idx"});
    if (instruction.id.empty()) instruction.id = std::to_string(number - 1);
    instruction.question = text_of(row, {"question", "raw_question"});
    PV_CHECK(!instruction.question.empty(), "{}: has no \"question\"", where);
    instruction.language = text_of(row, {"language"});
    PictureField picture = picture_field(row, where);
    PV_CHECK(!picture.path.empty() || !picture.encoded.empty(), "{}: has neither \"image_path\" nor \"image\"", where);
    instruction.path = std::move(picture.path);
    instruction.encoded = std::move(picture.encoded);
    if (row.contains("truth") && !row["truth"].is_null()) {
      instruction.truth = row["truth"];
      check_truth(instruction.truth, where);
    }
    instructions_.push_back(std::move(instruction));
  }
  PV_CHECK(!instructions_.empty(), "{}: holds no instruction", path);
}

std::string Prompts::id(std::int64_t index) const {
  if (source_) return source_->at((first_ + index) % source_->size()).id;
  return instruction_at(index).id;
}

const Prompts::Instruction& Prompts::instruction_at(std::int64_t index) const {
  return instructions_[static_cast<std::size_t>((first_ + index) % static_cast<std::int64_t>(instructions_.size()))];
}

Picture Prompts::at(std::int64_t index) const {
  if (source_) {
    Sample sample = source_->at((first_ + index) % source_->size());
    PV_CHECK(sample.chat.images.size() == 1,
             "{}: sample \"{}\" has {} pictures; a prompt of the alignment loop has one",
             source_->name(),
             sample.id,
             sample.chat.images.size());
    return {std::move(sample.id),
            std::move(sample.chat.images.front()),
            std::move(sample.truth),
            instruction_,
            ""};
  }
  const Instruction& instruction = instruction_at(index);
  Picture picture{instruction.id, {}, instruction.truth, instruction.question, instruction.language};
  if (instruction.encoded.empty()) {
    const auto folder = std::filesystem::path(instructions_path_).parent_path();
    picture.image = load_image((folder / instruction.path).string());
  } else {
    const std::string where = fmt::format("{}: instruction \"{}\"", instructions_path_, instruction.id);
    const std::string bytes = decode_base64(instruction.encoded, where);
    picture.image = decode_image(std::as_bytes(std::span(bytes)), where);
  }
  return picture;
}

}  // namespace pocketvlm
