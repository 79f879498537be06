#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/files.h"

namespace pocketvlm {
namespace {

/// Builds the value from the parser's events and refuses what nlohmann's own builder would accept silently. Members are appended
/// without looking for their name first, which that builder does: an object of 150000 members (a vocabulary) would take a minute.
class StrictBuilder {
 public:
  StrictBuilder(Json& root, std::string_view text, std::string where, int max_depth)
      : root_(root), text_(text), where_(std::move(where)), max_depth_(max_depth) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(std::int64_t value) { return put(value); }
  bool number_unsigned(std::uint64_t value) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // JSON text has none

  bool start_object(std::size_t) {
    enter(Json::object());
    keys_.emplace_back();
    return true;
  }
  bool end_object() {
    keys_.pop_back();
    open_.pop_back();
    return true;
  }
  bool start_array(std::size_t) {
    enter(Json::array());
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool key(std::string& name) {
    PV_CHECK(keys_.back().insert(name).second,
             "{}: the key \"{}\" appears twice in one object; remove one",
             where_,
             name);
    members().emplace_back(name, nullptr);
    return true;
  }
  bool number_float(double value, const std::string& text) {
    PV_CHECK(std::isfinite(value), "{}: the number {} is out of range", where_, text);
    // An integer too large for int64 arrives here as a double; silent rounding would change it.
    const bool is_integer = text.find_first_of(".eE") == std::string::npos;
    PV_CHECK(!is_integer, "{}: the number {} is out of range for a 64-bit integer", where_, text);
    return put(value);
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    position = std::min(position, text_.size());
    const std::string_view before = text_.substr(0, position == 0 ? 0 : position - 1);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_start = before.rfind('\n') + 1;
    std::string reason = e.what();
    if (const auto cut = reason.find("syntax error"); cut != std::string::npos) {
      reason = reason.substr(cut);
    }
    fail("{}: line {}, column {}: not valid JSON: {}", where_, line, before.size() - line_start + 1, reason);
  }

 private:
  using Members = Json::object_t::Container;

  Members& members() { return open_.back()->get_ref<Json::object_t&>(); }

  /// Puts a value where the next one goes; returns true for the parser.
  bool put(Json value) {
    place() = std::move(value);
    return true;
  }
  Json& place() {
    if (open_.empty()) return root_;
    if (open_.back()->is_object()) return members().back().second;
    return open_.back()->emplace_back(nullptr);
  }
  void enter(Json value) {
    PV_CHECK(static_cast<int>(open_.size()) < max_depth_, "{}: nested deeper than {} levels", where_, max_depth_);
    Json& here = place();
    here = std::move(value);
    open_.push_back(&here);  // stays where it is: what it lies in grows only after it is closed
  }

  Json& root_;
  std::string_view text_;
  std::string where_;
  int max_depth_;
  std::vector<Json*> open_;  // from the outermost inwards
  std::vector<std::unordered_set<std::string>> keys_;
};

void refuse_non_finite(const Json& value, const std::string& path, const std::string& place) {
  if (value.is_number_float()) {
    PV_CHECK(std::isfinite(value.get<double>()), "{}: {} is not a finite number", path, place);
  } else if (value.is_structured()) {
    for (auto item = value.begin(); item != value.end(); ++item) {
      refuse_non_finite(
          *item, path, value.is_object() ? place + "." + item.key() : place + "[]");
    }
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where, int max_depth) {
  Json root;
  StrictBuilder builder(root, text, where, max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return root;
}

Json read_json(const std::string& path) { return parse_json(read_file(path), path); }

void write_json(const std::string& path, const Json& value) {
  refuse_non_finite(value, path, "value");
  write_file_atomic(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace pocketvlm
