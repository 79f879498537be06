#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "tests/apps/program.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

/// `pocketvlm ablate` on commands of the shell, whose figures are known.
class Ablate : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/ablate_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }

  /// A file whose runs print {"loss": ..., "deep": {"list": [a, b]}} and leave one line in `count` each time.
  Json file() const {
    const std::string script =
        "echo run >> " + folder_ + "/count; echo \"{\\\"loss\\\": $1, \\\"deep\\\": [{\\\"steps\\\": $2}, null]}\"";
    return {{"name", "shell"},
            {"title", "Shells"},
            {"inputs", {{"script", script}}},
            {"command", {"sh", "-c", "{script}", "sh"}},
            {"metrics", {{{"name", "loss"}, {"path", "loss"}, {"unit", "nats"}},
                         {{"name", "steps"}, {"path", "deep.0.steps"}, {"better", "higher"}, {"scale", 0.5}, {"digits", 1}},
                         {{"name", "time"}, {"path", "run.seconds"}, {"unit", "s"}}}},
            {"variants", {{{"name", "base"}, {"arguments", {"2.5", "10"}}, {"paper", {{"loss", 3.25}}}},
                          {{"name", "more"}, {"title", "with <more>"}, {"arguments", {"1.5", "30"}}}}}};
  }

  Outcome run(const Json& json, const std::string& options = "--json") const {
    write_json(folder_ + "/file.json", json);
    return run_program(program("pocketvlm") + " ablate " + folder_ + "/file.json --out " + folder_ + "/out " + options);
  }

  std::int64_t runs() const {
    const std::string text = std::filesystem::exists(folder_ + "/count") ? read_file(folder_ + "/count") : "";
    return std::count(text.begin(), text.end(), '\n');
  }

  std::string folder_;
};

TEST_F(Ablate, TabulatesFiguresBesideThePapers) {
  const Outcome outcome = run(file());
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json table = parse_json(outcome.out, "standard output");
  EXPECT_EQ(table, read_json(folder_ + "/out/table.json"));
  ASSERT_EQ(table["rows"].size(), 2U);
  EXPECT_EQ(table["rows"][0]["figures"]["loss"]["mean"], 2.5);
  EXPECT_EQ(table["rows"][1]["figures"]["steps"]["mean"], 15.0);
  EXPECT_EQ(table["rows"][0]["paper"]["loss"], 3.25);
  EXPECT_GT(table["rows"][0]["figures"]["time"]["mean"].get<double>(), 0.0);
  const std::string text = read_file(folder_ + "/out/table.md");
  EXPECT_NE(text.find("|  | loss (nats) | paper: loss (nats) | steps | time (s) |"), std::string::npos) << text;
  EXPECT_NE(text.find("| base | 2.50 | 3.25 | 5.0 |"), std::string::npos) << text;
  EXPECT_NE(text.find("| with <more> | 1.50 | - | 15.0 |"), std::string::npos) << text;
  const std::string page = read_file(folder_ + "/out/table.html");
  EXPECT_NE(page.find("with &lt;more&gt;"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);  // needs no other file
}

TEST_F(Ablate, RunsNothingTwice) {
  ASSERT_EQ(run(file()).status, 0);
  EXPECT_EQ(runs(), 2);
  Json more = file();
  more["variants"].push_back({{"name", "third"}, {"arguments", {"0.5", "40"}}});
  const Outcome again = run(more);
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(runs(), 3);
  EXPECT_EQ(parse_json(again.out, "out")["rows"].size(), 3U);
  more["variants"][0]["arguments"][0] = "9";
  const Outcome changed = run(more);
  EXPECT_EQ(changed.status, 1);
  EXPECT_NE(changed.err.find("result.json: made by another command than"), std::string::npos) << changed.err;
}

TEST_F(Ablate, ContinuesAKilledRunWithResume) {
  Json json = file();
  json["resume"] = Json::array({"resumed"});
  // Dies the first time; the second time it is told so by its third argument.
  json["inputs"]["script"] = "if [ \"$3\" = resumed ]; then echo '{\"loss\": 1, \"deep\": [{\"steps\": 2}]}'; else kill -9 $$; fi";
  json["variants"] = Json::array({{{"name", "one"}, {"arguments", {"a", "b"}}}});
  const Outcome killed = run(json);
  EXPECT_EQ(killed.status, 1);
  EXPECT_NE(killed.err.find("one: `sh -c"), std::string::npos) << killed.err;
  EXPECT_NE(killed.err.find("ended with status 137"), std::string::npos) << killed.err;
  const Outcome continued = run(json);
  ASSERT_EQ(continued.status, 0) << continued.err;
  EXPECT_EQ(parse_json(continued.out, "out")["rows"][0]["figures"]["loss"]["mean"], 1.0);
}

/// Seeds fill {seed}; overrides are added as --set; a result may be a file in the run's folder.
TEST_F(Ablate, RepeatsOverSeeds) {
  Json json = file();
  json["inputs"]["script"] =
      "echo \"{\\\"loss\\\": $1, \\\"deep\\\": [{\\\"steps\\\": 4}], \\\"said\\\": \\\"$2 $3\\\"}\" > \"$0\"";
  json["command"] = {"sh", "-c", "{script}", "{out}/figures.json", "{seed}"};
  json["variants"] = Json::array({{{"name", "one"}, {"set", Json::array({"a.b=c"})}}});
  json["result"] = "{out}/figures.json";
  json["seeds"] = {1, 2, 6};
  const Outcome outcome = run(json);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json figure = parse_json(outcome.out, "out")["rows"][0]["figures"]["loss"];
  EXPECT_EQ(figure["mean"], 3.0);
  EXPECT_NEAR(figure["deviation"].get<double>(), 2.6457513, 1e-6);
  EXPECT_EQ(figure["values"], (Json{1.0, 2.0, 6.0}));
  EXPECT_EQ(read_json(folder_ + "/out/one-seed2/figures.json")["said"], "--set a.b=c");
  EXPECT_NE(read_file(folder_ + "/out/table.md").find("3.00 +- 2.65"), std::string::npos);
}

TEST_F(Ablate, SaysWhatIsWrongBeforeItRunsAnything) {
  const auto error = [&](const Json& json) {
    const Outcome outcome = run(json);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(runs(), 0);
    return outcome.err;
  };
  Json json = file();
  json["inputs"]["script"] = "";
  EXPECT_NE(error(json).find("variant \"base\": the input \"script\" has no value; give it with --set inputs.script=VALUE"), std::string::npos);
  json = file();
  json["variants"][1]["arguments"][0] = "{nothing}";
  EXPECT_NE(error(json).find("variant \"more\": \"{nothing}\" names {nothing}, which is neither an input nor out, variants, variant or seed"),
            std::string::npos);
  json = file();
  json["variants"][0]["paper"] = {{"los", 1.0}};
  EXPECT_NE(error(json).find("variants[0].paper: no metric is called \"los\", did you mean \"loss\"?"), std::string::npos);
  json = file();
  json["variants"][1]["name"] = "base";
  EXPECT_NE(error(json).find(".variants: \"base\" is named twice"), std::string::npos);
  json = file();
  json["variants"][1]["name"] = "../x";
  EXPECT_NE(error(json).find("variants[1].name: \"../x\" names a folder: letters, digits, - and _ alone"), std::string::npos);
  json = file();
  json["metrics"][0]["pth"] = "x";
  EXPECT_NE(error(json).find("unknown key \"pth\", did you mean \"path\"?"), std::string::npos);
}

TEST_F(Ablate, NamesAFigureThatARunDoesNotHave) {
  Json json = file();
  json["metrics"][1]["path"] = "deep.7.steps";
  EXPECT_NE(run(json).err.find("base: its result has no \"deep.7.steps\" (metric \"steps\")"), std::string::npos);
}

/// The shipped ladder, walked with a model of a few thousand weights.
TEST_F(Ablate, WalksTheDeploymentLadder) {
  TinyModel tiny;
  tiny.type = GgmlType::kQ4_0;
  tiny.wide = true;
  const TinyFiles files = write_tiny_model(tiny);
  const std::string command = program("pocketvlm") + " ablate " + SOURCE_ROOT + "/configs/ablations/deployment.json --out " + folder_ +
                              "/ladder --set inputs.model=" + files.language + " --set inputs.mmproj=" + files.mmproj +
                              " --set 'inputs.prompt_tokens=\"8\"' --set 'inputs.gen_tokens=\"2\"' --set 'inputs.repeat=\"1\"'";
  const Outcome dry = run_program(command + " --dry-run");
  EXPECT_EQ(dry.status, 0) << dry.err;
  EXPECT_NE(dry.out.find("plain: pocketvlm-mobile bench --json --model " + files.language), std::string::npos) << dry.out;
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/ladder"));
  const Outcome outcome = run_program(command + " --json");
  if (outcome.err.find("needs AVX-512 VNNI") != std::string::npos) GTEST_SKIP() << "the last step needs AVX-512 VNNI";
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json table = parse_json(outcome.out, "out");
  ASSERT_EQ(table["rows"].size(), 6U);
  for (const Json& row : table["rows"]) {
    for (const char* metric : {"image", "encoding", "decoding", "peak memory"}) EXPECT_GT(row["figures"][metric]["mean"].get<double>(), 0.0) << row;
    const Json bench = read_json(folder_ + "/ladder/" + row["variant"].get<std::string>() + "/result.json")["result"];
    EXPECT_GE(bench["encoding_ms"].get<double>(), bench["load_ms"].get<double>() + bench["vision_ms_per_slice"].get<double>());
  }
  EXPECT_EQ(read_json(folder_ + "/ladder/plain/result.json")["result"]["kernels"], "scalar");
}

}  // namespace
}  // namespace pocketvlm
