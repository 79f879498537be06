#include "base/files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"

namespace pocketvlm {
namespace {

TEST(Files, AtomicWriteReplacesAndLeavesNothingBeside) {
  const std::string folder = testing::TempDir() + "/atomic_write";
  std::filesystem::remove_all(folder);
  write_file_atomic(folder + "/deep/a.txt", "one");
  write_file_atomic(folder + "/deep/a.txt", "two");
  EXPECT_EQ(read_file(folder + "/deep/a.txt"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder + "/deep"), std::filesystem::directory_iterator()), 1);
}

TEST(Files, ErrorsNameTheFile) {
  for (const std::string& path : {std::string("/nowhere/a"), testing::TempDir()}) {
    try {
      read_file(path);
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
    }
  }
  EXPECT_THROW(MappedFile("/nowhere/a"), Error);
  EXPECT_THROW(write_file_atomic("/proc/nowhere/a", "x"), Error);
}

TEST(Files, MappedFileShowsTheBytesAndSurvivesRelease) {
  const std::string path = testing::TempDir() + "/mapped.bin";
  const std::string bytes(100000, 'x');
  write_file_atomic(path, bytes);
  MappedFile file(path);
  MappedFile moved = std::move(file);
  ASSERT_EQ(moved.size(), bytes.size());
  moved.release(0, moved.size());
  EXPECT_EQ(static_cast<char>(moved.data()[99999]), 'x');
}

}  // namespace
}  // namespace pocketvlm
