#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// One calibration prompt: what is asked about which pictures. The answer that trainer and phone are led through is the trainer's
/// own greedy one.
struct ParityPrompt {
  Chat chat;
};

/// Prompts of the embedded world for when the user names none, from number `first` on; number i is a function of i and the configs
/// alone. Pictures are half as large as one slice (not cut), 1.5 x 2.5, 3 x 1 and 1 x 1 of it in turn; every fourth prompt has a second
/// question, every eighth no picture (chat_template "plain" takes neither). `question` empty: several in turn.
std::vector<ParityPrompt> calibration_prompts(const ImageConfig& image,
                                              const PromptConfig& prompt,
                                              std::int64_t count,
                                              const std::string& question,
                                              std::int64_t first = 0);

/// Small pictures of the embedded world, 112 to 224 pixels a side.
std::vector<Image> calibration_pictures(std::int64_t count);

std::vector<Chat> chats_of(const std::vector<ParityPrompt>& prompts);
inline constexpr const char* kScenesDataset = "scenes of the embedded world";

}  // namespace pocketvlm
