#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "exporter/calibration.h"
#include "exporter/export.h"
#include "exporter/export_config.h"
#include "model/checkpoint.h"

namespace pocketvlm {

/// Compares phone runtime and trainer on the same pictures and prompts. The trainer computes in float32; where its weights are held
/// in bfloat16, its answers alone are chosen by products in bfloat16 ("trainer_dtype" says which), since each product in float32
/// would convert its weights again for every token:
///   tokens_equal     the prompts have the same ids, and visual tokens the same places
///   pixels_equal     the preprocessed patches and slice grids are byte-equal
///   vision_cosine    smallest cosine of a visual token; -1 where it is no number, null where no prompt has a picture
///   agreement        share of equal next-token choices under teacher forcing; logits that are no numbers agree with nothing
///   greedy_identical prompts whose whole greedy answer is the same (reported only)
///   kl               mean KL(trainer || phone) per position, nats (reported only; null where it is no number)
///   sliced_prompts   prompts with a picture of more than one slice
/// "passed" is whether the first four are within `bounds`. When not, "first_difference" is the first place that is out of bounds:
/// {"prompt", "stage": tokens | patches | visual tokens | decoder position, "place", and for the last two "layer": the block that differs
/// (block_errors.h)}; otherwise it is null. "allowed_differences" are decoder positions that differ though the share is within the bound.
/// Does not throw for a failed gate; the caller decides.
Json check_parity(LoadedModel& trainer,
                  const ExportedFiles& files,
                  const std::string& type,
                  const std::vector<ParityPrompt>& prompts,
                  const ExportConfig& bounds);

/// A failed report in one line: which figures are beyond their bounds, and where first.
std::string explain_failure(const Json& parity);

}  // namespace pocketvlm
