#include "base/safetensors.h"
#include "tests/model/model_testing.h"

/// Whole models against tests/golden/make_model.py: outputs, loss and every gradient.
namespace pocketvlm {
namespace {

constexpr double kTolerance = 1e-4;  // float32, relative to the largest magnitude

struct Case {
  std::string name;
  ModelConfig config;
};

ModelConfig common_config() {
  ModelConfig config;
  config.vision.hidden = 24;
  config.vision.num_layers = 2;
  config.vision.num_heads = 2;
  config.vision.ffn = 40;
  config.vision.position_side = 6;
  config.language.vocab = 48;
  config.language.hidden = 32;
  config.language.num_layers = 2;
  config.language.num_heads = 4;
  config.language.num_kv_heads = 4;
  config.language.head_dim = 8;
  config.language.ffn = 40;
  config.language.max_positions = 128;
  config.language.tied_embeddings = false;
  config.image.patch_size = 4;
  config.image.image_size = 24;
  return config;
}

ModelConfig minicpmv26() {
  ModelConfig config = common_config();
  config.projector.num_queries = 5;
  config.projector.num_heads = 4;
  config.language.num_kv_heads = 2;
  config.language.norm_eps = 1e-6;
  config.language.rope_theta = 1e6;
  config.language.qkv_bias = true;
  return config;
}

ModelConfig minicpmv2() {
  ModelConfig config = common_config();
  config.vision.activation = "gelu_erf";
  config.vision.positions = "interpolated";
  config.projector.num_queries = 4;
  config.projector.num_heads = 2;
  config.projector.positions = "key_and_query";
  config.language.norm_eps = 1e-5;
  config.language.scale_embeddings = 3.0;
  config.language.scale_residual = 0.7;
  config.language.scale_logits = 2.5;
  return config;
}

ModelConfig mobilevlm2() {
  ModelConfig config = common_config();
  config.vision.activation = "quick_gelu";
  config.vision.norm_eps = 1e-5;
  config.vision.patch_bias = false;
  config.vision.class_token = true;
  config.vision.pre_norm = true;
  config.vision.final_norm = false;
  config.vision.positions = "fixed";
  config.projector.kind = "ldpv2";
  config.projector.num_queries = 9;
  config.image.mode = "pad_square";
  config.language.norm_eps = 1e-6;
  return config;
}

ModelConfig mobilevlm() {
  ModelConfig config = mobilevlm2();
  config.projector.kind = "ldp";
  config.language.num_kv_heads = 2;
  config.language.tied_embeddings = true;
  return config;
}

/// Key biases of encoder and resampler move all scores of a query alike, and softmax cancels that: their gradient is zero up to
/// rounding. (With rotary positions, in the decoder, they do matter.)
bool cannot_matter(const std::string& name) { return name.ends_with(".attn.k_proj.bias"); }

class Golden : public testing::TestWithParam<Case> {
 protected:
  Golden()
      : file_(fmt::format("{}/model/golden/{}.safetensors", TEST_DATA, GetParam().name)),
        model_(GetParam().config, 0) {
    torch::NoGradGuard no_grad;
    std::size_t found = 0;
    for (auto& item : model_->named_parameters()) {
      item.value().copy_(tensor("weight." + item.key()));
      ++found;
    }
    for (const auto& [name, view] : file_.tensors()) found -= name.starts_with("weight.") ? 1 : 0;
    EXPECT_EQ(found, 0) << "the file holds weights that the model has not";
    batch_.input_ids = tensor("input.ids");
    batch_.labels = tensor("input.labels");
    batch_.loss_weights = tensor("input.loss_weights");
    batch_.patches = tensor("input.patches");
    batch_.visual_positions = tensor("input.visual_positions");
    batch_.visual_rows = torch::arange(batch_.visual_positions.size(0));
    std::vector<torch::Tensor> positions;
    const torch::Tensor segments = tensor("input.segments");
    for (int64_t i = 0; i < segments.size(0); ++i) {
      batch_.segment_lengths.push_back(segments[i].item<int64_t>());
      positions.push_back(torch::arange(batch_.segment_lengths.back()));
    }
    batch_.position_ids = torch::cat(positions);
    const torch::Tensor grids = tensor("input.grids");
    for (int64_t i = 0; i < grids.size(0); ++i) {
      batch_.grids.push_back({grids[i][0].item<int64_t>(), grids[i][1].item<int64_t>()});
    }
  }

  torch::Tensor tensor(const std::string& name) const {
    const TensorView& view = file_.at(name);
    return torch::from_blob(const_cast<std::byte*>(view.bytes.data()),
                            view.shape,
                            view.dtype == "F32" ? torch::kFloat32 : torch::kInt64)
        .clone();
  }

  /// Worst relative difference of features, visual tokens, logits and loss.
  double output_difference() {
    torch::NoGradGuard no_grad;
    const torch::Tensor features = model_->vision_encoder->forward(batch_.patches, batch_.grids);
    const torch::Tensor visual = model_->projector->forward(features, batch_.grids);
    const torch::Tensor logits = model_->logits(model_->hidden_states(batch_, visual));
    double worst = relative_difference(features, tensor("output.features"));
    worst = std::max(worst, relative_difference(visual, tensor("output.visual")));
    return std::max(worst, relative_difference(logits, tensor("output.logits")));
  }

  SafetensorsFile file_;
  VisionLanguageModel model_;
  Batch batch_;
};

TEST_P(Golden, OutputsAgree) { EXPECT_LT(output_difference(), kTolerance); }

TEST_P(Golden, LossAndEveryGradientAgree) {
  const torch::Tensor loss = model_->loss_sum(batch_);
  EXPECT_LT(relative_difference(loss.reshape({1}), tensor("output.loss")), kTolerance);
  loss.backward();
  for (const auto& item : model_->named_parameters()) {
    const torch::Tensor expected = tensor("grad." + item.key());
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    if (cannot_matter(item.key())) {
      EXPECT_LT(item.value().grad().abs().max().item<double>(), 1e-3) << item.key();
      continue;
    }
    EXPECT_LT(relative_difference(item.value().grad(), expected), kTolerance) << item.key();
  }
}

TEST_P(Golden, FailsWhenAnyOneTensorIsPerturbed) {
  torch::NoGradGuard no_grad;
  for (auto& item : model_->named_parameters()) {
    if (cannot_matter(item.key())) continue;
    torch::Tensor parameter = item.value();
    const torch::Tensor before = parameter.clone();
    const torch::Tensor noise = torch::arange(parameter.numel()).sin().view(parameter.sizes());
    parameter.add_(noise, 0.02);
    EXPECT_GT(output_difference(), kTolerance) << item.key();
    parameter.copy_(before);
  }
  for (torch::Tensor* input : {&batch_.patches}) {
    const torch::Tensor before = input->clone();
    (*input)[0][0] += 0.5;
    EXPECT_GT(output_difference(), kTolerance);
    *input = before;
  }
  EXPECT_LT(output_difference(), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         Golden,
                         testing::Values(Case{"minicpmv26", minicpmv26()},
                                         Case{"minicpmv2", minicpmv2()},
                                         Case{"mobilevlm2", mobilevlm2()},
                                         Case{"mobilevlm", mobilevlm()}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace pocketvlm
