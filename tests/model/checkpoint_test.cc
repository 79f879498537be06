#include "model/checkpoint.h"

#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "model/generation.h"
#include "model/initialization.h"
#include "model/lora.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() : folder_(testing::TempDir() + "/checkpoint_test"), config_(tiny_config()) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    tokenizer_path_ = folder_ + "/trained.model";
    TokenizerTrainingConfig training;
    training.vocab_size = 298;
    int line = 0;
    train_tokenizer(
        training,
        [&](std::string& sentence) {
          sentence = fmt::format("one red house and {} green boats on the lake", line);
          return line++ < 200;
        },
        tokenizer_path_);
    model_ = VisionLanguageModel(config_, 3);
    scatter_weights(*model_, 5);
    saved_ = folder_ + "/saved";
    save_model(model_, tokenizer_path_, saved_);
  }

  /// Rewrites one tensor entry of the saved file through `change`.
  void rewrite(const std::function<void(std::vector<TensorToWrite>&)>& change) {
    const std::string path = saved_ + "/model.safetensors";
    const std::string copy = folder_ + "/before.safetensors";
    fs::rename(path, copy);
    const SafetensorsFile file(copy);
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors()) {
      tensors.push_back({name, view.dtype, view.shape, [bytes = view.bytes] { return bytes; }});
    }
    change(tensors);
    write_safetensors(path, tensors);
  }

  std::string folder_, tokenizer_path_, saved_;
  ModelConfig config_;
  VisionLanguageModel model_{nullptr};
};

TEST_F(CheckpointTest, RoundTripKeepsEveryBitAndTheConfig) {
  LoadedModel loaded = load_model(saved_);
  EXPECT_EQ(config_to_json(loaded.config), config_to_json(config_));
  EXPECT_EQ(loaded.tokenizer->size(), 298);
  EXPECT_EQ(loaded.encoder->prompt().num_queries, config_.prompt.num_queries);
  const auto expected = model_->named_parameters();
  ASSERT_EQ(loaded.model->named_parameters().size(), expected.size());
  for (const auto& item : loaded.model->named_parameters()) {
    EXPECT_TRUE(torch::equal(item.value(), expected[item.key()])) << item.key();
  }
  EXPECT_EQ(weights_hash(*loaded.model, {"*"}), weights_hash(*model_, {"*"}));
  EXPECT_EQ(read_file(saved_ + "/tokenizer.model"), read_file(tokenizer_path_));
}

TEST_F(CheckpointTest, SavingAgainReplacesTheFolderAndLeavesNothingBeside) {
  {
    torch::NoGradGuard no_grad;
    model_->parameters()[0].add_(1.0);
  }
  write_file_atomic(saved_ + "/stale.txt", "left over");
  save_model(model_, tokenizer_path_, saved_ + "/");
  EXPECT_FALSE(fs::exists(saved_ + "/stale.txt"));
  EXPECT_FALSE(fs::exists(saved_ + ".tmp"));
  EXPECT_FALSE(fs::exists(saved_ + ".old"));
  EXPECT_EQ(weights_hash(*load_model(saved_).model, {"*"}), weights_hash(*model_, {"*"}));
}

TEST_F(CheckpointTest, ALeftoverOfAKilledSaveDoesNotMatter) {
  fs::create_directories(saved_ + ".tmp/inner");
  write_file_atomic(saved_ + ".tmp/model.safetensors", "half");
  save_model(model_, tokenizer_path_, saved_);
  EXPECT_EQ(weights_hash(*load_model(saved_).model, {"*"}), weights_hash(*model_, {"*"}));
}

TEST_F(CheckpointTest, MissingTensorsAreNamed) {
  rewrite([](auto& tensors) {
    std::erase_if(tensors, [](const TensorToWrite& t) { return t.name == "projector.query"; });
  });
  const std::string error = error_of([&] { load_model(saved_); });
  EXPECT_NE(error.find("missing tensors: projector.query"), std::string::npos) << error;
}

TEST_F(CheckpointTest, UnexpectedTensorsAreNamed) {
  static const float zeros[4] = {};
  rewrite([](auto& tensors) {
    tensors.push_back({"projector.surprise", "F32", {4}, [] { return std::as_bytes(std::span(zeros)); }});
  });
  const std::string error = error_of([&] { load_model(saved_); });
  EXPECT_NE(error.find("unexpected tensors: projector.surprise"), std::string::npos) << error;
}

TEST_F(CheckpointTest, WrongShapesAreNamedWithBothShapes) {
  rewrite([](auto& tensors) {
    for (TensorToWrite& t : tensors) {
      if (t.name == "projector.query") t.shape = {t.shape[1], t.shape[0]};
    }
  });
  const std::string error = error_of([&] { load_model(saved_); });
  EXPECT_NE(error.find("projector.query [32, 5] instead of [5, 32]"), std::string::npos) << error;
}

TEST_F(CheckpointTest, WeightsWithNanAreRefusedByName) {
  {
    torch::NoGradGuard no_grad;
    model_->named_parameters()["language.norm.weight"][3] = std::numeric_limits<float>::quiet_NaN();
  }
  save_model(model_, tokenizer_path_, saved_);
  const std::string error = error_of([&] { load_model(saved_); });
  EXPECT_NE(error.find("language.norm.weight"), std::string::npos) << error;
  EXPECT_NE(error.find("NaN"), std::string::npos) << error;
}

TEST_F(CheckpointTest, DamagedFoldersAreNamed) {
  EXPECT_NE(error_of([&] { load_model(folder_ + "/nowhere"); }).find("nowhere"), std::string::npos);
  EXPECT_NE(error_of([&] { load_model(folder_); }).find("config.json"), std::string::npos);
  write_file_atomic(saved_ + "/config.json", R"({"format": "pocketvlm"})");
  EXPECT_NE(error_of([&] { load_model(saved_); }).find("\"model\" is required"), std::string::npos);
}

TEST_F(CheckpointTest, AVocabularyLargerThanTheEmbeddingIsRefused) {
  ModelConfig small = config_;
  small.language.vocab = 200;
  save_model(VisionLanguageModel(small, 1), tokenizer_path_, saved_);
  EXPECT_NE(error_of([&] { load_model(saved_); }).find("298 pieces but language.vocab is 200"), std::string::npos);
}

TEST_F(CheckpointTest, LoraFactorsTravelWithTheWeights) {
  LoraConfig lora;
  add_lora(*model_, lora, 1);
  save_model(model_, tokenizer_path_, saved_);
  VisionLanguageModel other(config_, 9);
  add_lora(*other, lora, 2);
  load_weights(saved_, *other);
  EXPECT_EQ(weights_hash(*other, {"*"}), weights_hash(*model_, {"*"}));
  EXPECT_NE(error_of([&] { load_model(saved_); }).find("lora_a"), std::string::npos);
}

TEST_F(CheckpointTest, RandomTensorsAreTheWeightsOfANewModel) {
  const VisionLanguageModel model(config_, 11);
  const auto parameters = model->named_parameters();
  const std::vector<TensorToWrite> tensors = random_tensors(config_, 11, "F32");
  ASSERT_EQ(tensors.size(), parameters.size());
  for (const TensorToWrite& tensor : tensors) {
    const auto bytes = tensor.bytes();
    ASSERT_EQ(bytes.size(), parameters[tensor.name].nbytes()) << tensor.name;
    EXPECT_EQ(std::memcmp(bytes.data(), parameters[tensor.name].data_ptr(), bytes.size()), 0) << tensor.name;
  }
}

TEST_F(CheckpointTest, AModelWithoutWeightsTakesNoMemory) {
  const VisionLanguageModel shapes(config_);
  for (const auto& item : shapes->named_parameters()) {
    EXPECT_LE(item.value().storage().nbytes(), 4U) << item.key();
    EXPECT_EQ(item.value().sizes(), model_->named_parameters()[item.key()].sizes()) << item.key();
  }
}

/// A bfloat16 folder is run as it lies in the file; the numbers are those of float32 master copies rounded for each product.
TEST_F(CheckpointTest, Bfloat16WeightsAreUsedWhereTheyLie) {
  EXPECT_EQ(stored_dtype(saved_), torch::kFloat32);
  write_safetensors(saved_ + "/model.safetensors", random_tensors(config_, 4, "BF16"));
  EXPECT_EQ(stored_dtype(saved_), torch::kBFloat16);
  LoadedModel masters = load_model(saved_), held = load_model(saved_, torch::kBFloat16);
  const auto expected = masters.model->named_parameters();
  for (const auto& item : held.model->named_parameters()) {
    const bool matrix = item.value().dim() > 1 && item.key() != "vision_encoder.position_embedding";
    EXPECT_EQ(item.value().scalar_type(), matrix ? torch::kBFloat16 : torch::kFloat32) << item.key();
    EXPECT_EQ(expected[item.key()].scalar_type(), torch::kFloat32) << item.key();
    EXPECT_FALSE(item.value().requires_grad()) << item.key();
    EXPECT_TRUE(torch::equal(item.value().to(torch::kFloat32), expected[item.key()])) << item.key();
  }
  const torch::NoGradGuard no_grad;
  const ComputeDtype guard(torch::kBFloat16);
  Random random({3});
  const Batch batch = to_batch(pack({as_sample(random_chat(config_, random, 20, {{2, 3}, {4, 4}}), 1.0F)}));
  const auto logits = [&](LoadedModel& loaded) { return loaded.model->logits(loaded.model->hidden_states(batch)); };
  EXPECT_LT(relative_difference(logits(held), logits(masters)), 1e-2);
  SamplingConfig greedy;
  greedy.max_new_tokens = 6;
  const EncodedChat prompt = random_chat(config_, random, 9, {{2, 3}});
  EXPECT_EQ(generate(held.model, *held.encoder, prompt, greedy).front().ids,
            generate(masters.model, *masters.encoder, prompt, greedy).front().ids);
}

TEST_F(CheckpointTest, WeightsStayInTheFileWhereTheyAreOnlyToBeCopied) {
  const auto in_decoder = [](const std::string& name) { return name.starts_with("language.layers."); };
  for (const char* dtype : {"F32", "BF16"}) {
    write_safetensors(saved_ + "/model.safetensors", random_tensors(config_, 4, dtype));
    const LoadedModel whole = load_model(saved_);
    LoadedModel mapped = load_model(saved_, torch::kFloat32, in_decoder);
    EXPECT_EQ(weights_hash(*mapped.model, {"*"}), weights_hash(*whole.model, {"*"})) << dtype;
    const auto expected = whole.model->named_parameters();
    for (const auto& item : mapped.model->named_parameters()) {
      EXPECT_EQ(item.value().storage().allocator() == nullptr, in_decoder(item.key())) << item.key();
      EXPECT_TRUE(torch::equal(item.value().to(torch::kFloat32), expected[item.key()])) << item.key();
    }
    // Nothing is ever written into the file: weights that are loaded once more take its place.
    load_weights(saved_, *mapped.model);
    for (const auto& item : mapped.model->named_parameters()) EXPECT_NE(item.value().storage().allocator(), nullptr) << item.key();
    EXPECT_EQ(weights_hash(*mapped.model, {"*"}), weights_hash(*whole.model, {"*"})) << dtype;
  }
}

TEST_F(CheckpointTest, MappedWeightsComeBackAfterTheirMemoryWasGivenBack) {
  write_safetensors(saved_ + "/model.safetensors", random_tensors(config_, 4, "BF16"));
  LoadedModel held = load_model(saved_, torch::kBFloat16);
  const std::string before = weights_hash(*held.model, {"*"});
  release_mapped_weights(*held.model);
  EXPECT_EQ(weights_hash(*held.model, {"*"}), before);
  LoadedModel masters = load_model(saved_);
  const std::string owned = weights_hash(*masters.model, {"*"});
  release_mapped_weights(*masters.model);
  EXPECT_EQ(weights_hash(*masters.model, {"*"}), owned);
}

TEST_F(CheckpointTest, OtherDtypesAreConvertedToTheOneThatIsHeld) {
  LoadedModel held = load_model(saved_, torch::kBFloat16);
  for (const auto& item : held.model->named_parameters()) {
    const torch::Tensor saved = model_->named_parameters()[item.key()];
    EXPECT_TRUE(torch::equal(item.value(), saved.to(item.value().scalar_type()))) << item.key();
  }
}

TEST_F(CheckpointTest, TheHashSeesEveryBitOfTheChosenWeightsOnly) {
  const std::string language = weights_hash(*model_, {"language.*"});
  const std::string projector = weights_hash(*model_, {"projector.*"});
  torch::NoGradGuard no_grad;
  torch::Tensor query = model_->named_parameters()["projector.query"];
  auto* bits = static_cast<std::uint32_t*>(query.data_ptr());
  bits[query.numel() - 1] ^= 1U;
  EXPECT_EQ(weights_hash(*model_, {"language.*"}), language);
  EXPECT_NE(weights_hash(*model_, {"projector.*"}), projector);
  bits[query.numel() - 1] ^= 1U;
  EXPECT_EQ(weights_hash(*model_, {"projector.*"}), projector);
}

}  // namespace
}  // namespace pocketvlm
