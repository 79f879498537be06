#include "tests/model/model_testing.h"

#include <functional>

#include "base/error.h"

namespace pocketvlm {

ModelConfig tiny_config() {
  ModelConfig config;
  config.vision.hidden = 24;
  config.vision.num_layers = 2;
  config.vision.num_heads = 2;
  config.vision.ffn = 40;
  config.vision.position_side = 6;
  config.projector.num_queries = 5;
  config.projector.num_heads = 4;
  config.language.vocab = 300;
  config.language.hidden = 32;
  config.language.num_layers = 2;
  config.language.num_heads = 4;
  config.language.num_kv_heads = 2;
  config.language.head_dim = 8;
  config.language.ffn = 40;
  config.language.max_positions = 256;
  config.language.qkv_bias = true;
  config.language.tied_embeddings = false;
  config.image.patch_size = 4;
  config.image.scale_resolution = 24;
  config.image.image_size = 24;
  config.prompt.num_queries = config.projector.num_queries;
  return config;
}

ModelConfig tiny_clip_config() {
  ModelConfig config = tiny_config();
  config.family = "mobilevlm-v2";
  config.vision.activation = "quick_gelu";
  config.vision.norm_eps = 1e-5;
  config.vision.patch_bias = false;
  config.vision.class_token = true;
  config.vision.pre_norm = true;
  config.vision.final_norm = false;
  config.vision.positions = "fixed";
  config.projector.kind = "ldpv2";
  config.projector.num_queries = 9;
  config.prompt.num_queries = 9;
  config.prompt.image_layout = "bare";
  config.prompt.chat_template = "vicuna_v1";
  config.image.mode = "pad_square";
  config.language.qkv_bias = false;
  config.language.tied_embeddings = true;
  return config;
}

EncodedChat random_chat(const ModelConfig& config,
                        Random& random,
                        int64_t text_tokens,
                        const std::vector<std::array<int, 2>>& grids) {
  EncodedChat chat;
  const auto add_text = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      chat.ids.push_back(static_cast<std::int32_t>(random.between(3, config.language.vocab - 1)));
      chat.is_target.push_back(i > 0 && random.chance(0.8) ? 1 : 0);
    }
  };
  add_text(text_tokens / 2);
  for (const auto& grid : grids) {
    for (int64_t i = 0; i < config.projector.num_queries; ++i) {
      chat.visual_positions.push_back(static_cast<std::int32_t>(chat.ids.size()));
      chat.ids.push_back(0);
      chat.is_target.push_back(0);
    }
    chat.grids.push_back(grid);
    const int64_t values = int64_t{grid[0]} * grid[1] * 3 * config.image.patch_size * config.image.patch_size;
    for (int64_t i = 0; i < values; ++i) chat.patches.push_back(static_cast<float>(random.normal()));
  }
  add_text(text_tokens - text_tokens / 2);
  return chat;
}

EncodedSample as_sample(EncodedChat chat, float weight) {
  EncodedSample sample;
  sample.chat = std::move(chat);
  sample.weight = weight;
  return sample;
}

PackedBatch pack(const std::vector<EncodedSample>& samples) {
  PackedBatch batch;
  for (const EncodedSample& sample : samples) append_sample(sample, batch);
  return batch;
}

void scatter_weights(torch::nn::Module& model, uint64_t seed) {
  torch::NoGradGuard no_grad;
  Random random({seed, 77});
  for (auto& item : model.named_parameters()) {
    torch::Tensor parameter = item.value();
    const bool is_scale = parameter.dim() == 1 && item.key().ends_with("weight");
    const double deviation = parameter.dim() == 1 ? 0.2 : 1.0 / std::sqrt(static_cast<double>(parameter.size(1)));
    float* values = parameter.data_ptr<float>();
    for (int64_t i = 0; i < parameter.numel(); ++i) {
      values[i] = static_cast<float>((is_scale ? 1.0 : 0.0) + deviation * random.normal());
    }
  }
}

double relative_difference(const torch::Tensor& actual, const torch::Tensor& expected) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  if (actual.numel() == 0) return 0.0;
  const torch::Tensor reference = expected.detach().to(torch::kFloat64);
  const double size = std::max(reference.abs().max().item<double>(), 1e-12);
  const double difference = (actual.detach().to(torch::kFloat64) - reference).abs().max().item<double>() / size;
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

}  // namespace pocketvlm
