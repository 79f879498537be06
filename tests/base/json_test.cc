#include "base/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"

namespace pocketvlm {
namespace {

TEST(Json, NestingHasALimit) {
  EXPECT_NO_THROW(parse_json(std::string(60, '[') + std::string(60, ']'), "x"));
  EXPECT_THROW(parse_json(std::string(100000, '['), "x"), Error);
}

TEST(Json, ErrorsNameLineAndColumn) {
  try {
    parse_json("{\n  \"a\": 1,\n  \"b\" 2\n}", "file.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("file.json: line 3"), std::string::npos) << error.what();
  }
}

TEST(Json, NotANumberIsNeverWritten) {
  Json value = {{"loss", std::numeric_limits<double>::quiet_NaN()}};
  EXPECT_THROW(write_json(testing::TempDir() + "/nan.json", value), Error);
}

TEST(Json, TextAfterTheValueIsRefused) { EXPECT_THROW(parse_json("{} {}", "x"), Error); }

}  // namespace
}  // namespace pocketvlm
