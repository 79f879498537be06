#include "trainer/contrastive.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tiny_stage.h"

namespace pocketvlm {
namespace {

/// Pack of four segments: a picture of two slices, text alone, a picture, a picture with the first
/// one's text.
PackedBatch made_up_pack() {
  PackedBatch pack;
  const auto add = [&](const std::vector<int64_t>& labels,
                       const std::vector<std::array<int64_t, 2>>& grids) {
    for (const int64_t label : labels) {
      pack.input_ids.push_back(1);
      pack.labels.push_back(label);
      pack.loss_weights.push_back(label >= 0 ? 1.0F : 0.0F);
    }
    for (const auto& grid : grids) {
      pack.grids.push_back(grid);
      for (int64_t i = 0; i < grid[0] * grid[1] * 2; ++i)
        pack.patches.push_back(static_cast<float>(pack.patches.size()));
    }
    pack.segment_lengths.push_back(static_cast<int64_t>(labels.size()));
    pack.segment_slices.push_back(static_cast<int64_t>(grids.size()));
  };
  add({-100, 5, 6}, {{1, 2}, {1, 1}});
  add({7, 8}, {});
  add({-100, -100, 9}, {{2, 2}});
  add({5, 6}, {{1, 1}});
  return pack;
}

TEST(ContrastiveBatch, PairsEachPictureWithItsText) {
  const ContrastiveBatch batch = to_contrastive_batch(made_up_pack());
  EXPECT_EQ(batch.num_images(), 3);
  EXPECT_EQ(batch.patches_per_image, (std::vector<int64_t>{3, 4, 1}));
  EXPECT_EQ(batch.grids.size(), 4U);
  EXPECT_TRUE(torch::equal(batch.text_ids, torch::tensor({5, 6, 9, 5, 6}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(batch.text_offsets, torch::tensor({0, 2, 3}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(batch.patches, torch::arange(16, torch::kFloat32).view({8, 2})));
  const torch::Tensor same = torch::eye(3);
  same[0][2] = 1;
  same[2][0] = 1;
  EXPECT_TRUE(torch::equal(batch.same_text, same));
}

TEST(ContrastiveBatch, RefusesAPackWithoutPictures) {
  PackedBatch pack;
  pack.input_ids = {1, 2};
  pack.labels = {2, -100};
  pack.segment_lengths = {2};
  pack.segment_slices = {0};
  EXPECT_NE(test::error_of([&] { to_contrastive_batch(pack); }).find("no picture with a text"),
            std::string::npos);
}

double plain_loss(const torch::Tensor& x,
                  const torch::Tensor& y,
                  double log_temperature,
                  double bias,
                  const torch::Tensor& same) {
  double loss = 0;
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t j = 0; j < y.size(0); ++j) {
      double dot = 0;
      for (int64_t k = 0; k < x.size(1); ++k)
        dot += x[i][k].item<double>() * y[j][k].item<double>();
      const double z = same[i][j].item<double>() > 0 ? 1 : -1;
      loss += std::log1p(std::exp(-z * (std::exp(log_temperature) * dot + bias)));
    }
  }
  return loss;
}

TEST(ContrastiveLoss, EqualsADoubleLoop) {
  torch::manual_seed(3);
  const torch::Tensor x = torch::randn({5, 7}), y = torch::randn({5, 7});
  const torch::Tensor same = to_contrastive_batch(made_up_pack()).same_text;
  torch::Tensor labels = torch::eye(5);
  labels.slice(0, 0, 3).slice(1, 0, 3).copy_(same);
  const torch::Tensor log_temperature = torch::tensor(0.3F), bias = torch::tensor(-0.8F);
  const double got = sigmoid_contrastive_loss(x, y, log_temperature, bias, labels).item<double>();
  EXPECT_NEAR(got, plain_loss(x, y, 0.3, -0.8, labels), 1e-4);
  labels[4][4] = 0;
  EXPECT_GT(std::abs(got - plain_loss(x, y, 0.3, -0.8, labels)), 1e-2) << "labels must matter";
}

TEST(ContrastiveHeads, StartLikeSigLipFromTheSeedAlone) {
  const ContrastiveHeads a(20, 6, 1), b(20, 6, 1), c(20, 6, 2);
  EXPECT_NEAR(a->log_temperature.item<double>(), std::log(10.0), 1e-6);
  EXPECT_EQ(a->bias.item<double>(), -10.0);
  for (const auto& item : a->named_parameters()) {
    EXPECT_TRUE(test::same_bits(item.value(), b->named_parameters()[item.key()])) << item.key();
  }
  EXPECT_FALSE(test::same_bits(a->named_parameters()["text_embedding"],
                               c->named_parameters()["text_embedding"]));
}

TEST(ContrastiveHeads, MeansDoNotMixPictures) {
  ContrastiveHeads heads(20, 6, 1);
  const torch::Tensor features = torch::randn({8, 6});
  const torch::Tensor together = heads->image_features(features, {3, 4, 1});
  const torch::Tensor alone = heads->image_features(features.slice(0, 3, 7), {4});
  EXPECT_TRUE(torch::allclose(together[1], alone[0], 1e-6, 1e-7));
  EXPECT_TRUE(torch::allclose(together.norm(2, {-1}), torch::ones({3})));
  const torch::Tensor equal = heads->image_features(features, {4, 4});
  EXPECT_TRUE(torch::allclose(equal[1], heads->image_features(features, {3, 1, 4})[2], 1e-6, 1e-7));

  const torch::Tensor ids = torch::tensor({5, 6, 9}, torch::kInt64);
  const torch::Tensor texts = heads->text_features(ids, torch::tensor({0, 2}, torch::kInt64));
  const auto weights = heads->named_parameters();
  const torch::Tensor mean = weights["text_embedding"].slice(0, 5, 7).mean(0);
  const torch::Tensor expected = torch::matmul(weights["text_projection"], mean);
  EXPECT_TRUE(torch::allclose(texts[0], expected / expected.norm(), 1e-5, 1e-6));
}

}  // namespace
}  // namespace pocketvlm
