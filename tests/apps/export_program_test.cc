#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "data/preprocess/image.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "mobile/gguf.h"
#include "model/config.h"
#include "tests/apps/program.h"

/// `pocketvlm export` as users meet it, on a tiny checkpoint of random weights.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

const std::string kPhoto = SOURCE_ROOT "/assets/photos/images/chelsea.png";

class ExportProgram : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = testing::TempDir() + "/export_program_test";
    fs::remove_all(folder_);
    TokenizerTrainingConfig training;
    training.vocab_size = 300;
    std::int64_t next = 0;
    train_tokenizer(training, [&](std::string& text) {
      text = fmt::format("is there a dog or a cat number {} in the picture? yes, there are {} of them, near the tree.", next, next % 7);
      return next++ < 300;
    }, folder_ + "/tokenizer.model");
    ModelConfig config;
    config.vision.hidden = 64;
    config.vision.num_layers = 1;
    config.vision.num_heads = 2;
    config.vision.ffn = 128;
    config.vision.position_side = 8;
    config.projector.num_queries = config.prompt.num_queries = 4;
    config.projector.num_heads = 2;
    config.language.vocab = 300;
    config.language.num_layers = 2;
    config.language.num_kv_heads = 2;
    config.language.init_std = 0.1;
    config.image.scale_resolution = 56;
    config.image.max_slices = 4;
    write_json(folder_ + "/model.json", config_to_json(config));
    for (const std::string dtype : {"f32", "bf16"}) {
      const Outcome made = run_program(fmt::format("{} init {}/model.json --tokenizer {}/tokenizer.model --dtype {} --out {}/{}",
                                                   program("pocketvlm"), folder_, folder_, dtype, folder_, dtype));
      ASSERT_EQ(made.status, 0) << made.err;
    }
  }

  /// Of `checkpoint` into a folder of this name.
  static Outcome run(const std::string& out, const std::string& arguments, const std::string& checkpoint = "f32") {
    return run_program(fmt::format("{} export --checkpoint {}/{} --json --out {}/{} {}", program("pocketvlm"), folder_, checkpoint, folder_, out,
                                   arguments));
  }

  static std::set<std::string> files_in(const std::string& out) {
    std::set<std::string> names;
    if (!fs::exists(folder_ + "/" + out)) return names;
    for (const auto& entry : fs::directory_iterator(folder_ + "/" + out)) names.insert(entry.path().filename().string());
    return names;
  }

  static std::string folder_;
};
std::string ExportProgram::folder_;

using Names = std::set<std::string>;

TEST_F(ExportProgram, WritesFilesAndOneReportForEachType) {
  const Outcome outcome = run("good", "--type q8_0 --min-agreement 0.8 --parity-prompts 4");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json result = parse_json(outcome.out, "standard output");
  EXPECT_EQ(result["language"], folder_ + "/good/language-q8_0.gguf");
  EXPECT_EQ(result["mmproj"], folder_ + "/good/mmproj-f16.gguf");
  EXPECT_EQ(result["language_bytes"].get<std::uintmax_t>(), fs::file_size(folder_ + "/good/language-q8_0.gguf"));
  const Json& parity = result["parity"];
  EXPECT_TRUE(parity["passed"].get<bool>());
  EXPECT_TRUE(parity["first_difference"].is_null());
  EXPECT_EQ(parity["prompts"], 4);
  EXPECT_EQ(parity["sliced_prompts"], 2);
  EXPECT_EQ(parity["required_agreement"], 0.8);
  EXPECT_EQ(parity["trainer_dtype"], "f32");
  EXPECT_EQ(parity["files"], Json({"language-q8_0.gguf", "mmproj-f16.gguf"}));
  EXPECT_EQ(read_json(folder_ + "/good/parity.json"), parity);
  ASSERT_EQ(run("good", "--type f16 --gate off").status, 0);
  EXPECT_EQ(read_json(folder_ + "/good/parity-q8_0.json"), parity);
  EXPECT_EQ(read_json(folder_ + "/good/parity.json")["type"], "f16");
  EXPECT_EQ(files_in("good"), (Names{"language-f16.gguf", "language-q8_0.gguf", "mmproj-f16.gguf", "parity-f16.json", "parity-q8_0.json", "parity.json"}));
}

TEST_F(ExportProgram, WhatTheGateRefusesNeverHasAFinalName) {
  const Outcome outcome = run("refused", "--type q4_0 --parity-prompts 2 --min-vision-cosine 1");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("first at"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(folder_ + "/refused/language-q4_0.unchecked.gguf"), std::string::npos) << outcome.err;
  EXPECT_EQ(files_in("refused"),
            (Names{"language-q4_0.unchecked.gguf", "mmproj-f16.unchecked.gguf", "parity-q4_0.json", "parity.json"}));
  const Json parity = read_json(folder_ + "/refused/parity.json");
  EXPECT_FALSE(parity["passed"].get<bool>());
  EXPECT_EQ(parity["first_difference"]["stage"], "visual tokens");
  EXPECT_EQ(parity["files"][0], "language-q4_0.unchecked.gguf");
}

TEST_F(ExportProgram, WithoutTheGateNothingIsCompared) {
  const Outcome outcome = run("off", "--type q4_0 --gate off");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("--gate off: nobody compared"), std::string::npos);
  EXPECT_EQ(parse_json(outcome.out, "out")["parity"]["gate"], "off");
  EXPECT_TRUE(parse_json(outcome.out, "out")["parity"]["passed"].is_null());
}

/// The bounds are those of float32: rounding the trainer's activations to bfloat16 would cost more than the files may.
TEST_F(ExportProgram, CheckpointsOfBfloat16AreComparedWhereTheyLie) {
  const Outcome mapped = run("bf16", "--type f32 --mmproj-type f32 --parity-prompts 4 --min-agreement 0.9", "bf16");
  ASSERT_EQ(mapped.status, 0) << mapped.err;
  const Json there = parse_json(mapped.out, "out")["parity"];
  EXPECT_EQ(there["trainer_dtype"], "bf16");
  EXPECT_GT(there["vision_cosine"].get<double>(), 0.999999);
  EXPECT_LT(there["kl"].get<double>(), 1e-6);
  const Outcome copied = run("bf16", "--type f32 --mmproj-type f32 --parity-prompts 4 --min-agreement 0.9 --dtype f32", "bf16");
  const Json here = parse_json(copied.out, "out")["parity"];
  EXPECT_EQ(here["trainer_dtype"], "f32");
  EXPECT_NEAR(here["vision_cosine"].get<double>(), there["vision_cosine"].get<double>(), 1e-9);
}

TEST_F(ExportProgram, ImportanceComesFromScenesPicturesAndText) {
  write_file_atomic(folder_ + "/notes.txt", "is there a dog near the tree? yes, there are two of them.");
  const Outcome outcome = run("weighted", "--type q4_0 --gate off --importance-prompts 1 --importance-image " + kPhoto + " " + kPhoto +
                                              " --importance-text " + folder_ + "/notes.txt");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json importance = parse_json(outcome.out, "out")["parity"]["importance"];
  EXPECT_EQ(importance["dataset"], "scenes of the embedded world + 2 pictures + notes.txt");
  EXPECT_EQ(importance["prompts"], 4);
  EXPECT_EQ(GgufFile(folder_ + "/weighted/language-q4_0.gguf").get_string("quantize.imatrix.dataset"), importance["dataset"].get<std::string>());
  write_file_atomic(folder_ + "/empty.txt", "");
  EXPECT_NE(run("weighted", "--type q4_0 --gate off --importance-text " + folder_ + "/empty.txt").err.find("needs text"), std::string::npos);
}

/// A gigabyte of zeros that takes no space on disk: the checkpoint of one layer with its layer several times.
void write_sparse_checkpoint(const std::string& one_layer, const std::string& folder, std::int64_t layers) {
  const SafetensorsFolder source(one_layer);
  Json header = Json::object();
  std::int64_t end = 0;
  const auto add = [&](const std::string& name, const TensorView& view) {
    const auto bytes = static_cast<std::int64_t>(view.bytes.size());
    header[name] = {{"dtype", view.dtype}, {"shape", view.shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  };
  const std::string layer = "language.layers.0.";
  for (const auto& [name, view] : source.tensors()) {
    if (!name.starts_with(layer)) add(name, view);
    for (std::int64_t i = 0; i < layers && name.starts_with(layer); ++i) add(fmt::format("language.layers.{}.{}", i, name.substr(layer.size())), view);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  make_folders(folder);
  write_file_atomic(folder + "/model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + text);
  fs::resize_file(folder + "/model.safetensors", 8 + length + static_cast<std::uint64_t>(end));
  Json config = read_json(one_layer + "/config.json");
  config["model"]["language"]["num_layers"] = layers;
  write_json(folder + "/config.json", config);
  fs::copy_file(one_layer + "/tokenizer.model", folder + "/tokenizer.model");
}

TEST_F(ExportProgram, AGigabyteOfWeightsPassesInAQuarterOfItsMemory) {
  Json model = read_json(folder_ + "/model.json");
  model["language"].update({{"hidden", 2048}, {"ffn", 8192}, {"num_heads", 16}, {"num_kv_heads", 16}, {"num_layers", 1}});
  write_json(folder_ + "/wide.json", model);
  const Outcome made = run_program(fmt::format("{} init {}/wide.json --tokenizer {}/tokenizer.model --dtype bf16 --out {}/wide", program("pocketvlm"),
                                               folder_, folder_, folder_));
  ASSERT_EQ(made.status, 0) << made.err;
  write_sparse_checkpoint(folder_ + "/wide", folder_ + "/sparse", 9);
  ASSERT_GT(fs::file_size(folder_ + "/sparse/model.safetensors"), std::uintmax_t{1} << 30);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string path = program("pocketvlm"), checkpoint = folder_ + "/sparse", out = folder_ + "/streamed";
    ::execl(path.c_str(), "pocketvlm", "export", "--checkpoint", checkpoint.c_str(), "--type", "q4_0", "--gate", "off", "--json", "--out",
            out.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = 0;
  struct rusage used = {};
  ASSERT_EQ(::wait4(child, &status, 0, &used), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_GT(fs::file_size(folder_ + "/streamed/language-q4_0.gguf"), std::uintmax_t{280} << 20);
  RecordProperty("peak_mib", std::to_string(used.ru_maxrss / 1024));
  EXPECT_LT(used.ru_maxrss / 1024, 256) << "MiB";
  fs::remove_all(folder_ + "/streamed");
  fs::remove_all(folder_ + "/wide");
}

/// The phone reads the frames that the trainer reads, as the same tokens.
TEST_F(ExportProgram, VideosAreTheSameTokensOnThePhone) {
  ASSERT_EQ(run("video", "--type f32 --mmproj-type f32 --gate off").status, 0);
  make_folders(folder_ + "/frames");
  for (int i = 0; i < 5; ++i) {
    Image frame(120, 60);
    std::fill(frame.rgb.begin(), frame.rgb.end(), static_cast<std::uint8_t>(50 * i));
    write_file_atomic(fmt::format("{}/frames/{}.png", folder_, i), encode_png(frame));
  }
  const std::string question = fmt::format(" --video {}/frames --video-fps 2 --prompt 'is there a dog?' --json", folder_);
  const std::string files = fmt::format(" --model {}/video/language-f32.gguf --mmproj {}/video/mmproj-f32.gguf --packed none", folder_, folder_);
  const Outcome trainer = run_program(fmt::format("{} inspect tokens --tokenizer {}/f32 --model {}/f32", program("pocketvlm"), folder_, folder_) + question);
  ASSERT_EQ(trainer.status, 0) << trainer.err;
  const Outcome phone = run_program(program("pocketvlm-mobile") + " forward" + files + question + " --out " + folder_ + "/video.safetensors");
  ASSERT_EQ(phone.status, 0) << phone.err;
  const SafetensorsFile stages(folder_ + "/video.safetensors");
  const TensorView& ids = stages.at("input_ids");
  std::vector<std::int32_t> seen(ids.bytes.size() / 4);
  std::memcpy(seen.data(), ids.bytes.data(), ids.bytes.size());
  EXPECT_EQ(Json(seen), parse_json(trainer.out, "tokens")["ids"]);
  EXPECT_EQ(stages.at("grids").shape[0], 3 * 3);  // frames 0, 2 and 4 in an overview and two slices each
  const Outcome answer = run_program(program("pocketvlm") + " generate --checkpoint " + folder_ + "/f32 --max-new-tokens 6" + question);
  ASSERT_EQ(answer.status, 0) << answer.err;
  const Outcome chat = run_program(program("pocketvlm-mobile") + " chat --max-new-tokens 6" + files + question);
  ASSERT_EQ(chat.status, 0) << chat.err;
  EXPECT_EQ(parse_json(chat.out, "chat")["ids"], parse_json(answer.out, "answer")["ids"][0]);
}

TEST_F(ExportProgram, OptionsThatWouldChangeNothingAreErrors) {
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"--vision-onnx fp32 --gate on", "give --type as well"},
      {"--vision-onnx fp32 --mmproj-type q8_0", "give --type as well"},
      {"--vision-onnx fp32 --prompt hello", "give --type as well"},
      {"--vision-onnx fp32 --importance-prompts 3", "give --type as well"},
      {"--vision-onnx fp32 --min-agreement 0.5", "give --type as well"},
      {"--type q4_0 --gate off --min-agreement 0.5", "drop them or --gate off"},
      {"--type q4_0 --gate off --dtype f32", "drop them or --gate off"},
      {"--type q4_0 --gate off --parity-prompts 3", "drop them or --gate off"},
      {"--type q4_0 --gate off --prompt hello", "--image and --prompt are for the parity gate"},
      {"--type q4_0 --image " + kPhoto + " --parity-prompts 3", "drop one of them"},
      {"--type q8_0 --importance-prompts 3", "change nothing in a file of type q8_0"},
      {"--type f16 --onnx-grid 4x4", "belong to --vision-onnx"},
      {"--type q3", "q3"}};
  for (const auto& [arguments, text] : mistakes) {
    const Outcome outcome = run("mistakes", arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << arguments << ": " << outcome.err;
    EXPECT_TRUE(outcome.out.empty()) << arguments;
  }
  EXPECT_TRUE(files_in("mistakes").empty());
}

}  // namespace
}  // namespace pocketvlm
