#include "trainer/event_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/stage_log.h"

namespace pocketvlm {
namespace {

TEST(EventFile, UsesTheChecksumThatTensorBoardChecks) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283U);  // the check value of CRC-32C
}

/// Payloads of a TFRecord file; checks lengths and both checksums of every frame.
std::vector<std::string> records(const std::string& bytes) {
  std::vector<std::string> result;
  const auto number = [&](std::size_t at, std::size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, size);
    return value;
  };
  const auto masked = [](const std::string& text) {
    const uint32_t crc = crc32c(text.data(), text.size());
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
  };
  for (std::size_t at = 0; at < bytes.size();) {
    const uint64_t size = number(at, 8);
    EXPECT_EQ(number(at + 8, 4), masked(bytes.substr(at, 8)));
    result.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(number(at + 12 + size, 4), masked(result.back()));
    at += 16 + size;
  }
  return result;
}

TEST(EventFile, HoldsOneRecordAStep) {
  const std::string path = test::test_folder() + "/events";
  EventFile file(path);
  file.append(300, 1.0, {{"loss", 0.5}});
  const auto found = records(read_file(path));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_NE(found[0].find("brain.Event:2"), std::string::npos);
  // step 300 as a varint, and the value {tag "loss", 0.5f}
  EXPECT_NE(found[1].find(std::string("\x10\xac\x02", 3)), std::string::npos);
  EXPECT_NE(found[1].find(std::string("\x0a\x04loss\x15\x00\x00\x00\x3f", 11)), std::string::npos);
}

TEST(StageLog, MakesTheEventsAgainWhenAStageContinues) {
  const std::string folder = test::test_folder() + "/log";
  make_folders(folder);
  std::int64_t kept = 0;
  {
    StageLog log(folder, 0);
    log.append({{"step", 1}, {"loss", 2.0}, {"seconds", 1.0}});
    kept = log.bytes();
    log.append({{"step", 2}, {"loss", 1.0}, {"seconds", 2.0}});
  }
  StageLog log(folder, kept);
  log.append({{"step", 2}, {"loss", 1.5}, {"seconds", 2.5}});
  EXPECT_EQ(records(read_file(folder + "/events.out.tfevents.pocketvlm")).size(), 3U);  // the version, two steps
  EXPECT_EQ(test::read_lines(folder + "/metrics.jsonl").back()["loss"], 1.5);
}

}  // namespace
}  // namespace pocketvlm
