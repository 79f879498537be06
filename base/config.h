#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"

/// Configuration structs describe themselves once, in `visit_fields`; reading, writing the effective
/// config, `pocketvlm explain` and the generated reference all walk that one list:
///
///   struct OptimizerConfig {
///     double learning_rate = 1e-5;
///     std::string kind = "adamw";
///     void visit_fields(auto&& field) {
///       field("learning_rate", learning_rate, "peak, reached after warm-up", at_least(0));
///       field("kind", kind, "update rule", one_of({"adamw"}));
///     }
///     void validate(const std::string& path) const;   // optional: cross-field rules
///   };
namespace pocketvlm {

/// What a field's value must satisfy beyond its type.
struct FieldRule {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;  // for strings
  bool required = false;
};

inline FieldRule at_least(double low) {
  FieldRule rule;
  rule.low = low;
  return rule;
}
inline FieldRule in_range(double low, double high) {
  FieldRule rule;
  rule.low = low;
  rule.high = high;
  return rule;
}
inline FieldRule one_of(std::vector<std::string> choices) {
  FieldRule rule;
  rule.choices = std::move(choices);
  return rule;
}
inline FieldRule required(FieldRule rule = {}) {
  rule.required = true;
  return rule;
}

/// The name in `known` closest to `word`, or nothing when none is close.
std::optional<std::string> closest_name(const std::string& word,
                                        const std::vector<std::string>& known);

/// `a.b=c`: sets a value in JSON before it is read into a struct. c is JSON, or text, as which a number counts where text stands.
/// Places of arrays are written as numbers (`stages.0.steps=5`). Throws Error on bad paths.
void apply_override(Json& root, const std::string& assignment);

namespace config_detail {

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <typename T>
struct IsMap : std::false_type {};
template <typename T>
struct IsMap<std::map<std::string, T>> : std::true_type {};

struct AnyVisitor {
  template <typename... Args>
  void operator()(Args&&...) {}
};
template <typename T>
concept Visitable = requires(T& value) { value.visit_fields(AnyVisitor{}); };
template <typename T>
concept Validated = requires(const T& value) { value.validate(std::string{}); };

template <typename T>
std::string type_name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  else if constexpr (std::is_integral_v<T>) return "integer";
  else if constexpr (std::is_floating_point_v<T>) return "number";
  else if constexpr (std::is_same_v<T, std::string>) return "string";
  else if constexpr (IsVector<T>::value) return "list of " + type_name<typename T::value_type>();
  else if constexpr (IsOptional<T>::value) return type_name<typename T::value_type>() + " or null";
  else return "object";
}

std::string shown(const Json& value);  // short, for error texts
void check_number(const std::string& path, double value, const FieldRule& rule);
void check_choice(const std::string& path, const std::string& value, const FieldRule& rule);
[[noreturn]] void wrong_type(const std::string& path, const std::string& wanted, const Json& got);
[[noreturn]] void unknown_key(const std::string& path,
                              const std::string& key,
                              const std::vector<std::string>& known);

template <typename T>
void read_value(const Json& json, T& value, const std::string& path, const FieldRule& rule);

template <typename T>
void read_object(const Json& json, T& value, const std::string& path) {
  if (!json.is_object()) wrong_type(path, "object", json);
  std::vector<std::string> known;
  // Names first, so that an unknown key is reported before a missing or mistyped one it may explain.
  value.visit_fields([&](const char* name, auto&, const char*, const FieldRule& = {}) {
    known.emplace_back(name);
  });
  for (auto item = json.begin(); item != json.end(); ++item) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      unknown_key(path, item.key(), known);
    }
  }
  value.visit_fields([&](const char* name, auto& field, const char*, const FieldRule& rule = {}) {
    const auto item = json.find(name);
    if (item == json.end()) {
      PV_CHECK(!rule.required, "{}: the field \"{}\" is required", path, name);
      return;
    }
    read_value(*item, field, path + "." + name, rule);
  });
  if constexpr (Validated<T>) value.validate(path);
}

template <typename T>
void read_value(const Json& json, T& value, const std::string& path, const FieldRule& rule) {
  if constexpr (IsOptional<T>::value) {
    if (json.is_null()) {
      value.reset();
    } else {
      value.emplace();
      read_value(json, *value, path, rule);
    }
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean()) wrong_type(path, "true or false", json);
    value = json.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (!json.is_number_integer()) wrong_type(path, "integer", json);
    PV_CHECK(!json.is_number_unsigned() ||
                 json.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()},
             "{}: {} is out of range",
             path,
             shown(json));
    const auto number = json.get<std::int64_t>();
    PV_CHECK(number >= static_cast<std::int64_t>(std::numeric_limits<T>::min()) &&
                 (sizeof(T) == 8 || number <= static_cast<std::int64_t>(std::numeric_limits<T>::max())),
             "{}: {} is out of range",
             path,
             shown(json));
    check_number(path, static_cast<double>(number), rule);
    value = static_cast<T>(number);
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!json.is_number()) wrong_type(path, "number", json);
    check_number(path, json.get<double>(), rule);
    value = json.get<T>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!json.is_string()) wrong_type(path, "string", json);
    check_choice(path, json.get<std::string>(), rule);
    value = json.get<std::string>();
  } else if constexpr (std::is_same_v<T, Json>) {
    value = json;
  } else if constexpr (IsVector<T>::value) {
    if (!json.is_array()) wrong_type(path, type_name<T>(), json);
    value.clear();
    for (std::size_t i = 0; i < json.size(); ++i) {
      typename T::value_type element{};
      read_value(json[i], element, fmt::format("{}[{}]", path, i), rule);
      value.push_back(std::move(element));
    }
  } else if constexpr (IsMap<T>::value) {
    if (!json.is_object()) wrong_type(path, "object", json);
    value.clear();
    for (auto item = json.begin(); item != json.end(); ++item) {
      read_value(*item, value[item.key()], path + "." + item.key(), rule);
    }
  } else {
    read_object(json, value, path);
  }
}

template <typename T>
Json write_value(T& value) {
  if constexpr (IsOptional<T>::value) {
    return value ? write_value(*value) : Json(nullptr);
  } else if constexpr (IsVector<T>::value) {
    Json list = Json::array();
    for (std::size_t i = 0; i < value.size(); ++i) {
      if constexpr (std::is_same_v<typename T::value_type, bool>) list.push_back(bool{value[i]});
      else list.push_back(write_value(value[i]));
    }
    return list;
  } else if constexpr (IsMap<T>::value) {
    Json object = Json::object();
    for (auto& [name, element] : value) object[name] = write_value(element);
    return object;
  } else if constexpr (Visitable<T>) {
    Json object = Json::object();
    value.visit_fields([&](const char* name, auto& field, const char*, const FieldRule& = {}) {
      object[name] = write_value(field);
    });
    return object;
  } else {
    return Json(value);
  }
}

std::string rule_text(const FieldRule& rule);

template <typename T>
void explain_fields(T& value, const std::string& path, std::string& out) {
  value.visit_fields([&](const char* name, auto& field, const char* meaning, const FieldRule& rule = {}) {
    using Field = std::remove_cvref_t<decltype(field)>;
    const std::string here = path.empty() ? name : path + "." + name;
    if constexpr (Visitable<Field>) {
      out += fmt::format("{}\n    {}\n", here, meaning);
      explain_fields(field, here, out);
    } else {
      std::string text = write_value(field).dump();
      if (text.size() > 100) text = text.substr(0, 97) + "...";
      out += fmt::format("{} = {}\n    {} ({}{})\n", here, text, meaning, type_name<Field>(), rule_text(rule));
      if constexpr (IsVector<Field>::value) {
        if constexpr (Visitable<typename Field::value_type>) {
          typename Field::value_type element{};
          explain_fields(element, here + "[]", out);
        }
      }
      if constexpr (IsOptional<Field>::value) {
        if constexpr (Visitable<typename Field::value_type>) {
          typename Field::value_type element{};
          explain_fields(field ? *field : element, here, out);
        }
      }
    }
  });
}

}  // namespace config_detail

/// Reads a struct from JSON; `where` (the file) starts the path in every error.
template <typename T>
T read_config(const Json& json, const std::string& where) {
  T value{};
  config_detail::read_object(json, value, where);
  return value;
}

/// Reads a config file, with `--set` assignments applied first.
template <typename T>
T load_config(const std::string& path, const std::vector<std::string>& overrides = {}) {
  Json json = read_json(path);
  for (const std::string& assignment : overrides) apply_override(json, assignment);
  return read_config<T>(json, path);
}

/// Every field with its value in effect, for writing beside results.
template <typename T>
Json config_to_json(const T& value) {
  return config_detail::write_value(const_cast<T&>(value));
}

/// Every field with its value, meaning, type and range, one after the other.
template <typename T>
std::string explain_config(const T& value) {
  std::string out;
  config_detail::explain_fields(const_cast<T&>(value), "", out);
  return out;
}

}  // namespace pocketvlm
