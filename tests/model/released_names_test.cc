#include "model/released/released_tensors.h"
#include "model/strips.h"
#include "tests/model/model_testing.h"

/// The table of released names against the model itself.
namespace pocketvlm {
namespace {

ModelConfig with_positions(const char* vision, const char* projector) {
  ModelConfig config = tiny_config();
  config.vision.positions = vision;
  config.projector.positions = projector;
  config.projector.num_queries = 4;
  config.prompt.num_queries = 4;
  config.language.qkv_bias = std::string(projector) == "key";
  return config;
}

std::vector<ModelConfig> released_layouts() {
  std::vector<ModelConfig> configs = {with_positions("interpolated", "interpolated"),
                                      with_positions("interpolated", "key_and_query"),
                                      with_positions("bucketed", "key")};
  for (const char* kind : {"ldp", "ldpv2"}) {
    configs.push_back(tiny_clip_config());
    configs.back().projector.kind = kind;
    configs.back().language.qkv_bias = false;
  }
  return configs;
}

TEST(ReleasedNames, EveryParameterAndBufferIsAPartOfExactlyOneReleasedTensor) {
  for (const ModelConfig& config : released_layouts()) {
    const auto form = released_form(config);
    ASSERT_TRUE(form.has_value()) << config.projector.kind << config.vision.positions;
    std::map<std::string, std::vector<std::int64_t>> parts;
    for (const ReleasedTensor& tensor : released_tensors(*form)) {
      for (const TensorPart& part : tensor.parts) {
        EXPECT_TRUE(parts.emplace(part.name, part.shape).second) << part.name << " twice";
      }
    }
    const VisionLanguageModel model(config, 0);
    auto tensors = model->named_parameters();
    tensors.update(model->named_buffers());
    for (const auto& item : tensors) {
      ASSERT_TRUE(parts.count(item.key())) << item.key();
      EXPECT_EQ(parts.at(item.key()), item.value().sizes().vec()) << item.key();
      parts.erase(item.key());
    }
    EXPECT_TRUE(parts.empty()) << parts.begin()->first;
  }
}

class Strips : public testing::Test {
 protected:
  Strips() : config_(with_positions("bucketed", "key")), encoder_(config_.vision, config_.image.patch_size) {
    config_.vision.strip_quirk = true;
    scatter_weights(*encoder_, 11);
    torch::manual_seed(3);
    patches_ = torch::randn({6 + 12, 3 * config_.image.patch_size * config_.image.patch_size});
  }

  ModelConfig config_;
  VisionEncoder encoder_{nullptr};
  torch::Tensor patches_;  // of two slices, 2 x 3 and 3 x 4
};

/// Written out by hand: each slice as one row of 12 patches, the shorter one with zeros behind it.
TEST_F(Strips, ASliceIsOneRowPaddedToTheLongestAndThePaddingIsSeen) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor got = encode_strips(encoder_, patches_, {{2, 3}, {3, 4}});
  const torch::Tensor padded = torch::cat({patches_.narrow(0, 0, 6), torch::zeros({6, patches_.size(1)})});
  EXPECT_LT(relative_difference(got.narrow(0, 0, 6), encoder_->forward(padded, {{1, 12}}).narrow(0, 0, 6)), 1e-6);
  EXPECT_LT(relative_difference(got.narrow(0, 6, 12), encoder_->forward(patches_.narrow(0, 6, 12), {{1, 12}})), 1e-6);
  // Alone, the short slice has other positions and no padding to look at.
  EXPECT_GT(relative_difference(encode_strips(encoder_, patches_.narrow(0, 0, 6), {{2, 3}}), got.narrow(0, 0, 6)), 1e-3);
  EXPECT_GT(relative_difference(encoder_->forward(patches_, {{2, 3}, {3, 4}}), got), 1e-3);
  EXPECT_NE(error_of([&] { encode_strips(encoder_, patches_, {{2, 3}}); }).find("18 rows of patches"), std::string::npos);
}

TEST_F(Strips, TheModelUsesThemWhenTheConfigSaysReleased) {
  const torch::NoGradGuard no_grad;
  for (const char* compat : {"released", "right"}) {
    config_.compat = compat;
    VisionLanguageModel model(config_, 5);
    const torch::Tensor features = model->vision_features(patches_, {{2, 3}, {3, 4}});
    const torch::Tensor strips = encode_strips(model->vision_encoder, patches_, {{2, 3}, {3, 4}});
    EXPECT_EQ(torch::equal(features, strips), std::string(compat) == "released");
  }
}

}  // namespace
}  // namespace pocketvlm
