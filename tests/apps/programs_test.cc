#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "tests/apps/program.h"

namespace pocketvlm {
namespace {

const std::string kPhoto = SOURCE_ROOT "/assets/photos/images/airplane.jpeg";  // 1920 x 1440

Json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return parse_json(outcome.out, "standard output");
}

/// Totals of the architecture sheets; they reproduce the released checkpoints' byte counts. A little of them never runs: the fixed
/// query positions of MiniCPM-V 1.0 and 2.0, the last CLIP block and the norm after it of MobileVLM.
TEST(InspectModel, CountsTheReleasedModelsExactly) {
  struct Totals {
    std::int64_t stored, unused;
  };
  const std::map<std::string, Totals> totals = {
      {"minicpmv-1.0", {3434965792, 64 * 2304}},      {"minicpmv-2.0", {3434965792, 64 * 2304}},
      {"minicpmv-2.5", {8537092336, 0}},              {"minicpmv-2.6", {8099175152, 0}},
      {"mobilevlm-1.7b", {1686742016, 12598272}},     {"mobilevlm-3b", {3033981696, 12598272}},
      {"mobilevlm-v2-1.7b", {1674121216, 12598272}},  {"mobilevlm-v2-3b", {3014273536, 12598272}}};
  for (const auto& [preset, total] : totals) {
    const Json report = json_of(run_program(program("pocketvlm") + " inspect model " + preset + " --json"));
    EXPECT_EQ(report["parameters"]["total"].get<std::int64_t>(), total.stored) << preset;
    EXPECT_EQ(report["parameters_that_run"]["total"].get<std::int64_t>(), total.stored - total.unused) << preset;
    EXPECT_EQ(report["memory"]["weights_bf16_bytes"].get<std::int64_t>(), 2 * (total.stored - total.unused)) << preset;
    EXPECT_GT(report["flops_per_token"].get<std::int64_t>(), 0);
    EXPECT_GT(report["flops_per_image"]["one_slice"].get<std::int64_t>(), 0);
  }
}

/// By hand for 1.0: 1024 patches of width 1152 through 26 blocks, then 64 queries of width 2304.
TEST(InspectModel, WorkOfAnImageIsThatOfItsMatrixProducts) {
  const Json report = json_of(run_program(program("pocketvlm") + " inspect model minicpmv-1.0 --json"));
  const std::int64_t n = 1024, v = 1152, h = 2304;
  const std::int64_t vision = 2 * n * v * 588 + 26 * (2 * n * (4 * v * v + 2 * v * 4304) + 4 * n * n * v);
  const std::int64_t projector = 2 * n * v * h + 2 * 2 * n * h * h + 2 * 2 * 64 * h * h + 4 * 64 * n * h + 2 * 64 * h * h;
  EXPECT_EQ(report["flops_per_image"]["vision_encoder_per_slice"].get<std::int64_t>(), vision);
  EXPECT_EQ(report["flops_per_image"]["projector_per_slice"].get<std::int64_t>(), projector);
  EXPECT_EQ(report["flops_per_image"]["most_slices"], report["flops_per_image"]["one_slice"]);
  const Json sliced = json_of(run_program(program("pocketvlm") + " inspect model minicpmv-2.6 --json"));
  EXPECT_EQ(sliced["flops_per_image"]["most_slices"].get<std::int64_t>(), 10 * sliced["flops_per_image"]["one_slice"].get<std::int64_t>());
}

/// 18 bytes a parameter with bf16 copies: masters, gradients, two moments.
TEST(InspectModel, PrintsTheSameForPeople) {
  const std::string text = run_program(program("pocketvlm") + " inspect model minicpmv-2.6").out;
  for (const char* line : {"  total             8,099,175,152\n", "  a text token          14.1\n", "  most slices        10406.6   640 visual tokens\n",
                           "  f32                 30.2      120.7               67.9       15.1\n",
                           "  bf16                15.1      135.8               83.0       17.0\n", "  57,344 bytes of f16 cache a token"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  EXPECT_NE(run_program(program("pocketvlm") + " inspect model mobilevlm-1.7b").out.find("303,507,456   (290,909,184 of them run)"), std::string::npos);
}

TEST(InspectImage, PrintsThePlanAndWritesPixels) {
  const std::string out = testing::TempDir() + "/slices.safetensors", png = testing::TempDir() + "/slices.png";
  const Json report = json_of(run_program(program("pocketvlm") + " inspect image " + kPhoto + " --model minicpmv-2.6 --json --out " +
                                          out + " --png " + png));
  EXPECT_EQ(report["width"], 1920);
  EXPECT_EQ(report["height"], 1440);
  const std::size_t slices = report["slices"].size();
  EXPECT_EQ(slices, 1 + report["grid"][0].get<std::size_t>() * report["grid"][1].get<std::size_t>());
  EXPECT_EQ(report["visual_tokens"].get<std::size_t>(), 64 * slices);
  const SafetensorsFile file(out);
  EXPECT_EQ(file.tensors().size(), slices);
  const auto size = report["slices"][1]["size"];
  EXPECT_EQ(file.at("slice.1").shape, (std::vector<std::int64_t>{3, size[1].get<std::int64_t>(), size[0].get<std::int64_t>()}));
  EXPECT_EQ(read_file(png).substr(1, 3), "PNG");
}

TEST(InspectImage, OldModelsHaveOneSlice) {
  for (const char* preset : {"minicpmv-1.0", "mobilevlm-1.7b"}) {
    const Json report = json_of(run_program(program("pocketvlm") + " inspect image " + kPhoto + " --json --model " + preset));
    EXPECT_TRUE(report["grid"].is_null());
    EXPECT_EQ(report["slices"].size(), 1U);
  }
}

TEST(InspectImage, ADamagedFileIsAnErrorThatNamesIt) {
  const std::string path = testing::TempDir() + "/cut.jpeg";
  write_file_atomic(path, read_file(kPhoto).substr(0, 20000));
  const Outcome outcome = run_program(program("pocketvlm") + " inspect image " + path + " --model minicpmv-2.6 --json");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find(path), std::string::npos);
  EXPECT_TRUE(outcome.out.empty());
}

TEST(DataCheck, TheShippedPhotographsAreAllUsable) {
  const Json report = json_of(run_program(program("pocketvlm") + " data check " SOURCE_ROOT "/assets/photos/data.json --json"));
  EXPECT_EQ(report["samples"], 70);
  EXPECT_EQ(report["kept"], 70);
  EXPECT_EQ(report["skipped"], 0);
}

TEST(DataCheck, DamagedSamplesAreCountedAndListed) {
  const std::string folder = testing::TempDir() + "/damaged";
  std::filesystem::remove_all(folder);
  write_file_atomic(folder + "/good.png", read_file(SOURCE_ROOT "/assets/photos/images/chelsea.png"));
  write_file_atomic(folder + "/cut.png", read_file(SOURCE_ROOT "/assets/photos/images/chelsea.png").substr(0, 999));
  write_file_atomic(folder + "/data.json", R"([
    {"id": "a", "image": "good.png", "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]},
    {"id": "b", "image": "cut.png", "conversations": [{"role": "user", "content": "<image>\nq"}, {"role": "assistant", "content": "a"}]},
    {"id": "c", "image": "missing.png", "conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}])");
  const Json report = json_of(run_program(program("pocketvlm") + " data check " + folder + "/data.json --json"));
  EXPECT_EQ(report["samples"], 3);
  EXPECT_EQ(report["kept"], 1);
  EXPECT_EQ(report["skipped"], 2);
  EXPECT_EQ(report["listed"].size(), 2U);
}

TEST(DataCheck, AStageIsCheckedUnderItsOwnLimits) {
  const std::string folder = testing::TempDir() + "/stage_check";
  std::filesystem::remove_all(folder);
  make_folders(folder);
  std::string lines;
  for (const std::string& answer : {std::string("fine"), std::string(3000, 'x')}) {
    lines += R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": ")" + answer + "\"}]}\n";
  }
  write_file_atomic(folder + "/data.jsonl", lines);
  write_file_atomic(folder + "/stage.json",
                    R"({"name": "s", "data": {"max_tokens": 500, "sources": [{"kind": "conversations", "path": ")" + folder + R"(/data.jsonl"}]}})");
  const std::string check = program("pocketvlm") + " data check " + folder + "/stage.json --json";
  const Outcome nameless = run_program(check);
  EXPECT_EQ(nameless.status, 1);
  EXPECT_NE(nameless.err.find("name the model by --model and --tokenizer"), std::string::npos) << nameless.err;
  Json preset = parse_json(read_file(SOURCE_ROOT "/configs/models/minicpmv-1.0.json"), "preset");
  preset["prompt"]["chat_template"] = "vicuna_v1";  // needs no pieces that the small vocabulary lacks
  preset["prompt"]["image_layout"] = "bare";
  write_file_atomic(folder + "/model.json", preset.dump());
  const std::string model = " --model " + folder + "/model.json --tokenizer " SOURCE_ROOT "/tests/data/preprocess/chat_templates.model";
  const Json report = json_of(run_program(check + model));
  EXPECT_EQ(report["samples"], 2);
  EXPECT_EQ(report["kept"], 1);
  EXPECT_EQ(report["reasons"], Json({{"too long", 1}}));
  EXPECT_EQ(json_of(run_program(check + model + " --set data.max_tokens=4000 --set data.batch_tokens=4096"))["kept"], 2);
  const Outcome data = run_program(program("pocketvlm") + " data check " + folder + "/data.jsonl --set data.max_tokens=1");
  EXPECT_EQ(data.status, 1);
  EXPECT_NE(data.err.find("--set: changes a field of a stage's config"), std::string::npos);
}

TEST(DataOcr, PicturesOfAFileOfTextPassTheCheck) {
  const std::string folder = testing::TempDir() + "/ocr", text = testing::TempDir() + "/ocr.txt";
  std::filesystem::remove_all(folder);
  write_file_atomic(text, "The quick brown fox\n\xff\nОчень быстрая лиса\n");
  const std::string command = program("pocketvlm") + " data ocr --count 6 --json --text " + text + " --photos " SOURCE_ROOT
                              "/assets/photos/images --set max_side=300 --out " + folder + " --seed ";
  const Json made = json_of(run_program(command + "3"));
  EXPECT_EQ(made["samples"], 6);
  EXPECT_EQ(made["lines"]["drawn"], 2);
  EXPECT_EQ(made["lines"]["reasons"], Json({{"invalid UTF-8", 1}}));
  const Json report = json_of(run_program(program("pocketvlm") + " data check " + folder + "/data.json --json"));
  EXPECT_EQ(report["kept"], 6);
  EXPECT_EQ(report["images"], 6);
  EXPECT_EQ(json_of(run_program(command + "3"))["samples"], 6) << "nothing is left to do";
  const Outcome other = run_program(command + "4");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("was begun with seed = 3, now it is 4"), std::string::npos) << other.err;
}

TEST(DataScenes, SameSeedSameBytes) {
  const std::string a = testing::TempDir() + "/scenes_a", b = testing::TempDir() + "/scenes_b";
  for (const std::string& folder : {a, b}) {
    std::filesystem::remove_all(folder);
    json_of(run_program(program("pocketvlm") + " data scenes --count 12 --seed 7 --languages en,zh --json --out " + folder));
  }
  EXPECT_EQ(read_file(a + "/data.json"), read_file(b + "/data.json"));
  EXPECT_EQ(read_file(a + "/truth.jsonl"), read_file(b + "/truth.jsonl"));
  const Json check = json_of(run_program(program("pocketvlm") + " data check " + a + "/data.json --json"));
  EXPECT_EQ(check["kept"], check["samples"]);
}

std::string small_bench_shapes() {
  const std::string shapes = testing::TempDir() + "/bench_shapes.json";
  write_file_atomic(shapes, R"({
    "vision": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    "queries": 4, "resampler_heads": 2,
    "language": {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}})");
  return shapes;
}

TEST(Bench, PaddingCountsTheSameTokensAsPacking) {
  const std::string bench = " bench --steps 1 --threads 1 --json --shapes " + small_bench_shapes() + " --task ";
  const auto useful = [&](const std::string& more) {
    const Json report = json_of(run_program(program("pocketvlm") + bench + more));
    EXPECT_EQ(report["device"], "cpu");
    EXPECT_FALSE(report.contains("peak_device_mib"));
    return report["useful_per_s"].get<double>() * report["median_s"].get<double>();
  };
  const double packed = useful("sft");
  EXPECT_GT(packed, 8 * 4);  // visual tokens alone
  EXPECT_NEAR(useful("sft --padded"), packed, 1e-6);
  EXPECT_LT(useful("sft --longest-text 8"), packed);
  EXPECT_NEAR(useful("stage1 --longest-text 8"), 8 * (4 + 8), 1e-6);
  for (const char* option : {"--padded", "--longest-text 64"}) {
    const std::string error = run_program(program("pocketvlm") + bench + "dpo " + option).err;
    EXPECT_NE(error.find("is for sft and stage1, not dpo"), std::string::npos) << error;
  }
}

TEST(Bench, AGpuThatIsNotThereIsOneError) {
  const Outcome outcome = run_program(program("pocketvlm") + " bench --task sft --device cuda --json --shapes " + small_bench_shapes());
  if (outcome.status == 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(outcome.out.empty()) << outcome.out;
  EXPECT_EQ(outcome.err.find("bench: --device cuda: "), std::string("pocketvlm: ").size()) << outcome.err;
  EXPECT_NE(outcome.err.find("use cpu"), std::string::npos) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

TEST(Start, ThreadsOfTheEngineSpinBrieflyUnlessTheUserSaysOtherwise) {
  const std::string start = program("pocketvlm") + " bench --task sft --shapes /nowhere.json";
  const auto says = [&](const std::string& before, const std::string& text) {
    return run_program("OMP_DISPLAY_ENV=verbose " + before + " " + start).err.find(text) != std::string::npos;
  };
  if (!says("", "GOMP_SPINCOUNT")) GTEST_SKIP() << "LibTorch was built with another OpenMP";
  EXPECT_TRUE(says("", "GOMP_SPINCOUNT = '4000'"));
  EXPECT_TRUE(says("GOMP_SPINCOUNT=77", "GOMP_SPINCOUNT = '77'"));
  EXPECT_FALSE(says("OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT = '4000'"));
}

TEST(Usage, MistakesExitWithOneAndSayWhatToDo) {
  for (const char* arguments : {"", "inspect", "nonsense", "inspect model nope --json", "run /nowhere.json", "generate --checkpoint /nowhere --prompt x",
                                "inspect tokens --tokenizer /nowhere --text a", "data check /nowhere.json --json"}) {
    const Outcome outcome = run_program(program("pocketvlm") + " " + arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_FALSE(outcome.err.empty()) << arguments;
    EXPECT_TRUE(outcome.out.empty()) << arguments << outcome.out;
  }
}

}  // namespace
}  // namespace pocketvlm
