#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/files.h"

namespace pocketvlm {
namespace {

/// Builds the value through nlohmann's own DOM builder and refuses what it would accept silently.
class StrictBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
 public:
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

  StrictBuilder(Json& root, std::string_view text, std::string where, int max_depth)
      : Base(root, true), text_(text), where_(std::move(where)), max_depth_(max_depth) {}

  bool start_object(std::size_t size) {
    enter();
    keys_.emplace_back();
    return Base::start_object(size);
  }
  bool end_object() {
    keys_.pop_back();
    --depth_;
    return Base::end_object();
  }
  bool start_array(std::size_t size) {
    enter();
    return Base::start_array(size);
  }
  bool end_array() {
    --depth_;
    return Base::end_array();
  }
  bool key(std::string& name) {
    PV_CHECK(keys_.back().insert(name).second,
             "{}: the key \"{}\" appears twice in one object; remove one",
             where_,
             name);
    return Base::key(name);
  }
  bool number_float(double value, const std::string& text) {
    PV_CHECK(std::isfinite(value), "{}: the number {} is out of range", where_, text);
    // An integer too large for int64 arrives here as a double; silent rounding would change it.
    const bool is_integer = text.find_first_of(".eE") == std::string::npos;
    PV_CHECK(!is_integer, "{}: the number {} is out of range for a 64-bit integer", where_, text);
    return Base::number_float(value, text);
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
  void enter() {
    PV_CHECK(++depth_ <= max_depth_, "{}: nested deeper than {} levels", where_, max_depth_);
  }

  std::string_view text_;
  std::string where_;
  int max_depth_;
  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;
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
