#include "base/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace pocketvlm {
namespace {

std::string path_of(const std::string& name) { return testing::TempDir() + "/" + name; }

/// A file with this header text and this many zero bytes of data.
std::string write_raw(const std::string& name, const std::string& header, std::size_t data_bytes) {
  std::string bytes(8, '\0');
  const std::uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
  bytes += header + std::string(data_bytes, '\0');
  write_file_atomic(path_of(name), bytes);
  return path_of(name);
}

TEST(Safetensors, WhatIsWrittenReadsBack) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> b = {7, 8};
  const auto bytes = [](const auto& values) { return [&values] { return std::as_bytes(std::span(values)); }; };
  write_safetensors(path_of("round.safetensors"), {{"b", "I64", {2}, bytes(b)}, {"a", "F32", {2, 3}, bytes(a)}}, {{"key", "value"}});
  const SafetensorsFile file(path_of("round.safetensors"));
  EXPECT_EQ(file.metadata().at("key"), "value");
  EXPECT_EQ(file.at("a").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.at("a").bytes.data(), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.at("b").bytes.data(), b.data(), 16), 0);
  EXPECT_THROW(file.at("c"), Error);
}

struct Hostile {
  const char* name;
  const char* header;
  std::size_t data_bytes;
};

class HostileSafetensors : public testing::TestWithParam<Hostile> {};

TEST_P(HostileSafetensors, IsOneErrorThatNamesTheFile) {
  const std::string path = write_raw(GetParam().name, GetParam().header, GetParam().data_bytes);
  try {
    const SafetensorsFile file(path);
    FAIL() << GetParam().header;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Headers,
    HostileSafetensors,
    testing::Values(
        Hostile{"h1", R"([])", 0},
        Hostile{"h2", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4},
        Hostile{"h3", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4},
        Hostile{"h4", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4},
        Hostile{"h5", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8},
        Hostile{"h6", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8},
        Hostile{"h7", R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4},
        Hostile{"h8", R"({"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}})", 4},
        Hostile{"h9", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4},
        Hostile{"h10", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4},
        Hostile{"h11", R"({"a":{"dtype":"F32","shape":[1]}})", 4},
        Hostile{"h12", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 12},
        Hostile{"h13", R"({"a":3})", 0},
        Hostile{"h14", R"({"a":)", 0}));

TEST(Safetensors, AnUnknownDtypeIsNamed) {
  const std::string path = write_raw("dtype", R"({"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}})", 4);
  EXPECT_THROW(SafetensorsFile{path}, Error);
}

TEST(Safetensors, TruncatedEverywhereIsAnErrorAndNeverACrash) {
  const std::vector<float> values(16, 1.0F);
  write_safetensors(path_of("whole"), {{"a", "F32", {16}, [&] { return std::as_bytes(std::span(values)); }}});
  const std::string whole = read_file(path_of("whole"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_file_atomic(path_of("cut"), whole.substr(0, size));
    EXPECT_THROW(SafetensorsFile(path_of("cut")), Error) << size;
  }
}

TEST(Safetensors, AnIndexMayNotPointOutsideItsFolder) {
  const std::string folder = path_of("sharded");
  std::filesystem::create_directories(folder);
  for (const char* target : {"../x.safetensors", "/etc/passwd", "..", ""}) {
    write_file_atomic(folder + "/model.safetensors.index.json", std::string(R"({"weight_map":{"a":")") + target + "\"}}");
    EXPECT_THROW(SafetensorsFolder{folder}, Error) << target;
  }
}

TEST(Safetensors, EveryTensorIsInTheShardThatTheIndexNames) {
  const std::string folder = path_of("shards");
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const std::vector<float> values(4, 1.0F);
  const auto bytes = [&] { return std::as_bytes(std::span(values)); };
  write_safetensors(folder + "/one.safetensors", {{"a", "F32", {4}, bytes}});
  write_safetensors(folder + "/two.safetensors", {{"b", "F32", {4}, bytes}});
  const auto with_map = [&](const std::string& map) -> std::string {
    write_file_atomic(folder + "/model.safetensors.index.json", "{\"weight_map\":" + map + "}");
    try {
      const SafetensorsFolder opened(folder);
      return fmt::format("{} tensors", opened.tensors().size());
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(with_map(R"({"a":"one.safetensors","b":"two.safetensors"})"), "2 tensors");
  const std::string exchanged = with_map(R"({"a":"two.safetensors","b":"one.safetensors"})");
  EXPECT_NE(exchanged.find("but the tensor is in "), std::string::npos) << exchanged;
  const std::string lacking = with_map(R"({"a":"one.safetensors","c":"one.safetensors"})");
  EXPECT_NE(lacking.find("one.safetensors lacks the tensor c"), std::string::npos) << lacking;
}

TEST(Safetensors, APointerFileSaysSo) {
  write_file_atomic(path_of("pointer"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  try {
    const SafetensorsFile file(path_of("pointer"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("git lfs pull"), std::string::npos);
  }
}

}  // namespace
}  // namespace pocketvlm
