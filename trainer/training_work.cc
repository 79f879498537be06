#include "trainer/training_work.h"

namespace pocketvlm {
namespace {

/// Operations of one forward, split by whether weights take part: attention scores have none.
struct Work {
  double weights = 0, scores = 0;
  /// scores are products of two tensors that both need gradients: their backward costs two forwards.
  double step(bool inputs_need_gradients, bool learns) const {
    const bool backward = inputs_need_gradients || learns;
    return weights * (1 + (inputs_need_gradients ? 1 : 0) + (learns ? 1 : 0)) + scores * (backward ? 3 : 1);
  }
};

Work vision_work(const ModelConfig& config, const PackShape& shape) {
  const VisionConfig& vision = config.vision;
  const auto v = static_cast<double>(vision.hidden), ffn = static_cast<double>(vision.ffn);
  const auto patches = static_cast<double>(shape.patches), layers = static_cast<double>(vision.num_layers);
  const double embedding = 3.0 * static_cast<double>(config.image.patch_size * config.image.patch_size) * v;
  return {2 * patches * (embedding + layers * (4 * v * v + 2 * v * ffn)), 4 * layers * v * shape.squared_slices};
}

Work projector_work(const ModelConfig& config, const PackShape& shape) {
  const auto v = static_cast<double>(config.vision.hidden), h = static_cast<double>(config.language.hidden);
  const auto patches = static_cast<double>(shape.patches);
  const double queries = static_cast<double>(config.projector.num_queries * shape.slices);
  if (config.projector.kind == "resampler") {
    return {2 * patches * (v * h + 2 * h * h) + 2 * queries * 3 * h * h,
            4 * h * patches * static_cast<double>(config.projector.num_queries)};
  }
  const double convolutions = config.projector.kind == "ldp" ? 2 * (patches + queries) * h * h : 0;
  return {2 * patches * (v * h + h * h) + convolutions, 0};
}

Work language_work(const LanguageConfig& language, const PackShape& shape) {
  const auto h = static_cast<double>(language.hidden), heads = static_cast<double>(language.num_heads * language.head_dim);
  const auto kv = static_cast<double>(language.num_kv_heads * language.head_dim);
  const auto layers = static_cast<double>(language.num_layers);
  const double block = 2 * h * heads + 2 * h * kv + 3 * h * static_cast<double>(language.ffn);
  return {2 * static_cast<double>(shape.tokens) * layers * block +
              2 * static_cast<double>(shape.targets) * h * static_cast<double>(language.vocab),
          2 * layers * heads * shape.squared_segments};
}

}  // namespace

LearningComponents LearningComponents::of(const std::vector<std::string>& trainable, const std::vector<std::string>& updated) {
  LearningComponents learning;
  const auto can_match = [](const std::string& pattern, const std::string& component) {
    const std::string fixed = pattern.substr(0, pattern.find('*'));
    return fixed.size() <= component.size() ? component.rfind(fixed, 0) == 0 : fixed.rfind(component + ".", 0) == 0;
  };
  for (const std::string& pattern : trainable) {
    learning.vision_encoder = learning.vision_encoder || can_match(pattern, "vision_encoder");
    learning.projector = learning.projector || can_match(pattern, "projector");
    learning.language = learning.language || can_match(pattern, "language");
  }
  for (const std::string& pattern : updated) {
    learning.vision_encoder_updates = learning.vision_encoder_updates || can_match(pattern, "vision_encoder");
    learning.projector_updates = learning.projector_updates || can_match(pattern, "projector");
    learning.language_updates = learning.language_updates || can_match(pattern, "language");
  }
  return learning;
}

void PackShape::add(const std::vector<int64_t>& segment_lengths,
                    int64_t num_targets,
                    const std::vector<std::array<int64_t, 2>>& grids) {
  targets += num_targets;
  for (const int64_t length : segment_lengths) {
    tokens += length;
    squared_segments += static_cast<double>(length) * static_cast<double>(length);
  }
  for (const auto& grid : grids) {
    const int64_t count = grid[0] * grid[1];
    patches += count;
    ++slices;
    squared_slices += static_cast<double>(count) * static_cast<double>(count);
  }
}

double training_operations(const ModelConfig& config, const LearningComponents& learning, const PackShape& shape) {
  // Gradients of inputs pass through what learns or carries updates, and through all behind it.
  const bool in_vision = learning.vision_encoder || learning.vision_encoder_updates;
  const bool in_projector = in_vision || learning.projector_updates;
  const bool in_language = in_projector || learning.projector || learning.language || learning.language_updates;
  return vision_work(config, shape).step(in_vision, learning.vision_encoder) +
         projector_work(config, shape).step(in_projector, learning.projector) +
         language_work(config.language, shape).step(in_language, learning.language);
}

}  // namespace pocketvlm
