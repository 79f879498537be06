#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "base/random.h"
#include "data/packed_batch.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

/// A model of a few thousand parameters with everything on: grouped keys, biases, slices, untied output.
ModelConfig tiny_config();

/// The same with CLIP-like towers: class token, fixed positions, LDPv2.
ModelConfig tiny_clip_config();

/// A chat of random ids and pixels. `grids`: slices, in patches.
EncodedChat random_chat(const ModelConfig& config,
                        Random& random,
                        int64_t text_tokens,
                        const std::vector<std::array<int, 2>>& grids);

/// Random chats as one pack, every sample with a weight of its own.
EncodedSample as_sample(EncodedChat chat, float weight);
PackedBatch pack(const std::vector<EncodedSample>& samples);

/// Random weights of order one in place of the small initial ones, so that every parameter matters.
void scatter_weights(torch::nn::Module& model, uint64_t seed);

/// Largest difference, relative to the largest magnitude of `expected`.
double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected);

/// The text of the Error that `action` throws; fails the test when it throws none.
std::string error_of(const std::function<void()>& action);

}  // namespace pocketvlm
