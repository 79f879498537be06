#include "trainer/stage_config.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

constexpr const char* kVisionEncoder = "vision_encoder";

bool has_pictures(const SourceConfig& source) {
  if (source.weight <= 0 || source.kind == "text") return false;
  if (source.kind != "scenes") return true;
  return std::any_of(source.scenes.tasks.begin(), source.scenes.tasks.end(), [](const auto& task) {
    return task.first != "text" && task.second > 0;
  });
}

bool is_text_only(const SourceConfig& source) { return source.weight > 0 && !has_pictures(source); }

/// Whether the pattern can only match names of the vision encoder.
bool is_vision_pattern(const std::string& pattern) { return pattern.rfind(kVisionEncoder, 0) == 0; }

void validate_contrastive(const StageConfig& config, const std::string& path) {
  for (std::size_t i = 0; i < config.trainable.size(); ++i) {
    PV_CHECK(is_vision_pattern(config.trainable[i]),
             "{}.trainable[{}]: \"{}\" has no effect: the contrastive objective trains the vision "
             "encoder alone; "
             "write [\"vision_encoder.*\"]",
             path,
             i,
             config.trainable[i]);
  }
  for (std::size_t i = 0; i < config.data.sources.size(); ++i) {
    PV_CHECK(!is_text_only(config.data.sources[i]),
             "{}.data.sources[{}]: text without pictures cannot be used by the contrastive "
             "objective; remove it",
             path,
             i);
  }
}

void validate_language(const StageConfig& config, const std::string& path) {
  const auto& sources = config.data.sources;
  if (std::any_of(sources.begin(), sources.end(), has_pictures)) return;
  for (std::size_t i = 0; i < config.trainable.size(); ++i) {
    PV_CHECK(config.trainable[i].rfind("language", 0) == 0,
             "{}.trainable[{}]: \"{}\" would train parts that see no data: no source has pictures; "
             "write "
             "[\"language.*\"]",
             path,
             i,
             config.trainable[i]);
  }
}

}  // namespace

void OptimizerConfig::validate(const std::string& path) const {
  for (const auto& [pattern, factor] : learning_rate_factors) {
    PV_CHECK(!pattern.empty(), "{}.learning_rate_factors: a name pattern is empty", path);
    PV_CHECK(std::isfinite(factor) && factor >= 0,
             "{}.learning_rate_factors.{}: {} is out of range (must be at least 0)",
             path,
             pattern,
             factor);
  }
}

void StageConfig::validate(const std::string& path) const {
  PV_CHECK(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos,
           "{}.name: \"{}\" cannot name a folder; use letters, digits, - and _",
           path,
           name);
  PV_CHECK(!data.sources.empty(), "{}.data.sources: no source of data; give at least one", path);
  PV_CHECK(!trainable.empty() || lora,
           "{}.trainable: no pattern, so nothing would learn; e.g. [\"projector.*\"]",
           path);
  PV_CHECK(!lora || objective == "language", "{}.lora: no effect on the contrastive objective; remove it", path);
  for (std::size_t i = 0; i < trainable.size(); ++i) {
    PV_CHECK(!trainable[i].empty(), "{}.trainable[{}]: the pattern is empty", path, i);
  }
  PV_CHECK(
      optimizer.warmup_steps <= steps,
      "{}.optimizer.warmup_steps: {} steps of warm-up exceed the {} steps of the stage; lower it",
      path,
      optimizer.warmup_steps,
      steps);
  PV_CHECK(feature_cache.megabytes == 0 || objective == "language",
           "{}.feature_cache: no effect on the contrastive objective, which trains the vision encoder; remove it",
           path);
  PV_CHECK(feature_cache.megabytes == 0 || distributed.sharding != "full",
           "{}.feature_cache: ranks under full sharding must run the same blocks, and what is cached differs; set "
           "distributed.sharding to \"optimizer\" or \"replicated\"",
           path);
  PV_CHECK(!trace || trace->last_step() <= steps,
           "{}.trace: steps {} to {} are to be recorded, but the stage has {}; lower first_step",
           path,
           trace->first_step,
           trace->last_step(),
           steps);
  if (objective == "contrastive") {
    validate_contrastive(*this, path);
  } else {
    validate_language(*this, path);
  }
}

ImageConfig stage_image(const StageInput& input, ImageConfig image) {
  if (input.image_mode) image.mode = *input.image_mode;
  const bool slices = image.mode == "slices";
  PV_CHECK(slices || (!input.scale_resolution && !input.max_slices),
           "input: scale_resolution and max_slices have no effect with image mode \"{}\"; remove "
           "them, or set "
           "input.image_mode to \"slices\"",
           image.mode);
  PV_CHECK(
      !slices || !input.image_size,
      "input.image_size: no effect with image mode \"slices\"; set input.scale_resolution instead");
  if (input.image_size) image.image_size = *input.image_size;
  if (input.scale_resolution) image.scale_resolution = *input.scale_resolution;
  if (input.max_slices) image.max_slices = *input.max_slices;
  image.validate("input");
  return image;
}

PromptConfig stage_prompt(const StageInput& input, PromptConfig prompt) {
  if (input.chat_template) prompt.chat_template = *input.chat_template;
  return prompt;
}

}  // namespace pocketvlm
