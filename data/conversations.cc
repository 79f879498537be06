#include "data/conversations.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace pocketvlm {
namespace {

constexpr const char* kWrongType = "wrong type";
constexpr std::string_view kMark = "<image>";

bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; });
}

bool ends_with_ignoring_case(std::string_view text, std::string_view ending) {
  if (text.size() < ending.size()) return false;
  return std::equal(ending.begin(), ending.end(), text.end() - static_cast<std::ptrdiff_t>(ending.size()), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  });
}

/// The string under `key`, or nothing when the record has no such key.
std::optional<std::string> text_field(const Json& record, const char* key, const SamplePlace& place, const std::string& owner) {
  const auto item = record.find(key);
  if (item == record.end()) return std::nullopt;
  if (!item->is_string()) {
    place.damaged(kWrongType, fmt::format("{}\"{}\" must be a string, it is {}", owner, key, item->type_name()));
  }
  return item->get<std::string>();
}

std::string read_id(const Json& record, const SamplePlace& place, const std::string& default_id) {
  const auto item = record.find("id");
  if (item == record.end() || item->is_null()) return default_id;
  if (item->is_number_integer()) return item->dump();
  if (!item->is_string()) place.damaged(kWrongType, fmt::format("\"id\" must be a string, it is {}", item->type_name()));
  return item->get<std::string>();
}

// ---- Turns ---------------------------------------------------------------------------------------------------

std::string role_of(const std::string& word, const SamplePlace& place, std::size_t turn) {
  static const std::map<std::string, std::string> kRoles = {
      {"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"assistant", "assistant"}, {"system", "system"}};
  const auto role = kRoles.find(word);
  if (role == kRoles.end()) {
    place.damaged("unknown role",
                  fmt::format("turn {} is from \"{}\"; known are human, user, gpt, assistant, system", turn, printable(word)));
  }
  return role->second;
}

/// A field that two formats name differently.
std::string either_field(const Json& turn, const char* first, const char* second, const SamplePlace& place, std::size_t number) {
  const std::string owner = fmt::format("turn {}: ", number);
  const auto a = text_field(turn, first, place, owner);
  const auto b = text_field(turn, second, place, owner);
  if (a && b) place.damaged("contradictory turn", fmt::format("{}has both \"{}\" and \"{}\"; keep one", owner, first, second));
  if (!a && !b) place.damaged("incomplete turn", fmt::format("{}has neither \"{}\" nor \"{}\"", owner, first, second));
  return a ? *a : *b;
}

std::vector<Turn> read_turns(const Json& conversations, const SamplePlace& place) {
  if (!conversations.is_array()) {
    place.damaged(kWrongType, fmt::format("\"conversations\" must be a list, it is {}", conversations.type_name()));
  }
  if (conversations.empty()) place.damaged("empty conversation", "\"conversations\" holds no turn");
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < conversations.size(); ++i) {
    const Json& turn = conversations[i];
    if (!turn.is_object()) {
      place.damaged(kWrongType, fmt::format("turn {} must be an object, it is {}", i, turn.type_name()));
    }
    turns.push_back({role_of(either_field(turn, "from", "role", place, i), place, i),
                     either_field(turn, "value", "content", place, i)});
  }
  return turns;
}

void check_order(const std::vector<Turn>& turns, const SamplePlace& place) {
  const std::size_t first = turns.front().role == "system" ? 1 : 0;
  if (first == turns.size()) place.damaged("empty conversation", "there is a system turn and nothing else");
  for (std::size_t i = first; i < turns.size(); ++i) {
    const std::string wanted = (i - first) % 2 == 0 ? "user" : "assistant";
    if (turns[i].role != wanted) {
      place.damaged("turns out of order", fmt::format("turn {} must be from {}, it is from {}", i, wanted, turns[i].role));
    }
  }
}

// ---- Pictures ------------------------------------------------------------------------------------------------

/// "<image>" or "<image_7>" in a text.
struct Mark {
  std::size_t begin;
  std::size_t bytes;
};

std::vector<Mark> find_marks(std::string_view text) {
  std::vector<Mark> marks;
  for (std::size_t at = text.find("<image"); at != std::string_view::npos; at = text.find("<image", at + 1)) {
    std::size_t end = at + 6;
    if (end < text.size() && text[end] == '_') {
      const std::size_t digits = end + 1;
      for (end = digits; end < text.size() && std::isdigit(static_cast<unsigned char>(text[end])) != 0;) ++end;
      if (end == digits) continue;
    }
    if (end < text.size() && text[end] == '>') marks.push_back({at, end + 1 - at});
  }
  return marks;
}

/// The pictures that a record names: by mark in the map form, in order otherwise.
struct Pictures {
  bool by_mark = false;
  std::vector<std::pair<std::string, std::string>> entries;  // mark (empty in the other forms), name
};

Pictures read_pictures(const Json& record, const SamplePlace& place, const std::string& implied_picture) {
  Pictures pictures;
  const auto add = [&](const std::string& mark, const Json& name) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) {
      place.damaged(kWrongType, fmt::format("\"image\" must name files, it holds {}", printable(name.dump(-1, ' ', false, Json::error_handler_t::replace), 60)));
    }
    pictures.entries.emplace_back(mark, name.get<std::string>());
  };
  const auto item = record.find("image");
  if (item == record.end() || item->is_null()) {
    if (!implied_picture.empty()) pictures.entries.emplace_back("", implied_picture);
  } else if (item->is_object()) {
    pictures.by_mark = true;
    for (auto entry = item->begin(); entry != item->end(); ++entry) {
      const std::vector<Mark> marks = find_marks(entry.key());
      if (marks.size() != 1 || marks.front().bytes != entry.key().size()) {
        place.damaged("bad image mark",
                      fmt::format("the key \"{}\" of \"image\" must look like <image_00>", printable(entry.key(), 60)));
      }
      add(entry.key(), *entry);
    }
  } else if (item->is_array()) {
    for (const Json& name : *item) add("", name);
  } else {
    add("", *item);
  }
  return pictures;
}

/// Replaces named marks by "<image>" on lines of their own and appends the names they stand for.
std::string place_named_marks(const std::string& content, const Pictures& pictures, std::vector<std::string>& names, const SamplePlace& place) {
  std::string out;
  std::size_t done = 0;
  for (const Mark& mark : find_marks(content)) {
    const std::string key = content.substr(mark.begin, mark.bytes);
    const auto entry = std::find_if(pictures.entries.begin(), pictures.entries.end(), [&](const auto& e) { return e.first == key; });
    if (entry == pictures.entries.end()) {
      place.damaged("image mark without image", fmt::format("{} is not among the keys of \"image\"", key));
    }
    names.push_back(entry->second);
    out += content.substr(done, mark.begin - done);
    if (!out.empty() && out.back() != '\n') out += '\n';
    out += kMark;
    done = mark.begin + mark.bytes;
    if (done < content.size() && content[done] != '\n') out += '\n';
  }
  return out + content.substr(done);
}

/// The names of the pictures in the order of their marks; named marks in `turns` become "<image>".
std::vector<std::string> place_pictures(std::vector<Turn>& turns, const Pictures& pictures, const SamplePlace& place) {
  std::size_t marks = 0;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") continue;  // there a mark is plain text
    for (const Mark& mark : find_marks(turns[i].content)) {
      const std::string text = turns[i].content.substr(mark.begin, mark.bytes);
      if (turns[i].role != "user") place.damaged("image mark in a system turn", fmt::format("turn {} holds {}", i, text));
      if (!pictures.by_mark && (text != kMark || pictures.entries.empty())) {
        place.damaged("image mark without image", fmt::format("turn {} holds {}, \"image\" names no such picture", i, text));
      }
      ++marks;
    }
  }
  std::vector<std::string> names;
  if (!pictures.by_mark || marks == 0) {
    for (const auto& [mark, name] : pictures.entries) names.push_back(name);
    if (marks != 0 && marks != names.size()) {
      place.damaged("image marks and images differ", fmt::format("{} marks for {} pictures", marks, names.size()));
    }
    return names;
  }
  for (Turn& turn : turns) {
    if (turn.role == "user") turn.content = place_named_marks(turn.content, pictures, names, place);
  }
  for (const auto& [mark, name] : pictures.entries) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      place.damaged("image marks and images differ", fmt::format("no turn mentions {}", mark));
    }
  }
  return names;
}

void check_contents(const std::vector<Turn>& turns, bool has_pictures, const SamplePlace& place) {
  bool may_be_blank = has_pictures;  // the first user turn, when the pictures themselves are its content
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const bool excused = turns[i].role == "user" && std::exchange(may_be_blank, false);
    if (is_blank(turns[i].content) && !excused) {
      place.damaged("empty turn", fmt::format("turn {} ({}) has no text", i, turns[i].role));
    }
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

bool looks_like_a_picture(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.starts_with("\xff\xd8\xff") || text.starts_with("\x89PNG\r\n\x1a\n") || text.starts_with("GIF8") ||
         (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP"));
}

Image load_picture(const std::string& folder, const std::string& name, const SamplePlace& place, const DecodeOptions& options) {
  if (name.find('\0') != std::string::npos) place.damaged("missing image", "the file name holds a zero byte");
  if (name.find("://") != std::string::npos) {
    place.damaged("missing image", fmt::format("{} is an address; download it and name the file", printable(name)));
  }
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  std::error_code error;
  // Also keeps pipes and devices from being read without end.
  if (!std::filesystem::is_regular_file(path, error)) {
    place.damaged("missing image", fmt::format("{}: there is no such file", printable(path.string())));
  }
  std::optional<MappedFile> file;
  try {
    file.emplace(path.string());
  } catch (const Error& e) {
    place.damaged("missing image", printable(e.what()));
  }
  return decode_picture({file->data(), file->size()}, path.string(), place, options);
}

}  // namespace

DamagedSample::DamagedSample(std::string file, std::string place, std::string reason, std::string detail)
    : Error(fmt::format("{}: {}: {}: {}", file, place, reason, detail)),
      file_(std::move(file)),
      place_(std::move(place)),
      reason_(std::move(reason)),
      detail_(std::move(detail)) {}

void SamplePlace::damaged(const std::string& reason, const std::string& detail) const {
  throw DamagedSample(file, place, reason, detail);
}

Json parse_record(std::string_view text, const SamplePlace& place) {
  if (!is_utf8(text)) place.damaged("invalid UTF-8", "the record is not encoded in UTF-8; convert the file");
  try {
    return parse_json(text, "record");
  } catch (const Error& e) {
    place.damaged("invalid JSON", printable(e.what()));
  }
}

Image decode_picture(std::span<const std::byte> bytes,
                     const std::string& name,
                     const SamplePlace& place,
                     const DecodeOptions& options) {
  const std::string shown = printable(name);
  if (!looks_like_a_picture(bytes)) {
    place.damaged("not an image", fmt::format("{}: neither JPEG, PNG, WebP nor GIF ({} bytes)", shown, bytes.size()));
  }
  try {
    return decode_image(bytes, shown, options);
  } catch (const Error& e) {
    const std::string text = printable(e.what(), 400);
    place.damaged(text.find("megapixel") != std::string::npos ? "image too large" : "damaged image", text);
  }
}

Sample read_conversation(const Json& record,
                         const SamplePlace& place,
                         const std::string& default_id,
                         const PictureReader& read_picture,
                         const std::string& implied_picture) {
  if (!record.is_object()) {
    place.damaged(kWrongType, fmt::format("a sample must be an object, it is {}", record.type_name()));
  }
  const std::string id = read_id(record, place, default_id);
  const auto conversations = record.find("conversations");
  if (conversations == record.end()) {
    if (auto text = text_field(record, "text", place, "")) return text_sample(std::move(*text), id, place);
    place.damaged("no conversation", "the sample has neither \"conversations\" nor \"text\"");
  }
  Sample sample;
  sample.id = id;
  sample.chat.turns = read_turns(*conversations, place);
  check_order(sample.chat.turns, place);
  const std::vector<std::string> names = place_pictures(sample.chat.turns, read_pictures(record, place, implied_picture), place);
  check_contents(sample.chat.turns, !names.empty(), place);
  sample.task = text_field(record, "task", place, "").value_or("chat");
  sample.language = text_field(record, "language", place, "").value_or("en");
  // Pictures last: what the text alone shows to be unusable costs no decoding.
  for (const std::string& name : names) sample.chat.images.push_back(read_picture(name));
  return sample;
}

void check_has_answer(const Sample& sample, const SamplePlace& place) {
  const auto& turns = sample.chat.turns;
  if (std::none_of(turns.begin(), turns.end(), [](const Turn& turn) { return turn.role == "assistant"; })) {
    place.damaged("no answer", "there is no assistant turn, so nothing to learn");
  }
}

ConversationSource::ConversationSource(const std::string& path, const DecodeOptions& decode)
    : file_(path, ends_with_ignoring_case(path, ".jsonl") ? RecordFile::Form::kLines : RecordFile::Form::kJsonList),
      folder_(std::filesystem::path(path).parent_path().string()),
      decode_(decode) {}

Sample ConversationSource::at(std::int64_t index) const {
  const SamplePlace place{name(), file_.place(index)};
  const Json record = parse_record(file_.record(index), place);
  return read_conversation(record, place, fmt::format("#{}", index), [&](const std::string& picture) {
    return load_picture(folder_, picture, place, decode_);
  });
}

TextSource::TextSource(const std::string& path)
    : file_(path, RecordFile::Form::kLines), is_jsonl_(ends_with_ignoring_case(path, ".jsonl")) {}

Sample TextSource::at(std::int64_t index) const {
  const SamplePlace place{name(), file_.place(index)};
  std::string id = fmt::format("#{}", index);
  if (!is_jsonl_) {
    const std::string_view line = file_.record(index);
    if (!is_utf8(line)) place.damaged("invalid UTF-8", "the line is not encoded in UTF-8; convert the file");
    return text_sample(std::string(line), std::move(id), place);
  }
  const Json record = parse_record(file_.record(index), place);
  if (!record.is_object()) place.damaged(kWrongType, fmt::format("a document must be an object, it is {}", record.type_name()));
  auto text = text_field(record, "text", place, "");
  if (!text) place.damaged("no text", "the record has no \"text\"");
  return text_sample(std::move(*text), read_id(record, place, id), place);
}

}  // namespace pocketvlm
