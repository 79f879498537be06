#pragma once

#include <cstdint>
#include <vector>

namespace pocketvlm {

/// Row of the side x side position table for each of `count` patches along one axis, as SigLIP-NaViT (MiniCPM-V 2.5 and 2.6)
/// finds it: the number of boundaries i / side at or below the patch's coordinate k / count, over float32 ranges made by
/// adding up a float32 step. That is floor(side * k / count), and one less where the two ranges meet and rounding puts the
/// coordinate below the boundary. Which of those ties go down depends on how the range is computed: this is torch.arange on
/// x86 processors with AVX2, which the released weights were trained and are run with; multiplying k by the step, as
/// transformers 5 does, gives other rows at 49, 58 and many more counts. On every machine the same.
std::vector<std::int64_t> position_buckets(std::int64_t count, std::int64_t side);

}  // namespace pocketvlm
