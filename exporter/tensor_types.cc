#include "exporter/tensor_types.h"

#include <map>

#include "base/config.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

struct FileType {
  GgmlType base;
  std::uint32_t number;
};

const FileType& file_type(const std::string& type) {
  static const std::map<std::string, FileType> kTypes = {
      {"f32", {GgmlType::kF32, 0}},    {"f16", {GgmlType::kF16, 1}},     {"q4_0", {GgmlType::kQ4_0, 2}},
      {"q8_0", {GgmlType::kQ8_0, 7}},  {"q4_k_m", {GgmlType::kQ4_K, 15}}, {"q6_k", {GgmlType::kQ6_K, 18}}};
  const auto found = kTypes.find(type);
  if (found == kTypes.end()) {
    std::vector<std::string> names;
    for (const auto& [name, value] : kTypes) names.push_back(name);
    const auto close = closest_name(type, names);
    fail("export: unknown type \"{}\"{}", type,
         close ? fmt::format(", did you mean \"{}\"?", *close) : fmt::format("; types: {}", fmt::join(names, ", ")));
  }
  return found->second;
}

}  // namespace

TypePlan::TypePlan(const std::string& type, std::int64_t num_layers)
    : base_(file_type(type).base), mixed_(type == "q4_k_m"), num_layers_(num_layers) {}

GgmlType TypePlan::type_of(MatrixRole role, std::int64_t layer) const {
  const bool below_q8 = base_ == GgmlType::kQ4_0 || base_ == GgmlType::kQ4_K || base_ == GgmlType::kQ6_K;
  if (role == MatrixRole::kOutput && below_q8) return GgmlType::kQ6_K;
  if (mixed_ && (role == MatrixRole::kAttentionValue || role == MatrixRole::kFeedForwardDown)) {
    const std::int64_t eighth = num_layers_ / 8;
    const bool more = layer < eighth || layer >= 7 * num_layers_ / 8 || (layer - eighth) % 3 == 2;
    if (more) return GgmlType::kQ6_K;
  }
  return base_;
}

GgmlType fitting_type(GgmlType type, std::int64_t row_length) {
  if (row_length % type_info(type).block == 0) return type;
  if (row_length % 32 != 0) return GgmlType::kF16;
  switch (type) {
    case GgmlType::kQ4_K: return GgmlType::kQ5_0;
    case GgmlType::kQ5_K: return GgmlType::kQ5_1;
    case GgmlType::kQ6_K: return GgmlType::kQ8_0;
    default: return GgmlType::kF16;
  }
}

bool uses_importance(const std::string& type) { return type == "q4_0" || type == "q4_k_m" || type == "q6_k"; }

std::uint32_t file_type_number(const std::string& type) { return file_type(type).number; }

}  // namespace pocketvlm
