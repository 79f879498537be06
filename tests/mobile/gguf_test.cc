#include "mobile/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

GgufWriter::Producer floats(std::vector<float> values) {
  return [values = std::move(values)](const GgufWriter::Sink& sink) {
    sink(std::as_bytes(std::span(values)));
  };
}

TEST(Gguf, WhatIsWrittenIsReadBack) {
  const std::string path = temporary_folder() + "/a.gguf";
  GgufWriter writer;
  writer.set_string("general.architecture", "llama");
  writer.set_uint32("u32", 4000000000U);
  writer.set_int32("i32", -5);
  writer.set_uint64("u64", 1ULL << 40);
  writer.set_float32("f32", 0.25F);
  writer.set_bool("bool", true);
  writer.set_strings("strings",
                     {"",
                      "\xE2\x96\x81"
                      "a",
                      "b"});
  writer.set_float32s("floats", {0.5F, -1.0F});
  writer.set_int32s("ints", {3, -4});
  writer.set_uint32("u32", 7);  // replaces the value, keeps the place
  writer.add_tensor("first", GgmlType::kF32, {3, 2}, floats({1, 2, 3, 4, 5, 6}));
  writer.add_tensor("second", GgmlType::kF32, {1}, floats({7}));
  writer.write(path);
  EXPECT_EQ(writer.file_size(), std::filesystem::file_size(path));

  const GgufFile file(path);
  EXPECT_EQ(file.metadata()[1].first, "u32");
  EXPECT_EQ(file.get_int("u32"), 7);
  EXPECT_EQ(file.get_int("i32"), -5);
  EXPECT_EQ(file.get_int("u64"), std::int64_t{1} << 40);
  EXPECT_EQ(file.get_float("f32"), 0.25);
  EXPECT_EQ(file.get_float("i32"), -5.0);
  EXPECT_TRUE(file.get_bool("bool"));
  EXPECT_EQ(std::get<std::vector<std::string>>(file.get_array("strings").values)[1],
            "\xE2\x96\x81"
            "a");
  EXPECT_EQ(file.get_floats("floats"), (std::vector<double>{0.5, -1.0}));
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(file.get_array("ints").values)[1], -4);
  EXPECT_EQ(file.tensor("first").ne, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(file.tensor("second").offset, 32U);
  float value;
  std::memcpy(&value, file.tensor("second").bytes.data(), 4);
  EXPECT_EQ(value, 7.0F);
  file.check_finite();
}

TEST(Gguf, GettersNameFileAndKey) {
  const std::string path = temporary_folder() + "/a.gguf";
  GgufWriter writer;
  writer.set_uint32("number", 5);
  writer.set_string("text", "x");
  writer.add_tensor("t", GgmlType::kF32, {2}, floats({1, 2}));
  writer.write(path);
  const GgufFile file(path);
  const auto text_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  for (const std::string& text : {text_of([&] { file.get_int("none"); }),
                                  text_of([&] { file.get_string("number"); }),
                                  text_of([&] { file.get_int("text"); }),
                                  text_of([&] { file.get_int("number", 6, 9); }),
                                  text_of([&] { file.get_bool("number"); }),
                                  text_of([&] { file.get_array("number"); }),
                                  text_of([&] { file.tensor("u"); }),
                                  text_of([&] { file.tensor("t", {3}); })}) {
    EXPECT_NE(text.find(path), std::string::npos) << text;
    EXPECT_NE(text.find('"'), std::string::npos) << text;
  }
  EXPECT_EQ(file.get_int_or("none", 3), 3);
  EXPECT_THROW(file.get_int_or("text", 3), Error);
}

TEST(Gguf, NanAndInfinityAreFoundInEveryType) {
  for (const GgmlType type : {GgmlType::kF32,
                              GgmlType::kF16,
                              GgmlType::kBF16,
                              GgmlType::kQ8_0,
                              GgmlType::kQ4_0,
                              GgmlType::kQ4_1,
                              GgmlType::kQ5_0,
                              GgmlType::kQ5_1,
                              GgmlType::kQ4_K,
                              GgmlType::kQ5_K,
                              GgmlType::kQ6_K}) {
    const std::string path = temporary_folder() + "/a.gguf";
    std::vector<std::byte> good(static_cast<std::size_t>(2 * row_bytes(type, 256)));
    std::vector<float> row(256, 1.0F);
    quantize_row(type, row.data(), 256, good.data());
    quantize_row(type, row.data(), 256, good.data() + good.size() / 2);
    for (const bool broken : {false, true}) {
      std::vector<std::byte> bytes = good;
      if (broken) {
        // The last scale or value of the second row.
        std::size_t at = bytes.size() / 2;
        if (type == GgmlType::kQ6_K) at = bytes.size() - 2;
        const std::uint16_t half = type == GgmlType::kBF16 ? 0x7F80 : 0x7C00;
        if (type == GgmlType::kF32) {
          const float nan = std::numeric_limits<float>::quiet_NaN();
          std::memcpy(&bytes[at], &nan, 4);
        } else {
          std::memcpy(&bytes[at], &half, 2);
        }
      }
      GgufWriter writer;
      writer.add_tensor("t", type, {256, 2}, [&](const GgufWriter::Sink& sink) { sink(bytes); });
      writer.write(path);
      if (broken)
        EXPECT_THROW(GgufFile(path).check_finite(), Error) << type_info(type).name;
      else
        EXPECT_NO_THROW(GgufFile(path).check_finite()) << type_info(type).name;
    }
  }
}

TEST(Gguf, AWrongNumberOfBytesLeavesNoFile) {
  const std::string folder = temporary_folder();
  for (const std::size_t count : {1U, 3U}) {
    GgufWriter writer;
    writer.add_tensor("t", GgmlType::kF32, {2}, floats(std::vector<float>(count)));
    EXPECT_THROW(writer.write(folder + "/a.gguf"), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(Gguf, DeclarationsAreChecked) {
  GgufWriter writer;
  writer.add_tensor("t", GgmlType::kQ8_0, {32, 2}, {});
  EXPECT_THROW(writer.add_tensor("t", GgmlType::kF32, {1}, {}), Error);
  EXPECT_THROW(writer.add_tensor("u", GgmlType::kQ8_0, {33}, {}), Error);
  EXPECT_THROW(writer.add_tensor(std::string(64, 'x'), GgmlType::kF32, {1}, {}), Error);
  EXPECT_THROW(writer.add_tensor("v", GgmlType::kF32, {1, 1, 1, 1, 1}, {}), Error);
  EXPECT_THROW(writer.add_tensor("w", GgmlType::kF32, {0}, {}), Error);
  EXPECT_THROW(GgufWriter(48), Error);
}

TEST(Gguf, OtherAlignmentsAreKept) {
  const std::string path = temporary_folder() + "/a.gguf";
  GgufWriter writer(256);
  writer.add_tensor("a", GgmlType::kF32, {1}, floats({1}));
  writer.add_tensor("b", GgmlType::kF32, {1}, floats({2}));
  writer.write(path);
  const GgufFile file(path);
  EXPECT_EQ(file.alignment(), 256U);
  EXPECT_EQ(file.tensor("b").offset, 256U);
}

}  // namespace
}  // namespace pocketvlm
