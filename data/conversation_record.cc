#include "data/conversation_record.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "data/record_file.h"

namespace pocketvlm {
namespace {

constexpr const char* kWrongType = "wrong type";

bool is_blank(std::string_view text) {
  return std::all_of(
      text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; });
}

/// The string under `key`, or nothing when the record has no such key.
std::optional<std::string> text_field(const Json& record,
                                      const char* key,
                                      const SamplePlace& place,
                                      const std::string& owner) {
  const auto item = record.find(key);
  if (item == record.end()) return std::nullopt;
  if (!item->is_string()) {
    place.damaged(
        kWrongType,
        fmt::format("{}\"{}\" must be a string, it is {}", owner, key, item->type_name()));
  }
  return item->get<std::string>();
}

std::string read_id(const Json& record, const SamplePlace& place, const std::string& default_id) {
  const auto item = record.find("id");
  if (item == record.end() || item->is_null()) return default_id;
  if (item->is_number_integer()) return item->dump();
  if (!item->is_string())
    place.damaged(kWrongType, fmt::format("\"id\" must be a string, it is {}", item->type_name()));
  return item->get<std::string>();
}

std::string role_of(const std::string& word, const SamplePlace& place, std::size_t turn) {
  static const std::map<std::string, std::string> kRoles = {{"human", "user"},
                                                            {"user", "user"},
                                                            {"gpt", "assistant"},
                                                            {"assistant", "assistant"},
                                                            {"system", "system"}};
  const auto role = kRoles.find(word);
  if (role == kRoles.end()) {
    place.damaged(
        "unknown role",
        fmt::format("turn {} is from \"{}\"; known are human, user, gpt, assistant, system",
                    turn,
                    printable(word)));
  }
  return role->second;
}

/// A field that two formats name differently.
std::string either_field(const Json& turn,
                         const char* first,
                         const char* second,
                         const SamplePlace& place,
                         std::size_t number) {
  const std::string owner = fmt::format("turn {}: ", number);
  const auto a = text_field(turn, first, place, owner);
  const auto b = text_field(turn, second, place, owner);
  if (a && b)
    place.damaged("contradictory turn",
                  fmt::format("{}has both \"{}\" and \"{}\"; keep one", owner, first, second));
  if (!a && !b)
    place.damaged("incomplete turn",
                  fmt::format("{}has neither \"{}\" nor \"{}\"", owner, first, second));
  return a ? *a : *b;
}

std::vector<Turn> read_turns(const Json& conversations, const SamplePlace& place) {
  if (!conversations.is_array()) {
    place.damaged(
        kWrongType,
        fmt::format("\"conversations\" must be a list, it is {}", conversations.type_name()));
  }
  if (conversations.empty()) place.damaged("empty conversation", "\"conversations\" holds no turn");
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < conversations.size(); ++i) {
    const Json& turn = conversations[i];
    if (!turn.is_object()) {
      place.damaged(kWrongType,
                    fmt::format("turn {} must be an object, it is {}", i, turn.type_name()));
    }
    turns.push_back({role_of(either_field(turn, "from", "role", place, i), place, i),
                     either_field(turn, "value", "content", place, i)});
  }
  return turns;
}

void check_order(const std::vector<Turn>& turns, const SamplePlace& place) {
  const std::size_t first = turns.front().role == "system" ? 1 : 0;
  if (first == turns.size())
    place.damaged("empty conversation", "there is a system turn and nothing else");
  for (std::size_t i = first; i < turns.size(); ++i) {
    const std::string wanted = (i - first) % 2 == 0 ? "user" : "assistant";
    if (turns[i].role != wanted) {
      place.damaged(
          "turns out of order",
          fmt::format("turn {} must be from {}, it is from {}", i, wanted, turns[i].role));
    }
  }
}

void check_contents(const std::vector<Turn>& turns, bool has_pictures, const SamplePlace& place) {
  bool may_be_blank =
      has_pictures;  // the first user turn, when the pictures themselves are its content
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const bool excused = turns[i].role == "user" && std::exchange(may_be_blank, false);
    if (is_blank(turns[i].content) && !excused) {
      place.damaged("empty turn", fmt::format("turn {} ({}) has no text", i, turns[i].role));
    }
  }
}

}  // namespace

Json parse_record(std::string_view text, const SamplePlace& place) {
  if (!is_utf8(text))
    place.damaged("invalid UTF-8", "the record is not encoded in UTF-8; convert the file");
  try {
    return parse_json(text, "record");
  } catch (const Error& e) {
    place.damaged("invalid JSON", printable(e.what()));
  }
}

Sample text_sample(std::string text, std::string id, const SamplePlace& place) {
  if (is_blank(text)) place.damaged("empty text", "the document has no text");
  Sample sample;
  sample.id = std::move(id);
  sample.task = "text";
  sample.chat.turns.push_back({"assistant", std::move(text)});
  return sample;
}

Sample read_document(const Json& record, const SamplePlace& place, const std::string& default_id) {
  if (!record.is_object()) {
    place.damaged(kWrongType,
                  fmt::format("a document must be an object, it is {}", record.type_name()));
  }
  auto text = text_field(record, "text", place, "");
  if (!text) place.damaged("no text", "the record has no \"text\"");
  return text_sample(std::move(*text), read_id(record, place, default_id), place);
}

Sample read_conversation(const Json& record,
                         const SamplePlace& place,
                         const std::string& default_id,
                         const PictureReader& read_picture,
                         const std::string& implied_picture,
                         const FrameLister& list_frames) {
  if (!record.is_object()) {
    place.damaged(kWrongType,
                  fmt::format("a sample must be an object, it is {}", record.type_name()));
  }
  const std::string id = read_id(record, place, default_id);
  const auto conversations = record.find("conversations");
  if (conversations == record.end()) {
    if (auto text = text_field(record, "text", place, "")) {
      if (!read_pictures(record, place, implied_picture, list_frames).entries.empty())
        place.damaged("document with pictures", "a text without \"conversations\" has no place for pictures");
      return text_sample(std::move(*text), id, place);
    }
    place.damaged("no conversation", "the sample has neither \"conversations\" nor \"text\"");
  }
  Sample sample;
  sample.id = id;
  sample.chat.turns = read_turns(*conversations, place);
  check_order(sample.chat.turns, place);
  const RecordPictures pictures = read_pictures(record, place, implied_picture, list_frames);
  const std::vector<std::string> names = place_pictures(sample.chat.turns, pictures, place);
  sample.is_video = pictures.is_video;
  check_contents(sample.chat.turns, !names.empty(), place);
  sample.task = text_field(record, "task", place, "").value_or("chat");
  sample.language = text_field(record, "language", place, "").value_or("en");
  // Pictures last: what the text alone shows to be unusable costs no decoding.
  for (const std::string& name : names) sample.chat.images.push_back(read_picture(name));
  return sample;
}

void check_has_answer(const Sample& sample, const SamplePlace& place) {
  const auto& turns = sample.chat.turns;
  if (std::none_of(
          turns.begin(), turns.end(), [](const Turn& turn) { return turn.role == "assistant"; })) {
    place.damaged("no answer", "there is no assistant turn, so nothing to learn");
  }
}

}  // namespace pocketvlm
