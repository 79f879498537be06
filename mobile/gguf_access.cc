#include <fmt/ranges.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "mobile/block_formats.h"
#include "mobile/gguf.h"

namespace pocketvlm {
namespace {

// Scales and float tensors must be finite; levels always are.
bool all_finite(const GgufTensor& tensor) {
  const std::byte* data = tensor.bytes.data();
  const auto halves_finite = [&](std::size_t stride, std::size_t field, int count) {
    for (std::size_t at = 0; at < tensor.bytes.size(); at += stride) {
      for (int k = 0; k < count; ++k) {
        std::uint16_t half;
        std::memcpy(&half, data + at + field + 2 * static_cast<std::size_t>(k), 2);
        if ((half & 0x7C00U) == 0x7C00U) return false;
      }
    }
    return true;
  };
  switch (tensor.type) {
    case GgmlType::kF32:
      for (std::size_t at = 0; at < tensor.bytes.size(); at += 4) {
        float value;
        std::memcpy(&value, data + at, 4);
        if (!std::isfinite(value)) return false;
      }
      return true;
    case GgmlType::kBF16:
      for (std::size_t at = 0; at < tensor.bytes.size(); at += 2) {
        std::uint16_t bits;
        std::memcpy(&bits, data + at, 2);
        if ((bits & 0x7F80U) == 0x7F80U) return false;
      }
      return true;
    case GgmlType::kF16:
      return halves_finite(2, 0, 1);
    case GgmlType::kQ8_0:
      return halves_finite(sizeof(BlockQ8_0), 0, 1);
    case GgmlType::kQ4_0:
      return halves_finite(sizeof(BlockQ4_0), 0, 1);
    case GgmlType::kQ5_0:
      return halves_finite(sizeof(BlockQ5_0), 0, 1);
    case GgmlType::kQ4_1:
      return halves_finite(sizeof(BlockQ4_1), 0, 2);
    case GgmlType::kQ5_1:
      return halves_finite(sizeof(BlockQ5_1), 0, 2);
    case GgmlType::kQ4_K:
      return halves_finite(sizeof(BlockQ4_K), 0, 2);
    case GgmlType::kQ5_K:
      return halves_finite(sizeof(BlockQ5_K), 0, 2);
    case GgmlType::kQ6_K:
      return halves_finite(sizeof(BlockQ6_K), offsetof(BlockQ6_K, d), 1);
    default:
      return true;  // other types hold no floats that are read here
  }
}

}  // namespace

const GgufValue& GgufFile::require(const std::string& key, const char* wanted) const {
  const auto found = key_index_.find(key);
  PV_CHECK(found != key_index_.end(),
           "{}: the metadata key \"{}\" ({}) is missing",
           path(),
           key,
           wanted);
  return metadata_[found->second].second;
}

std::int64_t GgufFile::get_int(const std::string& key, std::int64_t low, std::int64_t high) const {
  const GgufValue& value = require(key, "integer");
  PV_CHECK(is_gguf_integer(value.type),
           "{}: \"{}\" must be an integer, but is {}",
           path(),
           key,
           gguf_value_type_name(value.type));
  const std::int64_t number = std::get<std::int64_t>(value.value);
  PV_CHECK(number >= low && number <= high,
           "{}: \"{}\" is {}, but must lie in {} .. {}",
           path(),
           key,
           number,
           low,
           high);
  return number;
}

double GgufFile::get_float(const std::string& key) const {
  const GgufValue& value = require(key, "number");
  if (is_gguf_integer(value.type)) return static_cast<double>(std::get<std::int64_t>(value.value));
  PV_CHECK(is_gguf_float(value.type),
           "{}: \"{}\" must be a number, but is {}",
           path(),
           key,
           gguf_value_type_name(value.type));
  const double number = std::get<double>(value.value);
  PV_CHECK(std::isfinite(number), "{}: \"{}\" is not a finite number", path(), key);
  return number;
}

bool GgufFile::get_bool(const std::string& key) const {
  const GgufValue& value = require(key, "boolean");
  PV_CHECK(value.type == GgufValueType::kBool,
           "{}: \"{}\" must be a boolean, but is {}",
           path(),
           key,
           gguf_value_type_name(value.type));
  return std::get<bool>(value.value);
}

const std::string& GgufFile::get_string(const std::string& key) const {
  const GgufValue& value = require(key, "string");
  PV_CHECK(value.type == GgufValueType::kString,
           "{}: \"{}\" must be a string, but is {}",
           path(),
           key,
           gguf_value_type_name(value.type));
  return std::get<std::string>(value.value);
}

const GgufArray& GgufFile::get_array(const std::string& key) const {
  const GgufValue& value = require(key, "list");
  PV_CHECK(value.type == GgufValueType::kArray,
           "{}: \"{}\" must be a list, but is {}",
           path(),
           key,
           gguf_value_type_name(value.type));
  return std::get<GgufArray>(value.value);
}

std::int64_t GgufFile::get_int_or(const std::string& key,
                                  std::int64_t fallback,
                                  std::int64_t low,
                                  std::int64_t high) const {
  return has(key) ? get_int(key, low, high) : fallback;
}

double GgufFile::get_float_or(const std::string& key, double fallback) const {
  return has(key) ? get_float(key) : fallback;
}

bool GgufFile::get_bool_or(const std::string& key, bool fallback) const {
  return has(key) ? get_bool(key) : fallback;
}

std::string GgufFile::get_string_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? get_string(key) : fallback;
}

std::vector<double> GgufFile::get_floats(const std::string& key) const {
  const GgufArray& array = get_array(key);
  const auto* values = std::get_if<std::vector<double>>(&array.values);
  PV_CHECK(values != nullptr,
           "{}: \"{}\" must be a list of numbers, but holds {}",
           path(),
           key,
           gguf_value_type_name(array.element_type));
  return *values;
}

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufFile::tensor(const std::string& name) const {
  const GgufTensor* found = find(name);
  PV_CHECK(found != nullptr,
           "{}: the tensor \"{}\" is missing; is this the right kind of model file?",
           path(),
           name);
  return *found;
}

const GgufTensor& GgufFile::tensor(const std::string& name,
                                   const std::vector<std::int64_t>& ne) const {
  const GgufTensor& found = tensor(name);
  PV_CHECK(found.ne == ne,
           "{}: the tensor \"{}\" has the sizes [{}], but the metadata ask for [{}]",
           path(),
           name,
           fmt::join(found.ne, ", "),
           fmt::join(ne, ", "));
  return found;
}

void GgufFile::check_finite() const {
  for (const GgufTensor& tensor : tensors_) {
    PV_CHECK(all_finite(tensor),
             "{}: the tensor \"{}\" ({}) holds NaN or infinity; the file is damaged or the "
             "training diverged",
             path(),
             gguf_shown(tensor.name),
             type_info(tensor.type).name);
    file_.release(static_cast<std::size_t>(tensor.bytes.data() - file_.data()),
                  tensor.bytes.size());
  }
}

}  // namespace pocketvlm
