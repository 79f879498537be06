#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "tests/apps/program.h"
#include "tests/model/released/tiny_release.h"

/// `import`, `save-hf`, `inspect checkpoint` and `inspect forward` as users meet them.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

const std::string kPhoto = SOURCE_ROOT "/assets/photos/images/chelsea.png";          // 451 x 300
const std::string kLargePhoto = SOURCE_ROOT "/assets/photos/images/airplane.jpeg";  // 1920 x 1440

Json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.status == 0 ? parse_json(outcome.out, "standard output") : Json::object();
}

class ReleasedPrograms : public testing::Test {
 protected:
  ReleasedPrograms() {
    root_ = testing::TempDir() + "/programs_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
  }
  ~ReleasedPrograms() override { fs::remove_all(root_); }

  std::string imported(const std::string& family) {
    const std::string source = root_ + "/" + family;
    write_release(source, tiny_release_config(family), tiny_release_tensors(family, "F32"), 2);
    json_of(run_program(program("pocketvlm") + " import " + source + " --out " + source + ".imported --json"));
    return source + ".imported";
  }

  std::string write_ids(const std::vector<std::int64_t>& ids) {
    const std::string path = root_ + "/ids.json";
    write_json(path, {{"ids", ids}});
    return path;
  }

  Outcome forward(const std::string& folder, const std::string& arguments) {
    return run_program(program("pocketvlm") + " inspect forward --checkpoint " + folder + " --threads 1 --json --out " + root_ +
                       "/stages.safetensors " + arguments);
  }

  std::vector<float> stage(const std::string& name) {
    const SafetensorsFile file(root_ + "/stages.safetensors");
    const TensorView& view = file.at(name);
    std::vector<float> values(view.bytes.size() / 4);
    std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
    return values;
  }

  std::string root_;
};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(double{a[i]} - double{b[i]}));
  return largest;
}

TEST_F(ReleasedPrograms, ImportAndSaveRoundTripAndSayWhatWentThrough) {
  const std::string folder = imported("minicpmv-2.6");
  const Json saved = json_of(run_program(program("pocketvlm") + " save-hf " + folder + " --out " + root_ + "/back --json"));
  const OwnedTensors source = tiny_release_tensors("minicpmv-2.6", "F32"), back = read_tensors(root_ + "/back");
  EXPECT_EQ(saved["family"], "minicpmv-2.6");
  EXPECT_EQ(saved["tensors"], source.size());
  ASSERT_EQ(back.size(), source.size());
  for (const auto& [name, tensor] : source) EXPECT_TRUE(back.at(name).bytes == tensor.bytes) << name;
  EXPECT_EQ(read_json(root_ + "/back/config.json"), tiny_release_config("minicpmv-2.6"));
}

TEST_F(ReleasedPrograms, InspectCheckpointCountsBothLayouts) {
  const std::string folder = imported("mobilevlm-v2");
  const Json ours = json_of(run_program(program("pocketvlm") + " inspect checkpoint " + folder + " --json"));
  EXPECT_EQ(ours["family"], "mobilevlm-v2");
  EXPECT_EQ(ours["dtypes"]["F32"], ours["tensors"]);
  EXPECT_EQ(ours["bytes"].get<std::int64_t>(), 4 * ours["parameters"]["total"].get<std::int64_t>());
  EXPECT_TRUE(ours["nonfinite"].empty());
  const Json released = json_of(run_program(program("pocketvlm") + " inspect checkpoint " + root_ + "/mobilevlm-v2 --json"));
  // One block of width 16 and the norm after it are stored and never run.
  const std::int64_t unused = 4 * (16 * 16 + 16) + (16 * 24 + 24) + (24 * 16 + 16) + 4 * 16 + 2 * 16;
  EXPECT_EQ(released["parameters"]["total"].get<std::int64_t>(), ours["parameters"]["total"].get<std::int64_t>() + unused);
  EXPECT_EQ(run_program(program("pocketvlm") + " inspect checkpoint " + root_ + "/nowhere").status, 1);
}

TEST_F(ReleasedPrograms, ForwardWritesEveryStage) {
  const std::string folder = imported("minicpmv-2.6");
  std::vector<std::int64_t> ids = {5, 9};
  ids.insert(ids.end(), 6, 3);  // six queries; 3 is the only id that fits
  ids.push_back(11);
  const Json report = json_of(forward(folder, "--max-slices 1 --image " + kPhoto + " --ids " + write_ids(ids)));
  EXPECT_EQ(report["tensors"]["projector"], Json({1, 6, 128}));
  EXPECT_EQ(report["tensors"]["logits"], Json({9, 96}));
  EXPECT_EQ(report["tensors"]["vision.0"][1], 16);
  EXPECT_EQ(report["tensors"]["vision.0"][0], report["tensors"]["pixels.0"][0]);
  const std::vector<float> logits = stage("logits");
  std::replace(ids.begin(), ids.end(), 3, -200);
  json_of(forward(folder, "--max-slices 1 --image " + kPhoto + " --ids " + write_ids(ids)));
  EXPECT_EQ(stage("logits"), logits);
  json_of(forward(folder, "--ids " + write_ids({5, 9, 11})));
  EXPECT_EQ(stage("logits").size(), 3U * 96U);
}

TEST_F(ReleasedPrograms, TheQuirkOfLlama3VIsReproducedOnRequestOnly) {
  const std::string folder = imported("minicpmv-2.5");
  // An overview and two tiles of another size: the shorter ones are padded.
  const std::string common = "--max-slices 2 --image " + kLargePhoto + " --ids " + write_ids(std::vector<std::int64_t>(18, -200));
  EXPECT_EQ(json_of(forward(folder, common))["compat"], "released");  // what import recorded
  const std::vector<float> recorded = stage("vision.0");
  json_of(forward(folder, common + " --compat released"));
  EXPECT_EQ(stage("vision.0"), recorded);
  json_of(forward(folder, common + " --compat right"));
  EXPECT_GT(largest_difference(stage("vision.0"), recorded), 1e-3);
  const std::string other = imported("minicpmv-2.6");
  json_of(forward(other, common + " --compat right"));
  const std::vector<float> right = stage("logits");
  json_of(forward(other, common + " --compat released"));
  EXPECT_EQ(stage("logits"), right);
}

TEST_F(ReleasedPrograms, InitMakesRandomWeightsThatGenerateAsTheyAreStored) {
  make_folders(root_);
  Json vocab = {{"<unk>", 0}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 1 + byte;
  Json added = Json::array();
  for (const char* piece : {"<s>", "</s>"}) added.push_back({{"id", 257 + added.size()}, {"content", piece}, {"special", true}});
  const Json prepend = {{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}};
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}};
  write_json(root_ + "/tokenizer.json", {{"normalizer", {{"type", "Sequence"}, {"normalizers", {prepend, replace}}}},
                                         {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", Json::array()}}},
                                         {"added_tokens", added}});
  write_json(root_ + "/tokenizer_config.json", {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  Json config = read_json(SOURCE_ROOT "/configs/models/quickstart.json");
  config["language"]["vocab"] = 300;
  config["prompt"]["chat_template"] = "vicuna_v1";
  config["prompt"]["image_layout"] = "bare";
  write_json(root_ + "/model.json", config);
  const auto init = [&](const std::string& out, const std::string& dtype) {
    return run_program(program("pocketvlm") + " init " + root_ + "/model.json --tokenizer " + root_ + "/tokenizer.json --seed 3 --json --out " +
                       root_ + "/" + out + " --dtype " + dtype);
  };
  const Json made = json_of(init("wide", "f32"));
  json_of(init("narrow", "bf16"));
  EXPECT_EQ(init("narrow", "bf16").status, 1) << "an existing folder is not replaced";
  const Json narrow = json_of(run_program(program("pocketvlm") + " inspect checkpoint " + root_ + "/narrow --json"));
  EXPECT_EQ(narrow["dtypes"], Json({{"BF16", narrow["tensors"]}}));
  EXPECT_EQ(narrow["parameters"]["total"], made["parameters"]);
  const auto ids = [&](const std::string& folder, const std::string& options) {
    return json_of(run_program(program("pocketvlm") + " generate --checkpoint " + root_ + "/" + folder + " --image " + kPhoto +
                               " --prompt 'what is it?' --max-new-tokens 5 --threads 1 --json " + options))["ids"];
  };
  const Json answer = ids("narrow", "");
  EXPECT_FALSE(answer[0].empty());
  EXPECT_EQ(ids("narrow", "--dtype bf16"), answer);
  EXPECT_EQ(ids("wide", "--dtype f32"), ids("wide", ""));
}

TEST_F(ReleasedPrograms, ForwardRefusesIdsThatDoNotFitThePictures) {
  const std::string folder = imported("mobilevlm");
  const auto error = [&](const std::string& arguments) {
    const Outcome outcome = forward(folder, arguments);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_FALSE(fs::exists(root_ + "/stages.safetensors"));
    return outcome.err;
  };
  EXPECT_NE(error("--image " + kPhoto + " --ids " + write_ids({1, -200, -200})).find("4 in all"), std::string::npos);
  EXPECT_NE(error("--ids " + write_ids({1, -200})).find("-200 stands at 1 places"), std::string::npos);
  EXPECT_NE(error("--ids " + write_ids({1, 96})).find("outside the vocabulary of 96"), std::string::npos);
  EXPECT_NE(error("--max-slices 3 --ids " + write_ids({1})).find("--max-slices"), std::string::npos);
  EXPECT_NE(error("--prompt hello").find("tokenizer.model"), std::string::npos);
}

TEST_F(ReleasedPrograms, MistakesAreAnsweredWithTheCure) {
  const std::string source = root_ + "/broken";
  OwnedTensors tensors = tiny_release_tensors("mobilevlm");
  tensors.erase("model.norm.weight");
  write_release(source, tiny_release_config("mobilevlm"), tensors);
  const Outcome missing = run_program(program("pocketvlm") + " import " + source + " --out " + root_ + "/out");
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.err.find("missing tensors: model.norm.weight"), std::string::npos) << missing.err;
  EXPECT_TRUE(missing.out.empty());
  EXPECT_FALSE(fs::exists(root_ + "/out"));
  EXPECT_EQ(run_program(program("pocketvlm") + " save-hf " + root_ + "/nowhere --out " + root_ + "/out").status, 1);
}

/// Vision parts of all families as ONNX; the command itself compares each file with the trainer.
TEST_F(ReleasedPrograms, VisionPartsBecomeOnnxFiles) {
  for (const std::string& family : release_families()) {
    const std::string folder = imported(family), out = root_ + "/onnx";
    const Json result = json_of(run_program(program("pocketvlm") + " export --checkpoint " + folder + " --vision-onnx fp16 --out " + out +
                                            " --image " + kPhoto + " --json"));
    const Json report = result["onnx"];
    EXPECT_TRUE(report["passed"].get<bool>()) << family << report.dump();
    for (const Json& file : report["files"]) {
      EXPECT_TRUE(fs::exists(file["file"].get<std::string>())) << family;
      EXPECT_GE(file["cosine"].get<double>(), 0.9999) << family;
    }
    EXPECT_EQ(read_json(out + "/vision-onnx-fp16.json"), report);
  }
}

TEST_F(ReleasedPrograms, ExportSaysWhatItNeeds) {
  const std::string folder = imported("minicpmv-2.6");
  const auto error = [&](const std::string& arguments) {
    const Outcome outcome = run_program(program("pocketvlm") + " export --checkpoint " + folder + " --out " + root_ + "/onnx " + arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    return outcome.err + outcome.out;
  };
  EXPECT_NE(error("").find("--vision-onnx"), std::string::npos);
  EXPECT_NE(error("--vision-onnx int4").find("--vision-onnx"), std::string::npos);
  EXPECT_NE(error("--type f16 --onnx-grid 4x4").find("--onnx-grid and --onnx-longest belong to --vision-onnx; give it as well"), std::string::npos);
  EXPECT_NE(error("--vision-onnx fp16 --onnx-grid 4").find("--onnx-grid 4: expected ROWSxCOLUMNS of patches, such as 32x32"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
