#include "model/released/pickled_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "model/released/released_folder.h"
#include "tests/model/released/pickled_release.h"

/// Against torch.save itself (tests/golden/make_pickled_weights.py), and against files that mean harm.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

const std::string kFile = TEST_DATA "/model/golden/pickled_weights.bin";

template <typename T>
std::vector<T> values_of(const TensorView& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::string error_of(const std::string& bytes) {
  const std::string path = testing::TempDir() + "/weights_" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + ".bin";
  std::ofstream(path, std::ios::binary) << bytes;  // not synced: thousands of them
  std::string text = "no error";
  try {
    const PickledWeights weights(path);
  } catch (const Error& error) {
    text = error.what();
    EXPECT_TRUE(text.starts_with(path)) << text;
  }
  fs::remove(path);
  return text;
}

std::string error_of_program(const std::string& program, const std::string& storage = std::string(24, '\0')) {
  return error_of(zip_of({{"archive/data.pkl", program}, {"archive/data/0", storage}}));
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(PickledWeights, TensorsOfEveryKindAreRead) {
  const PickledWeights weights(kFile);
  const auto& tensors = weights.tensors();
  ASSERT_EQ(tensors.size(), 9U);
  EXPECT_EQ(tensors.at("a").dtype, "F32");
  EXPECT_EQ(tensors.at("a").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(values_of<float>(tensors.at("a")), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(tensors.at("b.half").dtype, "F16");
  EXPECT_EQ(values_of<std::uint16_t>(tensors.at("b.half")), (std::vector<std::uint16_t>{0x3C00, 0x4000, 0x4200, 0x4400}));
  EXPECT_EQ(values_of<float>(tensors.at("c")), (std::vector<float>{3, 4, 5}));
  EXPECT_EQ(tensors.at("d").dtype, "BF16");
  EXPECT_EQ(values_of<std::uint16_t>(tensors.at("d")), (std::vector<std::uint16_t>{0x3F80, 0xC000}));
  EXPECT_EQ(values_of<std::int64_t>(tensors.at("e")), (std::vector<std::int64_t>{7}));
  EXPECT_TRUE(tensors.at("e").shape.empty());
  EXPECT_TRUE(tensors.at("f").bytes.empty());
  EXPECT_EQ(tensors.at("g").shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(values_of<float>(tensors.at("g")), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(tensors.at("h").shape, (std::vector<std::int64_t>{2, 2, 2}));
  EXPECT_EQ(values_of<std::int64_t>(tensors.at("h")), (std::vector<std::int64_t>{1, 13, 5, 17, 3, 15, 7, 19}));
  EXPECT_EQ(tensors.at("i").shape, (std::vector<std::int64_t>{0, 3}));
}

TEST(PickledWeights, FilesWhoseViewsAreManyTimesTheirSizeAreRefused) {
  std::vector<std::pair<std::string, std::string>> views;
  const std::string storage(1 << 20, 'x');
  for (int i = 0; i < 4; ++i) views.emplace_back("v" + std::to_string(i), pickled_tensor("ByteStorage", "0", 1 << 20, 0, {1 << 10, 1 << 10}, {1, 1 << 10}));
  EXPECT_TRUE(has(error_of_program(pickled_dictionary(views), storage), "its tensors are more than twice as large as the file"));
  views.resize(2);
  EXPECT_EQ(error_of_program(pickled_dictionary(views), storage), "no error");
}

TEST(PickledWeights, ReleasesInThisFormAreImportedBitForBit) {
  const std::string root = testing::TempDir() + "/pickled_release";
  for (const std::string& family : release_families()) {
    for (const int shards : {1, 2}) {
      fs::remove_all(root);
      const OwnedTensors tensors = tiny_release_tensors(family);
      write_release(root + "/source", tiny_release_config(family), tensors);
      import_released(root + "/source", root + "/expected");
      pickle_release(root + "/source", tensors, shards);
      ASSERT_FALSE(fs::exists(root + "/source/model.safetensors"));
      import_released(root + "/source", root + "/imported");
      EXPECT_EQ(read_file(root + "/imported/model.safetensors"), read_file(root + "/expected/model.safetensors")) << family;
    }
  }
  const auto error = [&] {
    try {
      import_released(root + "/source", root + "/other");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  fs::remove(root + "/source/pytorch_model-1.bin");
  EXPECT_TRUE(has(error(), "names the shard pytorch_model-1.bin, which is not in the folder; download it again")) << error();
  write_json(root + "/source/pytorch_model.bin.index.json", {{"weight_map", {{"a", "../pytorch_model-0.bin"}}}});
  EXPECT_TRUE(has(error(), "points outside the folder")) << error();
  fs::remove_all(root);
}

/// A pickle can ask Python to call anything; here it is refused by name.
TEST(PickledWeights, ProgramsAreRefusedAndNeverRun) {
  const std::string proof = testing::TempDir() + "/was_run";
  fs::remove(proof);
  const std::string command = "touch " + proof;
  std::string text = error_of_program("cposix\nsystem\n(X" + std::string(1, static_cast<char>(command.size())) + std::string(3, '\0') + command + "tR.");
  EXPECT_TRUE(has(text, "asks for posix system, which is not needed to hold tensors; refused (nothing was run)")) << text;
  EXPECT_FALSE(fs::exists(proof));
  for (const char* global : {"builtins\neval", "torch.hub\nload", "os\npopen", "torch.jit\nload"}) {
    text = error_of_program(std::string("c") + global + "\n.");
    EXPECT_TRUE(has(text, "refused")) << text;
  }
  // Words of other protocols that make instances.
  for (const char* word : {"i", "o", "\x81", "\x92", "\x93", "\x82"}) EXPECT_TRUE(has(error_of_program(word), "pickle word 0x")) << word;
}

TEST(PickledWeights, TensorsOutsideTheirStorageAreRefused) {
  const auto error = [](std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides) {
    return error_of_program(pickled_dictionary({{"a", pickled_tensor("FloatStorage", "0", 6, offset, shape, strides)}}));
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  EXPECT_EQ(error(0, {2, 3}, {3, 1}), "no error");
  EXPECT_EQ(error(5, {1}, {1}), "no error");
  EXPECT_EQ(error(2, {2}, {3}), "no error");
  EXPECT_EQ(error(6, {0, 5}, {5, 1}), "no error");
  EXPECT_TRUE(has(error(3, {2}, {3}), "a tensor of 2 elements from 3 on reaches beyond its storage"));
  EXPECT_TRUE(has(error(0, {2}, {6}), "a tensor with the stride 6 reaches beyond its storage archive/data/0 of 6 elements"));
  EXPECT_TRUE(has(error(0, {2, 2}, {kHuge, kHuge}), "reaches beyond its storage"));
  EXPECT_TRUE(has(error(0, {6}, {0}), "repeats its elements (stride 0); save it with .contiguous()"));
  EXPECT_TRUE(has(error(0, {2, 4}, {4, 1}), "larger than its storage archive/data/0 of 6 elements"));
  EXPECT_TRUE(has(error(0, {kHuge, kHuge}, {kHuge, 1}), "larger than its storage"));
  EXPECT_TRUE(has(error(4, {3}, {1}), "a tensor of 3 elements from 4 on reaches beyond its storage"));
  EXPECT_TRUE(has(error(-1, {3}, {1}), "reaches beyond"));
  EXPECT_TRUE(has(error(kHuge, {1}, {1}), "reaches beyond"));
  EXPECT_TRUE(has(error(0, {-2}, {1}), "size or stride -2"));
  EXPECT_TRUE(has(error(0, {2}, {3, 1}), "1 sizes and 2 strides"));
  EXPECT_TRUE(has(error_of_program(pickled_dictionary({{"a", pickled_tensor("FloatStorage", "9", 6, 0, {6}, {1})}})),
                  "the storage archive/data/9 is not in the archive"));
  EXPECT_TRUE(has(error_of_program(pickled_dictionary({{"a", pickled_tensor("ComplexStorage", "0", 6, 0, {6}, {1})}})), "torch ComplexStorage"));
}

TEST(PickledWeights, WhatIsNoDictionaryOfTensorsIsNamed) {
  EXPECT_TRUE(has(error_of_program("N."), "holds no dictionary of tensors"));
  EXPECT_TRUE(has(error_of_program(pickled_dictionary({{"epoch", "K\x03"}})), "something else than tensors under names (epoch)"));
  EXPECT_TRUE(has(error_of_program("}(K\x01Nu."), "something else than tensors under names"));
  for (const char* program : {"", "}", "}(", "t.", "u.", "q", "X\xff\xff\xff\x7f", "h\x01.", "R.", "}R.", "Q.", "ca", "}(Nu.", "a.", "K\x01K\x02s."}) {
    EXPECT_NE(error_of_program(program), "no error") << program;
  }
  // Nested as deep as memory allows, and within itself: neither overflows anything.
  EXPECT_NE(error_of_program("N" + std::string(500000, '\x85') + "."), "no error");
  EXPECT_NE(error_of_program(std::string("]q\x00h\x00", 5) + "a."), "no error");
  EXPECT_TRUE(has(error_of_program(std::string(3 << 20, 'N') + "."), "more objects than"));
}

TEST(PickledWeights, DamagedArchivesAreNamed) {
  const std::string whole = read_file(kFile);
  EXPECT_TRUE(has(error_of(""), "is no zip archive"));
  EXPECT_TRUE(has(error_of(std::string(100, 'x')), "is no zip archive, the form that torch.save has written since PyTorch 1.6"));
  EXPECT_TRUE(has(error_of(whole.substr(0, whole.size() / 2)), "the zip directory at the end of the file is missing"));
  // Any one byte changed gives tensors or an error that names the file.
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0xA5);
    error_of(damaged);
  }
  std::string compressed = zip_of({{"archive/data.pkl", "}."}});
  compressed[compressed.find("PK\x01\x02") + 10] = 8;
  EXPECT_TRUE(has(error_of(compressed), "is compressed or encrypted"));
  EXPECT_TRUE(has(error_of(zip_of({{"archive/other", ""}})), "has no data.pkl"));
  EXPECT_TRUE(has(error_of(zip_of({{"a/data.pkl", "}."}, {"a/byteorder", "big"}})), "byte order \"big\""));
}

}  // namespace
}  // namespace pocketvlm
