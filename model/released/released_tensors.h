#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/released/released_model.h"

namespace pocketvlm {

/// What a tensor of a released checkpoint is for.
enum class ReleasedUse {
  kWeight,     // read by the model: `parts` says under which of our names
  kUnused,     // stored but never run (a skipped block): kept as it is
  kPositions,  // the fixed 2-D sin-cos table of the queries: a buffer of the model, in the rounding of the release
  kBuffer,     // a constant that some versions of the libraries store and some do not: kept when there
};

/// One of our tensors inside a released one.
struct TensorPart {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// One tensor of a released checkpoint. Its bytes are those of `parts`, one after the other: fused query-key-value matrices hold
/// three of ours, convolution kernels hold one of another shape, and every other weight is one of ours under another name.
struct ReleasedTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // empty for kBuffer: any
  ReleasedUse use = ReleasedUse::kWeight;
  std::vector<TensorPart> parts;
};

/// The one table of names, both ways: every tensor that a released checkpoint of this model holds, in the release's order of
/// modules. Every parameter of our model is a part of exactly one of them.
std::vector<ReleasedTensor> released_tensors(const ReleasedModel& model);

/// Parameters of the released checkpoint by component (vision tower, projector, language model), also those that never run.
ParameterCounts count_released_parameters(const ReleasedModel& model);

}  // namespace pocketvlm
