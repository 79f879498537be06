#include "rlaif/jsonl_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "rlaif/content_key.h"

namespace pocketvlm {
namespace {

std::string fresh(const std::string& name) {
  const std::string path = testing::TempDir() + "pocketvlm_" + name;
  std::filesystem::remove(path);
  return path;
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(JsonlLog, ContinuesWhereItWasCutAtAnyByte) {
  const std::string path = fresh("cut.jsonl");
  const std::string whole = "{\"n\":1}\n{\"text\":\"two \\n lines\"}\n{\"n\":3}\n";
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    write(path, whole.substr(0, size));
    std::size_t lines = 0;
    {
      JsonlLog log(path);
      lines = log.rows().size();
      EXPECT_EQ(lines,
                static_cast<std::size_t>(std::count(
                    whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size), '\n')));
      log.append({{{"n", 4}}});
    }
    const JsonlLog again(path);
    ASSERT_EQ(again.rows().size(), lines + 1) << "cut after " << size;
    EXPECT_EQ(again.rows().back().at("n"), 4);
  }
}

TEST(JsonlLog, KeepsTheFirstRowsAndGoesOn) {
  const std::string path = fresh("keep.jsonl");
  JsonlLog log(path);
  log.append({{{"n", 1}}, {{"n", 2}}, {{"n", 3}}});
  log.keep(1);
  log.append({{{"n", 5}}});
  EXPECT_EQ(read_file(path), "{\"n\":1}\n{\"n\":5}\n");
  log.keep(0);
  EXPECT_EQ(read_file(path), "");
}

TEST(JsonlLog, RefusesADamagedLineInTheMiddle) {
  const std::string path = fresh("damaged.jsonl");
  write(path, "{\"n\":1}\n{\"n\":\n{\"n\":3}\n");
  std::string error;
  try {
    JsonlLog log(path);
  } catch (const Error& thrown) {
    error = thrown.what();
  }
  EXPECT_NE(error.find("damaged.jsonl:2"), std::string::npos) << error;
  EXPECT_NE(error.find("delete the file"), std::string::npos) << error;
  write(path, "{\"n\":1}\n{\"n\":\n");
  EXPECT_EQ(JsonlLog(path).rows().size(), 1u);
}

TEST(ContentKey, TellsPartsAndBytesApart) {
  EXPECT_EQ(content_key({"ab", "c"}), content_key({"ab", "c"}));
  EXPECT_NE(content_key({"ab", "c"}), content_key({"a", "bc"}));
  EXPECT_NE(content_key({"ab"}), content_key({"ab", ""}));
  EXPECT_NE(content_key({"12345678"}), content_key({"12345679"}));
  EXPECT_EQ(content_key({""}).size(), 16u);
}

}  // namespace
}  // namespace pocketvlm
