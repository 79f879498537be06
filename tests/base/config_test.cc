#include "base/config.h"

#include <gtest/gtest.h>

namespace pocketvlm {
namespace {

struct Inner {
  double learning_rate = 1e-3;
  std::string schedule = "cosine";
  void visit_fields(auto&& field) {
    field("learning_rate", learning_rate, "peak", in_range(0, 1));
    field("schedule", schedule, "shape", one_of({"cosine", "linear"}));
  }
};

struct Outer {
  std::string name;
  int64_t steps = 10;
  int32_t small = 1;
  bool enabled = false;
  std::vector<int64_t> sizes = {1, 2};
  std::map<std::string, double> weights;
  std::optional<int64_t> limit;
  Inner inner;
  std::vector<Inner> list;
  void visit_fields(auto&& field) {
    field("name", name, "who", required());
    field("steps", steps, "how long", at_least(1));
    field("small", small, "32 bits");
    field("enabled", enabled, "whether");
    field("sizes", sizes, "how large", in_range(0, 9));
    field("weights", weights, "shares", at_least(0));
    field("limit", limit, "at most");
    field("inner", inner, "nested");
    field("list", list, "many");
  }
  void validate(const std::string& path) const {
    PV_CHECK(name != "forbidden", "{}.name: \"forbidden\" cannot be used", path);
  }
};

std::string error_of(const std::string& text) {
  try {
    read_config<Outer>(parse_json(text, "c.json"), "c.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

struct Mistake {
  const char* text;
  const char* error;  // how the message starts or what it holds
};

class ConfigMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(ConfigMistakes, AreAnsweredWithPathAndCure) {
  const std::string error = error_of(GetParam().text);
  EXPECT_NE(error.find(GetParam().error), std::string::npos) << GetParam().text << "\n-> " << error;
}

INSTANTIATE_TEST_SUITE_P(
    Config,
    ConfigMistakes,
    testing::Values(
        Mistake{R"({})", "c.json: the field \"name\" is required"},
        Mistake{R"({"name": 1})", "c.json.name: expected string, got number 1"},
        Mistake{R"({"name": "a", "step": 3})", "unknown key \"step\", did you mean \"steps\"?"},
        Mistake{R"({"name": "a", "qqqqqqqq": 3})", "unknown key \"qqqqqqqq\"; known keys: name, steps"},
        Mistake{R"({"name": "a", "steps": 0})", "c.json.steps: 0 is out of range (must be at least 1)"},
        Mistake{R"({"name": "a", "steps": 1.5})", "c.json.steps: expected integer, got number 1.5"},
        Mistake{R"({"name": "a", "steps": "3"})", "c.json.steps: expected integer"},
        Mistake{R"({"name": "a", "steps": 99999999999999999999})", "out of range for a 64-bit integer"},
        Mistake{R"({"name": "a", "steps": 18446744073709551615})", "c.json.steps: 18446744073709551615 is out of range"},
        Mistake{R"({"name": "a", "small": 3000000000})", "c.json.small: 3000000000 is out of range"},
        Mistake{R"({"name": "a", "enabled": 1})", "c.json.enabled: expected true or false"},
        Mistake{R"({"name": "a", "sizes": 1})", "c.json.sizes: expected list of integer"},
        Mistake{R"({"name": "a", "sizes": [1, 10]})", "c.json.sizes[1]: 10 is out of range"},
        Mistake{R"({"name": "a", "weights": {"x": -1}})", "c.json.weights.x: -1 is out of range"},
        Mistake{R"({"name": "a", "limit": "no"})", "c.json.limit: expected integer"},
        Mistake{R"({"name": "a", "inner": []})", "c.json.inner: expected object, got array"},
        Mistake{R"({"name": "a", "inner": {"learning_rat": 1}})", "c.json.inner: unknown key \"learning_rat\", did you mean \"learning_rate\"?"},
        Mistake{R"({"name": "a", "inner": {"learning_rate": 2}})", "c.json.inner.learning_rate: 2 is out of range (must be 0 to 1)"},
        Mistake{R"({"name": "a", "inner": {"schedule": "cosin"}})", "did you mean \"cosine\"?"},
        Mistake{R"({"name": "a", "list": [{}, {"schedule": 1}]})", "c.json.list[1].schedule: expected string"},
        Mistake{R"({"name": "forbidden"})", "c.json.name: \"forbidden\" cannot be used"},
        Mistake{R"([])", "c.json: expected object, got array"},
        Mistake{R"({"name": "a", "name": "b"})", "the key \"name\" appears twice"},
        Mistake{R"({"name": "a",})", "line 1, column 14"},
        Mistake{"{\"name\": \"a\" // comment\n}", "not valid JSON"},
        Mistake{R"({"name": "a", "steps": 1e999})", "not valid JSON"}));

TEST(Config, ReadsEveryKindOfField) {
  const auto config = read_config<Outer>(
      parse_json(R"({"name": "a", "steps": 5, "enabled": true, "sizes": [3], "weights": {"x": 0.5},
                     "limit": 7, "inner": {"learning_rate": 0.1}, "list": [{"schedule": "linear"}]})", "c.json"),
      "c.json");
  EXPECT_EQ(config.steps, 5);
  EXPECT_TRUE(config.enabled);
  EXPECT_EQ(config.sizes, std::vector<int64_t>{3});
  EXPECT_EQ(config.weights.at("x"), 0.5);
  EXPECT_EQ(config.limit, 7);
  EXPECT_EQ(config.inner.learning_rate, 0.1);
  EXPECT_EQ(config.list.at(0).schedule, "linear");
}

TEST(Config, WrittenConfigReadsBackTheSame) {
  Outer config;
  config.name = "a";
  config.limit = 3;
  config.weights["w"] = 2.5;
  config.list.resize(2);
  const Json json = config_to_json(config);
  EXPECT_EQ(config_to_json(read_config<Outer>(json, "again")), json);
}

TEST(Config, OverridesReachNestedPlacesAndLists) {
  Json json = parse_json(R"({"name": "a", "list": [{}, {}]})", "c.json");
  apply_override(json, "inner.learning_rate=0.25");
  apply_override(json, "list.1.schedule=linear");
  apply_override(json, "steps=7");
  const auto config = read_config<Outer>(json, "c.json");
  EXPECT_EQ(config.inner.learning_rate, 0.25);
  EXPECT_EQ(config.list[1].schedule, "linear");
  EXPECT_EQ(config.steps, 7);
  apply_override(json, "name=2026");  // a text stays one
  EXPECT_EQ(json["name"], "2026");
  EXPECT_THROW(apply_override(json, "list.5.schedule=linear"), Error);
  EXPECT_THROW(apply_override(json, "name.x=1"), Error);
  EXPECT_THROW(apply_override(json, "no equals sign"), Error);
}

TEST(Config, ExplainNamesEveryFieldWithMeaningAndRange) {
  const std::string text = explain_config(Outer{});
  for (const char* part : {"steps = 10", "how long (integer, at least 1)", "inner.learning_rate = 0.001",
                           "shape (string, one of: cosine, linear)", "list[].schedule"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

TEST(ClosestName, FindsSwappedLettersAndLeavesStrangersAlone) {
  EXPECT_EQ(closest_name("stpes", {"steps", "name"}), "steps");
  EXPECT_FALSE(closest_name("elephant", {"steps", "name"}).has_value());
}

}  // namespace
}  // namespace pocketvlm
