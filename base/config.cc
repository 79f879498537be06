#include "base/config.h"

#include <numeric>

namespace pocketvlm {
namespace {

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t cost = a[i - 1] == b[j - 1] ? 0 : 1;
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + cost});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        next[j] = std::min(next[j], before[j - 2] + 1);
      }
    }
    before = row;
    row = next;
  }
  return row.back();
}

}  // namespace

std::optional<std::string> closest_name(const std::string& word,
                                        const std::vector<std::string>& known) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& name : known) {
    const std::size_t distance = edit_distance(word, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

void apply_override(Json& root, const std::string& assignment) {
  const auto equals = assignment.find('=');
  PV_CHECK(equals != std::string::npos && equals > 0,
           "--set {}: write it as name.of.field=value",
           assignment);
  const std::string text = assignment.substr(equals + 1);
  // A value that is not JSON (a path, a name) is taken as a plain string.
  const bool is_json = Json::accept(text);
  Json* place = &root;
  std::string_view path(assignment.data(), equals);
  while (true) {
    const auto dot = path.find('.');
    const std::string name(path.substr(0, dot));
    PV_CHECK(!name.empty(), "--set {}: empty name in the path", assignment);
    if (place->is_array()) {
      const bool is_index = name.size() <= 9 && name.find_first_not_of("0123456789") == std::string::npos;
      const std::size_t index = is_index ? std::stoul(name) : place->size();
      PV_CHECK(index < place->size(),
               "--set {}: \"{}\" is not a place in a list of {}",
               assignment,
               name,
               place->size());
      place = &(*place)[index];
    } else {
      PV_CHECK(place->is_object() || place->is_null(),
               "--set {}: \"{}\" is inside a value that is not an object",
               assignment,
               name);
      place = &(*place)[name];
    }
    if (dot == std::string_view::npos) break;
    path.remove_prefix(dot + 1);
  }
  const Json value = is_json ? parse_json(text, "--set " + assignment) : Json(text);
  // Where the file has a text, a number is one, too: a name such as 2026, an argument of a command.
  *place = place->is_string() && (value.is_number() || value.is_boolean()) ? Json(text) : value;
}

namespace config_detail {

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

std::string rule_text(const FieldRule& rule) {
  std::string text;
  if (std::isfinite(rule.low) && std::isfinite(rule.high)) {
    text += fmt::format(", {} to {}", rule.low, rule.high);
  } else if (std::isfinite(rule.low)) {
    text += fmt::format(", at least {}", rule.low);
  } else if (std::isfinite(rule.high)) {
    text += fmt::format(", at most {}", rule.high);
  }
  if (!rule.choices.empty()) text += fmt::format(", one of: {}", fmt::join(rule.choices, ", "));
  if (rule.required) text += ", required";
  return text;
}

void check_number(const std::string& path, double value, const FieldRule& rule) {
  PV_CHECK(value >= rule.low && value <= rule.high,
           "{}: {} is out of range (must be{})",
           path,
           value,
           rule_text(FieldRule{rule.low, rule.high, {}, false}).substr(1));
}

void check_choice(const std::string& path, const std::string& value, const FieldRule& rule) {
  if (rule.choices.empty()) return;
  if (std::find(rule.choices.begin(), rule.choices.end(), value) != rule.choices.end()) return;
  const auto close = closest_name(value, rule.choices);
  fail("{}: \"{}\" is not one of: {}{}",
       path,
       value,
       fmt::join(rule.choices, ", "),
       close ? fmt::format("; did you mean \"{}\"?", *close) : "");
}

void wrong_type(const std::string& path, const std::string& wanted, const Json& got) {
  fail("{}: expected {}, got {} {}", path, wanted, got.type_name(), shown(got));
}

void unknown_key(const std::string& path,
                 const std::string& key,
                 const std::vector<std::string>& known) {
  const auto close = closest_name(key, known);
  if (close) fail("{}: unknown key \"{}\", did you mean \"{}\"?", path, key, *close);
  fail("{}: unknown key \"{}\"; known keys: {}", path, key, fmt::join(known, ", "));
}

}  // namespace config_detail
}  // namespace pocketvlm
