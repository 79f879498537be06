#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "exporter/export.h"
#include "exporter/export_config.h"
#include "model/checkpoint.h"

namespace pocketvlm {

/// One calibration prompt: what is asked about which picture. The answer that both are led through is the trainer's own
/// greedy one.
struct ParityPrompt {
  Chat chat;
};

/// Pictures of the embedded world to compare on when the user names none, from number `first` on.
std::vector<ParityPrompt> calibration_prompts(std::int64_t count, const std::string& question, std::int64_t first = 0);

std::vector<Chat> chats_of(const std::vector<ParityPrompt>& prompts);
inline constexpr const char* kScenesDataset = "scenes of the embedded world";

/// Compares phone runtime and trainer on the same pictures and prompts (float32 trainer):
///   pixels_equal     the preprocessed patches are byte-equal
///   vision_cosine    smallest cosine of a visual token
///   agreement        share of equal next-token choices under teacher forcing
///   greedy_identical prompts whose whole greedy answer is the same
///   kl               mean KL(trainer || phone) per position, nats
/// Returns these figures with "passed" and, when it did not, "first_difference": the first place (patches, visual tokens, a decoder
/// position) that is out of bounds. Does not throw for a failed gate; the caller decides.
Json check_parity(LoadedModel& trainer,
                  const ExportedFiles& files,
                  const std::string& type,
                  const std::vector<ParityPrompt>& prompts,
                  const ExportConfig& bounds);

}  // namespace pocketvlm
