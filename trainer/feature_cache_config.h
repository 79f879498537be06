#pragma once

#include <cstdint>

#include "base/config.h"

namespace pocketvlm {

/// LibTorch-free.
struct FeatureCacheConfig {
  int64_t megabytes = 0;

  void visit_fields(auto&& field) {
    field("megabytes",
          megabytes,
          "memory of each rank for features of picture slices, when the vision encoder is frozen; 0: off. A slice's features are kept "
          "until others push out those not seen for longest, so the cache pays when the slices of an epoch fit: rows x columns of "
          "patches x vision hidden x 2 bytes (bf16) each. Slices are then encoded one by one, so that a slice has the same features "
          "whatever is cached and resumed runs end with the same bits; those of a stage without a cache differ in last places. "
          "Not under full sharding",
          in_range(0, 1e9));
  }
};

}  // namespace pocketvlm
