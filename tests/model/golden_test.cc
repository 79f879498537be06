#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "model/checkpoint.h"
#include "model/released/released_folder.h"
#include "model/released/released_tensors.h"
#include "tests/model/golden_release.h"
#include "tests/model/model_testing.h"

/// Released folders of every family against reference implementations (tests/golden/make_model.py), by the way a user takes:
/// import, load, forward, backward.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr double kTolerance = 1e-4;  // float32, relative to the largest magnitude

/// A folder imported and loaded. `right`: what the model computes without the released code's quirks.
class Imported {
 public:
  explicit Imported(const std::string& source, bool right = false) : folder_(source + ".imported") {
    fs::remove_all(folder_);
    import_released(source, folder_);
    ModelConfig config = load_checkpoint_config(folder_);
    if (right) config.compat = "right";
    model = VisionLanguageModel(config, /*seed=*/0);
    load_weights(folder_, *model);
  }
  ~Imported() { fs::remove_all(folder_); }

  VisionLanguageModel model{nullptr};

 private:
  std::string folder_;
};

/// Goldens called so hold what a model computes without the released code's quirks.
bool is_right(const std::string& golden) { return golden.ends_with("-right"); }

class Golden : public testing::TestWithParam<std::string> {
 protected:
  Golden() : golden_(GetParam()), source_(testing::TempDir() + "/golden_" + GetParam()) {
    write_release(source_, golden_.config(), golden_.tensors());
  }
  ~Golden() override { fs::remove_all(source_); }

  /// Worst relative difference of vision features, visual tokens and logits.
  double output_difference(VisionLanguageModel& model) {
    const torch::NoGradGuard no_grad;
    if (!batch_) batch_ = golden_.batch(model->config().image);
    const torch::Tensor features = model->vision_features(batch_->patches, batch_->grids);
    const torch::Tensor visual = model->projector->forward(features, batch_->grids);
    const torch::Tensor logits = model->logits(model->hidden_states(*batch_, visual));
    return std::max({relative_difference(features, golden_.expected("output.features")),
                     relative_difference(visual, golden_.expected("output.visual")),
                     relative_difference(logits, golden_.expected("output.logits"))});
  }

  /// The same with one tensor of the release changed: its bytes take the way of the import table into the model, and back after.
  double difference_with(VisionLanguageModel& model, const std::string& name, const OwnedTensor& changed) {
    const torch::NoGradGuard no_grad;
    place(model, name, changed);
    const double difference = output_difference(model);
    place(model, name, golden_.tensors().at(name));
    return difference;
  }

  static void place(VisionLanguageModel& model, const std::string& name, const OwnedTensor& tensor) {
    auto parameters = model->named_parameters();
    for (const ReleasedTensor& row : released_tensors(*released_form(model->config()))) {
      if (row.name != name) continue;
      int64_t at = 0;
      const torch::Tensor values = values_of(tensor).flatten();
      for (const TensorPart& part : row.parts) {
        torch::Tensor& parameter = parameters[part.name];
        parameter.copy_(values.narrow(0, at, parameter.numel()).view(parameter.sizes()));
        at += parameter.numel();
      }
      ASSERT_EQ(at, values.numel()) << name;
    }
  }

  GoldenRelease golden_;
  std::string source_;
  std::optional<Batch> batch_;
};

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// CLIP's last block and final norm are stored and never run.
bool never_runs(const std::string& name) {
  return has(name, "vision_model.encoder.layers.2.") || has(name, "vision_model.post_layernorm.");
}

/// Key biases of a vision tower move all scores of a query alike, which softmax cancels. (A fused query-key-value bias matters as
/// a whole; with rotary positions, in the decoder, key biases matter too.)
bool cannot_matter(const std::string& name) {
  const bool tower = name.starts_with("vpm.") || name.starts_with("model.vision_tower.");
  return tower && name.ends_with("self_attn.k_proj.bias");
}

TEST_P(Golden, OutputsAgree) {
  Imported imported(source_, is_right(GetParam()));
  EXPECT_LT(output_difference(imported.model), kTolerance);
}

TEST_P(Golden, LossAndTheGradientOfEveryReleasedTensorAgree) {
  Imported imported(source_, is_right(GetParam()));
  const torch::Tensor loss = imported.model->loss_sum(golden_.batch(imported.model->config().image));
  EXPECT_LT(relative_difference(loss.reshape({1}), golden_.expected("output.loss")), kTolerance);
  loss.backward();
  const auto parameters = imported.model->named_parameters();
  std::size_t compared = 0;
  for (const ReleasedTensor& row : released_tensors(*released_form(imported.model->config()))) {
    if (row.use != ReleasedUse::kWeight) continue;
    std::vector<torch::Tensor> parts;
    for (const TensorPart& part : row.parts) {
      ASSERT_TRUE(parameters[part.name].grad().defined()) << part.name;
      parts.push_back(parameters[part.name].grad().flatten());
    }
    const torch::Tensor gradient = torch::cat(parts).view({-1, row.shape.back()}).to(torch::kFloat64);
    if (cannot_matter(row.name)) {
      EXPECT_LT(gradient.abs().max().item<double>(), 1e-3) << row.name;
      continue;
    }
    const auto weights = [&](const char* what, int64_t count) {
      return torch::tensor(GoldenRelease::stream(row.name + what, count), torch::kFloat64);
    };
    const torch::Tensor by_row = gradient.mv(weights(".columns", gradient.size(1)));
    const torch::Tensor by_column = gradient.t().mv(weights(".rows", gradient.size(0)));
    // The products of a vector with its columns are its elements; with its one row, a sum that may cancel.
    if (gradient.size(0) > 1) {
      EXPECT_LT(relative_difference(by_row, golden_.expected("grad_rows." + row.name)), kTolerance) << row.name;
    }
    EXPECT_LT(relative_difference(by_column, golden_.expected("grad_columns." + row.name)), kTolerance) << row.name;
    ++compared;
  }
  std::size_t trained = 0;
  for (const auto& [name, tensor] : golden_.tensors()) {
    trained += golden_.has("grad_rows." + name) && !cannot_matter(name) && !never_runs(name) ? 1 : 0;
  }
  EXPECT_EQ(compared, trained);
}

TEST_P(Golden, FailsWhenAnyOneTensorOfTheReleaseIsPerturbed) {
  Imported imported(source_, is_right(GetParam()));
  for (const auto& [name, tensor] : golden_.tensors()) {
    if (name == "resampler.pos_embed" || never_runs(name)) continue;
    const double difference = difference_with(imported.model, name, perturbed(tensor, name));
    EXPECT_EQ(difference > kTolerance, !cannot_matter(name)) << name << " " << difference;
  }
  EXPECT_LT(output_difference(imported.model), kTolerance);
}

TEST_P(Golden, TensorsThatNeverRunDoNotMatterAndPositionsMustBeTheFormulas) {
  OwnedTensors tensors = golden_.tensors();
  std::size_t unused = 0;
  for (auto& [name, tensor] : tensors) {
    if (!never_runs(name)) continue;
    tensor = perturbed(tensor, name);
    ++unused;
  }
  EXPECT_EQ(unused, GetParam().starts_with("mobilevlm") ? 18U : 0U);
  write_release(source_, golden_.config(), tensors);
  Imported imported(source_, is_right(GetParam()));
  EXPECT_LT(output_difference(imported.model), kTolerance);
  const auto positions = tensors.find("resampler.pos_embed");
  if (positions == tensors.end()) return;
  positions->second = perturbed(positions->second, positions->first);
  write_release(source_, golden_.config(), tensors);
  EXPECT_NE(error_of([&] { Imported again(source_, is_right(GetParam())); }).find("resampler.pos_embed"), std::string::npos);
}

/// Heads of one attention matrix: rows (of query, key, value) or columns (of the output projection) of a head.
struct Heads {
  std::int64_t first, size;
  bool columns;
};

/// Where two neighbouring heads of this tensor begin; more than once for fused matrices, never for other tensors.
std::vector<Heads> heads_of(const std::string& name, const ModelConfig& config) {
  const bool tower = name.starts_with("vpm.") || name.starts_with("model.vision_tower.");
  const bool resampler = name.starts_with("resampler.attn.");
  const std::int64_t size = tower       ? config.vision.hidden / config.vision.num_heads
                            : resampler ? config.language.hidden / config.projector.num_heads
                                        : config.language.head_dim;
  if (has(name, "qkv") || has(name, "in_proj")) {
    const std::int64_t hidden = tower ? config.vision.hidden : config.language.hidden;
    // A key bias cannot matter.
    if (name.ends_with("bias")) return {{0, size, false}, {2 * hidden, size, false}};
    return {{0, size, false}, {hidden, size, false}, {2 * hidden, size, false}};
  }
  if (has(name, "q_proj") || has(name, "k_proj") || has(name, "v_proj")) return {{0, size, false}};
  const bool out = has(name, "o_proj.weight") || has(name, "out_proj.weight") || has(name, "attn.proj.weight");
  if (out) return {{0, size, true}};
  return {};
}

TEST_P(Golden, FailsWhenTwoHeadsAreSwapped) {
  Imported imported(source_, is_right(GetParam()));
  const ModelConfig& config = imported.model->config();
  std::size_t swaps = 0;
  for (const auto& [name, tensor] : golden_.tensors()) {
    if (cannot_matter(name) || never_runs(name)) continue;
    for (const Heads& heads : heads_of(name, config)) {
      const OwnedTensor changed = swapped(tensor, heads.first, heads.size, heads.columns);
      EXPECT_GT(difference_with(imported.model, name, changed), kTolerance) << name << " " << heads.first;
      ++swaps;
    }
  }
  EXPECT_GE(swaps, 20U);
}

TEST_P(Golden, FailsWhenPicturesChangePlaces) {
  Imported imported(source_, is_right(GetParam()));
  const torch::NoGradGuard no_grad;
  output_difference(imported.model);
  const torch::Tensor patches = batch_->patches;
  batch_->patches = patches.flip({0});
  EXPECT_GT(output_difference(imported.model), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         Golden,
                         testing::Values("minicpmv-1.0", "minicpmv-2.0", "minicpmv-2.5", "minicpmv-2.5-right", "minicpmv-2.6", "mobilevlm",
                                         "mobilevlm-v2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase_if(name, [](char c) { return c == '-' || c == '.'; });
                           return name;
                         });

/// Import records that 2.5's weights were trained with the quirks of its code, and they matter.
TEST(GoldenCompat, TheQuirkOf25IsRecordedAtImportAndMatters) {
  const GoldenRelease golden("minicpmv-2.5"), right("minicpmv-2.5-right");
  const std::string source = testing::TempDir() + "/golden_compat";
  write_release(source, golden.config(), golden.tensors());
  EXPECT_EQ(Imported(source).model->config().compat, "released");
  EXPECT_GT(relative_difference(right.expected("output.features"), golden.expected("output.features")), 100 * kTolerance);
  fs::remove_all(source);
}

}  // namespace
}  // namespace pocketvlm
