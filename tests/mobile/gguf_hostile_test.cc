#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "mobile/gguf.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

template <typename T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_text(std::string& out, const std::string& text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

// A file made by hand; every field can be spoilt.
struct Parts {
  std::uint32_t magic = 0x46554747;
  std::uint32_t version = 3;
  std::int64_t num_tensors = 2;
  std::int64_t num_values = 1;
  std::string key = "general.architecture";
  std::uint32_t value_type = 8;
  std::string value;  // raw
  std::string first_name = "a";
  std::uint32_t num_dims = 2;
  std::int64_t ne0 = 32;
  std::int64_t ne1 = 2;
  std::uint32_t type = 8;  // Q8_0: 68 bytes, padded to 96
  std::uint64_t first_offset = 0;
  std::uint64_t second_offset = 96;
  std::string tail;

  Parts() { put_text(value, "llama"); }

  std::string bytes() const {
    std::string out;
    put(out, magic);
    put(out, version);
    put(out, num_tensors);
    put(out, num_values);
    put_text(out, key);
    put(out, value_type);
    out += value;
    put_text(out, first_name);
    put(out, num_dims);
    put(out, ne0);
    put(out, ne1);
    put(out, type);
    put(out, first_offset);
    put_text(out, "b");
    put(out, std::uint32_t{1});
    put(out, std::int64_t{4});
    put(out, std::uint32_t{0});
    put(out, second_offset);
    out.resize((out.size() + 31) / 32 * 32, '\0');
    out.append(96 + 32, '\x01');
    return out + tail;
  }
};

class Hostile : public ::testing::Test {
 protected:
  std::string path_ = temporary_folder() + "/x.gguf";

  // The error text, or empty when the file was accepted.
  std::string read(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    try {
      GgufFile file(path_);
      file.check_finite();
      return "";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path_), std::string::npos) << error.what();
      return error.what();
    }
  }

  void expect_refused(const Parts& parts, const std::string& words) {
    const std::string text = read(parts.bytes());
    EXPECT_NE(text.find(words), std::string::npos) << "wanted \"" << words << "\", got: " << text;
  }
};

TEST_F(Hostile, TheUnspoiltFileIsRead) { EXPECT_EQ(read(Parts().bytes()), ""); }

TEST_F(Hostile, EveryTruncationIsRefused) {
  const std::string whole = Parts().bytes();
  for (std::size_t size = 0; size + 16 < whole.size();
       ++size) {  // 16 bytes of padding may be missing
    EXPECT_NE(read(whole.substr(0, size)), "") << size;
  }
}

TEST_F(Hostile, TruncationsOfAModelAreRefused) {
  const TinyFiles files = write_tiny_model({});
  for (const std::string& file : {files.language, files.mmproj}) {
    const std::string whole = read_file(file);
    // The header densely, the tensors of the rest sparsely, to keep the test short.
    for (std::size_t size = 0; size + 32 < whole.size(); size += size < 16384 ? 64 : 4096) {
      EXPECT_NE(read(whole.substr(0, size)), "") << file << " " << size;
    }
  }
}

TEST_F(Hostile, HeaderFields) {
  Parts parts;
  parts.magic = 0x46464747;
  expect_refused(parts, "not a GGUF file");
  parts = Parts();
  parts.version = 2;
  expect_refused(parts, "version 2");
  parts.version = 0x03000000;
  expect_refused(parts, "big-endian");
}

TEST_F(Hostile, HugeCounts) {
  for (const std::int64_t count : {std::int64_t{1} << 40, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    Parts parts;
    parts.num_tensors = count;
    expect_refused(parts, "tensors, more than the file can hold");
    parts = Parts();
    parts.num_values = count;
    expect_refused(parts, "metadata values, more than the file can hold");
  }
}

TEST_F(Hostile, HugeStringsAndLists) {
  Parts parts;
  parts.value.clear();
  put(parts.value, std::uint64_t{1} << 63);
  expect_refused(parts, "claims 9223372036854775808 bytes");
  for (const std::uint32_t element : {0U, 4U, 8U, 7U, 12U}) {
    parts = Parts();
    parts.value_type = 9;
    parts.value.clear();
    put(parts.value, element);
    put(parts.value, std::uint64_t{1} << 61);
    expect_refused(parts, "elements, more than the file can hold");
  }
  parts = Parts();
  parts.value_type = 9;
  parts.value.clear();
  put(parts.value, std::uint32_t{9});
  put(parts.value, std::uint64_t{1});
  expect_refused(parts, "list of lists");
}

TEST_F(Hostile, WrongTypes) {
  Parts parts;
  parts.value_type = 13;
  expect_refused(parts, "unknown value type 13");
  parts = Parts();
  parts.type = 4;  // retired
  expect_refused(parts, "unknown type number 4");
  parts.type = 0xFFFFFFFF;
  expect_refused(parts, "unknown type number");
  parts = Parts();
  parts.value_type = 7;
  parts.value = "\x02";
  expect_refused(parts, "boolean is 0 or 1");
}

TEST_F(Hostile, Shapes) {
  Parts parts;
  parts.num_dims = 5;
  expect_refused(parts, "5 dimensions");
  parts.num_dims = 0;
  expect_refused(parts, "0 dimensions");
  parts = Parts();
  parts.ne0 = 33;
  expect_refused(parts, "not whole q8_0 blocks");
  parts.ne0 = 0;
  expect_refused(parts, "the size 0");
  parts.ne0 = -32;
  expect_refused(parts, "the size -32");
  parts = Parts();
  parts.ne1 = std::int64_t{1} << 58;
  expect_refused(parts, "more elements than any file can hold");
  parts.ne1 = std::int64_t{1} << 50;
  expect_refused(parts, "the file ends inside tensor");
}

TEST_F(Hostile, Offsets) {
  for (const std::uint64_t offset :
       {std::uint64_t{1}, std::uint64_t{32}, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    Parts parts;
    parts.first_offset = offset;
    expect_refused(parts, "without gap or overlap");
    parts = Parts();
    parts.second_offset = offset;
    expect_refused(parts, "without gap or overlap");
  }
}

TEST_F(Hostile, NamesAndText) {
  Parts parts;
  parts.first_name = "b";
  expect_refused(parts, "appears twice");
  parts.first_name = "";
  expect_refused(parts, "no name");
  parts.first_name = std::string(64, 'n');
  expect_refused(parts, "more than the 63 allowed");
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\xE2\x96", "\xFF"}) {
    parts = Parts();
    parts.first_name = bad;
    expect_refused(parts, "not valid UTF-8");
    parts = Parts();
    parts.key = bad;
    expect_refused(parts, "not valid UTF-8");
    parts = Parts();
    parts.value.clear();
    put_text(parts.value, bad);
    expect_refused(parts, "not valid UTF-8");
  }
  parts = Parts();
  parts.key = "";
  expect_refused(parts, "is empty");
}

TEST_F(Hostile, AlignmentMustBeAPowerOfTwo) {
  for (const std::uint32_t alignment : {0U, 1U, 48U, 1U << 30}) {
    Parts parts;
    parts.key = "general.alignment";
    parts.value_type = 4;
    parts.value.clear();
    put(parts.value, alignment);
    expect_refused(parts, "general.alignment");
  }
}

TEST_F(Hostile, BytesBehindTheLastTensorAreRefused) {
  Parts parts;
  parts.tail = "x";
  expect_refused(parts, "follow the last tensor");
}

TEST_F(Hostile, FlippedBytesNeverCrash) {
  const std::string whole = read_file(write_tiny_model({}).mmproj);
  Random random({3});
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes = whole;
    for (int flip = 0; flip < 3; ++flip) {
      const auto at = static_cast<std::size_t>(random.below(12000));  // within the header
      bytes[at] = static_cast<char>(random.below(256));
    }
    read(bytes);
  }
}

}  // namespace
}  // namespace pocketvlm
