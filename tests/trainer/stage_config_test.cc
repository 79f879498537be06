#include "trainer/stage_config.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "tiny_stage.h"

namespace pocketvlm {
namespace {

constexpr const char* kPictures = R"({"sources": [{"kind": "scenes"}]})";
constexpr const char* kText =
    R"({"sources": [{"kind": "scenes", "scenes": {"tasks": {"text": 1}}}]})";

std::string stage(const std::string& data, const std::string& more) {
  return R"({"name": "s", "data": )" + data + (more.empty() ? "" : ", " + more) + "}";
}

std::string error_for(const std::string& json) {
  return test::error_of(
      [&] { read_config<StageConfig>(parse_json(json, "stage.json"), "stage.json"); });
}

TEST(StageConfig, AcceptsTheUsualStages) {
  EXPECT_EQ(error_for(stage(kPictures, "")), "");
  EXPECT_EQ(error_for(stage(kPictures, R"("trainable": ["projector.*"])")), "");
  EXPECT_EQ(error_for(stage(kText, R"("trainable": ["language.*"])")), "");
  EXPECT_EQ(error_for(stage(kPictures,
                            R"("objective": "contrastive", "trainable": ["vision_encoder.*"])")),
            "");
}

TEST(StageConfig, AnswersMistakesWithPathAndCure) {
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {R"({"data": {"sources": []}})", "\"name\" is required"},
      {R"({"name": "s"})", "stage.json.data.sources"},
      {R"({"name": "s", "data": {"sources": []}})", "stage.json.data.sources"},
      {R"({"name": "a/b", "data": {"sources": [{}]}})", "stage.json.name: \"a/b\""},
      {stage(kPictures, R"("steps": 0)"), "stage.json.steps: 0 is out of range"},
      {stage(kPictures, R"("trainable": [])"), "stage.json.trainable: no pattern"},
      {stage(kPictures, R"("trainable": ["projector.*", ""])"), "stage.json.trainable[1]"},
      {stage(kPictures, R"("steps": 10)"), "20 steps of warm-up exceed the 10 steps"},
      {stage(kPictures, R"("optimizer": {"learning_rate_factors": {"language.*": -1}})"),
       "language.*: -1 is out of range"},
      {stage(kPictures, R"("optimizer": {"schedule": "cosin"})"), "did you mean \"cosine\""},
      {stage(kPictures, R"("optimizer": {"learning_rat": 1})"), "did you mean \"learning_rate\""},
      {stage(kPictures, R"("objective": "contrastive")"), "trainable[0]: \"*\" has no effect"},
      {stage(kText, R"("objective": "contrastive", "trainable": ["vision_encoder.*"])"),
       "sources[0]: text without pictures"},
      {stage(kPictures, R"("feature_cache": {"megabytes": 1}, "objective": "contrastive", "trainable": ["vision_encoder.*"])"),
       "stage.json.feature_cache: no effect on the contrastive objective"},
      {stage(kPictures, R"("feature_cache": {"megabytes": 1}, "distributed": {"sharding": "full"})"),
       "stage.json.feature_cache: ranks under full sharding"},
      {stage(kPictures, R"("trace": {"first_step": 100, "steps": 2})"), "steps 100 to 101 are to be recorded, but the stage has 100"},
      {stage(kPictures, R"("trace": {"first_step": 0})"), "stage.json.trace.first_step: 0 is out of range"},
      {stage(kText, ""), "trainable[0]: \"*\" would train parts that see no data"},
      {stage(kPictures, R"("compute_dtype": "fp16")"), "bf16, f32"},
      {stage(kPictures, R"("input": {"image_mode": "slice"})"), "did you mean \"slices\""},
  };
  for (const auto& [json, expected] : mistakes) {
    EXPECT_NE(error_for(json).find(expected), std::string::npos)
        << json << "\n  got: " << error_for(json);
  }
}

TEST(StageInput, ReplacesOnlyWhatItNames) {
  ImageConfig image;
  StageInput input;
  input.image_mode = "squash";
  input.image_size = 56;
  const ImageConfig squashed = stage_image(input, image);
  EXPECT_EQ(squashed.mode, "squash");
  EXPECT_EQ(squashed.image_size, 56);
  EXPECT_EQ(squashed.max_slices, image.max_slices);

  StageInput slices;
  slices.max_slices = 1;
  EXPECT_EQ(stage_image(slices, image).max_slices, 1);
  EXPECT_EQ(stage_image(slices, image).scale_resolution, image.scale_resolution);

  PromptConfig prompt;
  EXPECT_EQ(stage_prompt({}, prompt).chat_template, prompt.chat_template);
  input.chat_template = "plain";
  EXPECT_EQ(stage_prompt(input, prompt).chat_template, "plain");
}

TEST(StageInput, RefusesSettingsWithoutEffect) {
  ImageConfig image;
  StageInput input;
  input.image_size = 56;
  EXPECT_NE(test::error_of([&] { stage_image(input, image); }).find("input.image_size: no effect"),
            std::string::npos);
  input.image_mode = "squash";
  input.max_slices = 2;
  EXPECT_NE(test::error_of([&] { stage_image(input, image); }).find("max_slices have no effect"),
            std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
