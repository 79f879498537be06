#include "apps/inspect_tokens.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "apps/named_model.h"
#include "apps/video_chat.h"
#include "base/files.h"
#include "base/json.h"
#include "data/conversations.h"
#include "data/preprocess/video_frames.h"
#include "model/config.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

Json pieces_of(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  Json pieces = Json::array();
  for (const std::int32_t id : ids) pieces.push_back(tokenizer.vocabulary().pieces[static_cast<std::size_t>(id)]);
  return pieces;
}

Json tokens_of(const Tokenizer& tokenizer, const std::string& text, const CommandLine& line) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, line.specials);
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  if (line.bos) {
    PV_CHECK(vocabulary.bos_id >= 0, "{}: the vocabulary has no BOS id; leave --bos out", line.tokenizer);
    ids.insert(ids.begin(), vocabulary.bos_id);
  }
  if (line.eos) {
    PV_CHECK(vocabulary.eos_id >= 0, "{}: the vocabulary has no EOS id; leave --eos out", line.tokenizer);
    ids.push_back(vocabulary.eos_id);
  }
  return {{"ids", ids}, {"pieces", pieces_of(tokenizer, ids)}};
}

void print_each_line(const Tokenizer& tokenizer, const CommandLine& line) {
  std::istringstream lines(read_file(line.jsonl_file));
  std::string text;
  for (std::int64_t number = 1; std::getline(lines, text); ++number) {
    if (text.empty()) continue;
    const std::string where = fmt::format("{}:{}", line.jsonl_file, number);
    const Json value = parse_json(text, where);
    PV_CHECK(value.is_string(), "{}: expected one JSON string, got {}", where, value.type_name());
    print_json(tokens_of(tokenizer, value.get<std::string>(), line));
  }
}

/// What a run of neighbouring tokens is.
enum class Part { kText, kMarker, kVisual, kLearned };
constexpr const char* kPartNames[] = {"text", "marker", "visual", "learned"};
constexpr const char* kColours[] = {"", "\x1b[35m", "\x1b[34m", "\x1b[32m"};

struct Run {
  Part part;
  std::size_t begin, end;  // of ids
};

std::vector<Run> runs_of(const Tokenizer& tokenizer, const EncodedChat& chat) {
  std::vector<bool> visual(chat.ids.size(), false);
  for (const std::int32_t place : chat.visual_positions) visual[static_cast<std::size_t>(place)] = true;
  const auto part_of = [&](std::size_t i) {
    if (visual[i]) return Part::kVisual;
    if (chat.is_target[i] != 0) return Part::kLearned;
    const TokenType type = tokenizer.vocabulary().types[static_cast<std::size_t>(chat.ids[i])];
    return type == TokenType::kControl || type == TokenType::kUserDefined ? Part::kMarker : Part::kText;
  };
  std::vector<Run> runs;
  for (std::size_t i = 0; i < chat.ids.size(); ++i) {
    const Part part = part_of(i);
    if (runs.empty() || runs.back().part != part) runs.push_back({part, i, i});
    runs.back().end = i + 1;
  }
  return runs;
}

/// A token as people read it: line ends written out, a special piece by its name.
std::string readable(const Tokenizer& tokenizer, std::int32_t id) {
  const TokenType type = tokenizer.vocabulary().types[static_cast<std::size_t>(id)];
  const bool special = type == TokenType::kControl || type == TokenType::kUnknown;
  const std::string text = special ? tokenizer.vocabulary().pieces[static_cast<std::size_t>(id)] : tokenizer.piece_text(id);
  std::string shown;
  for (const char c : text) {
    if (c == '\n') shown += "\\n";
    else if (c == '\t') shown += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else shown += c;
  }
  return shown;
}

std::string shown_run(const Tokenizer& tokenizer, const EncodedChat& chat, const Run& run) {
  if (run.part == Part::kVisual) return fmt::format("{}*{}", readable(tokenizer, chat.ids[run.begin]), run.end - run.begin);
  std::string text;
  for (std::size_t i = run.begin; i < run.end; ++i) text += (i > run.begin ? "|" : "") + readable(tokenizer, chat.ids[i]);
  return text;
}

void print_layout(const Tokenizer& tokenizer, const EncodedChat& chat) {
  const char* no_colour = std::getenv("NO_COLOR");
  const bool colours = ::isatty(STDOUT_FILENO) == 1 && (no_colour == nullptr || *no_colour == '\0');
  for (const Run& run : runs_of(tokenizer, chat)) {
    const auto part = static_cast<std::size_t>(run.part);
    fmt::print("{:>6} .. {:<6} {:<8} {}{}{}\n", run.begin, run.end - 1, kPartNames[part], colours ? kColours[part] : "",
               shown_run(tokenizer, chat, run), colours ? "\x1b[0m" : "");
  }
  for (const auto& [place, label] : chat.replaced_labels) {
    fmt::print("{:>6} is to predict {}, not what follows it\n", place, readable(tokenizer, label));
  }
  const std::vector<std::int32_t> labels = labels_of(chat);
  const auto learned = std::count_if(labels.begin(), labels.end(), [](std::int32_t label) { return label != kNotATarget; });
  fmt::print("{} tokens, {} of them visual ({} slices), {} labels\n", chat.ids.size(), chat.visual_positions.size(), chat.grids.size(), learned);
}

Json layout_json(const Tokenizer& tokenizer, const EncodedChat& chat) {
  Json runs = Json::array();
  for (const Run& run : runs_of(tokenizer, chat)) {
    runs.push_back({{"part", kPartNames[static_cast<std::size_t>(run.part)]},
                    {"begin", run.begin},
                    {"end", run.end},
                    {"text", shown_run(tokenizer, chat, run)}});
  }
  return {{"ids", chat.ids},
          {"pieces", pieces_of(tokenizer, chat.ids)},
          {"labels", labels_of(chat)},
          {"visual_positions", chat.visual_positions},
          {"grids", chat.grids},
          {"runs", runs}};
}

Chat chat_of(const CommandLine& line, ModelConfig& config) {
  if (!line.conversation.empty()) {
    PV_CHECK(line.images.empty() && line.video.empty(), "--image, --video: the pictures of --conversation are named in the file; leave it out");
    const ConversationSource source(line.conversation, decode_options(config.image));
    PV_CHECK(line.index < source.size(), "{}: has {} records; --index {} is beyond them", line.conversation, source.size(), line.index);
    Sample sample = source.at(line.index);
    if (sample.is_video) set_for_video(config.prompt, config.image);
    return std::move(sample.chat);
  }
  Chat chat;
  chat.turns.push_back({"user", line.prompt});
  chat.images = prompt_pictures(line, config);
  return chat;
}

void inspect_layout(const CommandLine& line) {
  PV_CHECK(!line.model.empty(), "--model: name the preset, config file or checkpoint folder whose template is to be shown");
  ModelConfig config = named_model(line.model);
  if (!line.compat.empty()) config.prompt.compat = line.compat;
  if (line.max_slices > 0) config.image.max_slices = line.max_slices;
  PV_CHECK(!line.tokenizer.empty() || fs::is_directory(line.model), "--tokenizer: the preset {} has no vocabulary; name one", line.model);
  const Tokenizer tokenizer = Tokenizer::load(line.tokenizer.empty() ? line.model : line.tokenizer);
  const Chat chat = chat_of(line, config);
  const PromptEncoder encoder(tokenizer, config.prompt, config.image);
  // A prompt ends where the answer begins; a conversation is shown as training sees it.
  const EncodedChat encoded = encoder.encode(chat, line.conversation.empty());
  if (line.json) return print_json(layout_json(tokenizer, encoded));
  print_layout(tokenizer, encoded);
}

}  // namespace

void inspect_tokens(const CommandLine& line) {
  if (!line.conversation.empty() || !line.prompt.empty()) return inspect_layout(line);
  PV_CHECK(!line.tokenizer.empty(), "--tokenizer: name the vocabulary: a tokenizer.model, tokenizer.json, tiktoken or .gguf file, or a folder");
  PV_CHECK(line.model.empty() && line.images.empty() && line.video.empty() && line.compat.empty() && line.max_slices == 0,
           "--model, --image, --video, --compat and --max-slices have no effect on plain text; give --prompt or --conversation, or leave them out");
  const Tokenizer tokenizer = Tokenizer::load(line.tokenizer);
  if (!line.jsonl_file.empty()) return print_each_line(tokenizer, line);
  const Json result = tokens_of(tokenizer, line.text_file.empty() ? line.text : read_file(line.text_file), line);
  if (line.json) return print_json(result);
  for (std::size_t i = 0; i < result["ids"].size(); ++i) {
    fmt::print("{:>8}  {}\n", result["ids"][i].get<std::int64_t>(), result["pieces"][i].get<std::string>());
  }
}

}  // namespace pocketvlm
