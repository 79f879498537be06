#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "mobile/gguf.h"
#include "mobile/session.h"
#include "tests/mobile/tiny_model.h"

/// What a session keeps in memory beside what it computes with.
namespace pocketvlm {
namespace {

constexpr std::int64_t kHidden = 768, kFfn = 3072, kLayers = 10;

/// The tiny model's vision file with large blocks, whose matrices are zero: about 140 MB of them.
std::string write_large_vision(const TinyFiles& files) {
  const GgufFile tiny(files.mmproj);
  GgufWriter writer;
  for (const auto& [key, value] : tiny.metadata()) {
    if (key.starts_with("pocketvlm.") && value.type == GgufValueType::kString) writer.set_string(key, tiny.get_string(key));
  }
  for (const char* key : {"general.architecture", "clip.projector_type"}) writer.set_string(key, tiny.get_string(key));
  for (const char* key : {"clip.vision.image_size", "clip.vision.patch_size"}) {
    writer.set_uint32(key, static_cast<std::uint32_t>(tiny.get_int(key, 1, 8192)));
  }
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"embedding_length", kHidden}, {"feed_forward_length", kFfn}, {"block_count", kLayers}, {"projection_dim", 0}, {"attention.head_count", 12}};
  for (const auto& [key, size] : sizes) writer.set_uint32(std::string("clip.vision.") + key, static_cast<std::uint32_t>(size));
  writer.set_bool("clip.has_vision_encoder", true);
  writer.set_bool("clip.use_gelu", true);
  writer.set_float32("clip.vision.attention.layer_norm_epsilon", 1e-6F);
  writer.set_float32s("clip.vision.image_mean", {0.5F, 0.5F, 0.5F});
  writer.set_float32s("clip.vision.image_std", {0.5F, 0.5F, 0.5F});
  writer.set_uint32("pocketvlm.projector.heads", 2);
  const auto add = [&](const std::string& name, GgmlType type, const std::vector<std::int64_t>& ne, int byte = 0) {
    std::int64_t rows = 1;
    for (std::size_t d = 1; d < ne.size(); ++d) rows *= ne[d];
    writer.add_tensor(name, type, ne, [bytes = static_cast<std::size_t>(row_bytes(type, ne[0])), rows, byte](const GgufWriter::Sink& sink) {
      const std::vector<std::byte> row(bytes, static_cast<std::byte>(byte));
      for (std::int64_t r = 0; r < rows; ++r) sink(row);
    });
  };
  const std::int64_t patch = tiny.get_int("clip.vision.patch_size", 1, 256), side = 4;
  add("v.patch_embd.weight", GgmlType::kF16, {patch, patch, 3, kHidden}, 0x30);  // 0x3030: 0.13
  add("v.patch_embd.bias", GgmlType::kF32, {kHidden});
  add("v.position_embd.weight", GgmlType::kF16, {kHidden, side * side}, 0x30);
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", GgmlType::kF32, {kHidden}, 0x3f);  // 0x3f3f3f3f: 0.75
    add(name + ".bias", GgmlType::kF32, {kHidden});
  };
  const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    add(name + ".weight", GgmlType::kF16, {in, out});
    add(name + ".bias", GgmlType::kF32, {out});
  };
  norm("v.post_ln");
  for (std::int64_t i = 0; i < kLayers; ++i) {
    const std::string p = fmt::format("v.blk.{}.", i);
    norm(p + "ln1");
    norm(p + "ln2");
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"}) linear(p + name, kHidden, kHidden);
    linear(p + "ffn_up", kHidden, kFfn);
    linear(p + "ffn_down", kFfn, kHidden);
  }
  for (const GgufTensor& tensor : tiny.tensors()) {
    if (!tensor.name.starts_with("resampler.")) continue;
    std::vector<std::int64_t> ne = tensor.ne;
    if (tensor.name == "resampler.kv.weight") ne[0] = kHidden;
    add(tensor.name, tensor.type, ne, tensor.name.ends_with("ln_kv.weight") ? 0x3f : 0x30);
  }
  const std::string path = temporary_folder() + "/large-mmproj.gguf";
  writer.write(path);
  return path;
}

/// Pages of mapped files that this process holds, in MiB.
double mapped_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::stod(line.substr(8)) / 1024;
  }
  return -1;
}

/// What is left of the vision file behind the last slice, as part of the file.
double left_after_a_picture() {
  const TinyFiles files = write_tiny_model({});
  const std::string mmproj = write_large_vision(files);
  const double whole = static_cast<double>(std::filesystem::file_size(mmproj)) / (1 << 20);
  EXPECT_GT(whole, 100.0);
  SessionOptions options;
  options.packed = "none";
  Session session(files.language, mmproj, options);
  Chat chat;
  chat.turns = {{"user", "hello"}};
  chat.images = {Image(16, 16)};
  const EncodedChat prompt = session.encoder().encode(chat, true);
  EXPECT_FALSE(prompt.grids.empty());
  const double before = mapped_mib();
  double most = 0;
  session.watch_blocks([&](const std::string& block, std::span<const float>) {
    if (block == fmt::format("v.blk.{}", kLayers - 1)) most = mapped_mib() - before;
  });
  session.encode_image(prompt);
  EXPECT_GT(most, 0.8 * whole);  // every page was read
  return (mapped_mib() - before) / whole;
}

TEST(Memory, ThePagesOfTheVisionFileAreGoneAfterTheLastSlice) {
  if (mapped_mib() < 0) GTEST_SKIP() << "this system does not tell mapped pages apart";
  EXPECT_LT(left_after_a_picture(), 0.05);
}

TEST(Memory, AskedToStayTheyStay) {
  if (mapped_mib() < 0) GTEST_SKIP() << "this system does not tell mapped pages apart";
  const TinyFiles files = write_tiny_model({});
  const std::string mmproj = write_large_vision(files);
  const double before = mapped_mib();
  SessionOptions options;
  options.packed = "none";
  options.resident = "both";
  const Session session(files.language, mmproj, options);
  EXPECT_GT(mapped_mib() - before, 100.0);
}

}  // namespace
}  // namespace pocketvlm
