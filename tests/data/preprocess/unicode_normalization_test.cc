#include "data/preprocess/unicode_normalization.h"

#include <gtest/gtest.h>

#include "base/json.h"

/// Against the tokenizers library (tests/golden/make_normal_forms.py).
namespace pocketvlm {
namespace {

TEST(UnicodeNormalization, GivesTheNormalFormsOfTheReference) {
  const Json cases = read_json(TEST_DATA "/data/preprocess/normal_forms_golden.json");
  ASSERT_GT(cases.size(), 600U);
  std::size_t changed = 0;
  for (const Json& item : cases) {
    const auto text = item[0].get<std::string>(), normal = item[1].get<std::string>();
    EXPECT_EQ(normalize_nfc(text), normal) << item.dump(-1, ' ', true);
    EXPECT_EQ(normalize_nfc(normal), normal);
    changed += text != normal ? 1 : 0;
  }
  EXPECT_GT(changed, 400U);
}

TEST(UnicodeNormalization, LongRunsOfMarksTakeNoLongerThanTheirLength) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";  // acute above, dot below
  const std::string normal = normalize_nfc(text);
  EXPECT_EQ(normal.substr(0, 3), "\xE1\xBA\xA1");  // the dots come first: a with dot below
  EXPECT_EQ(normal.size(), text.size());           // one byte and one mark became three bytes
}

}  // namespace
}  // namespace pocketvlm
