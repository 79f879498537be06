#include <gtest/gtest.h>

#include <algorithm>

#include "base/files.h"
#include "base/json.h"
#include "data/preprocess/image.h"
#include "mobile/kernels.h"
#include "tests/mobile/run_program.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

ProgramResult run(const std::string& arguments, const std::string& input = "") {
  return run_shell(std::string(BINARY_ROOT) + "/pocketvlm-mobile " + arguments, input);
}

class Program : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = write_tiny_model({});
    image_ = temporary_folder() + "/p.png";
    write_file_atomic(image_, encode_png(Image(30, 20)));
  }
  static inline TinyFiles files_;
  static inline std::string image_;
  std::string model_ = " --model " + files_.language + " --mmproj " + files_.mmproj + " ";
};

TEST_F(Program, ChatAnswersWithTheAgreedKeys) {
  const ProgramResult result = run("chat" + model_ + "--image " + image_ +
                                   " --prompt hello --greedy --max-new-tokens 8 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = parse_json(result.out, "out");
  EXPECT_TRUE(json["text"].is_string());
  EXPECT_LE(json["ids"].size(), 8U);
  EXPECT_GT(json["timings"]["prompt_tokens"].get<int>(), 0);
  EXPECT_EQ(json["timings"]["slices"].get<int>() > 0, true);
}

TEST_F(Program, AConversationGoesOverStandardInput) {
  const ProgramResult result =
      run("chat" + model_ + "--max-new-tokens 5",
          "/image " + image_ +
              "\nhello\n/image none.png\n/what\nmore\n/stats\n/reset\nagain\n/exit\nnot read\n");
  EXPECT_EQ(result.status, 0) << result.err;
  // Three answers, each on its line.
  EXPECT_GE(std::count(result.out.begin(), result.out.end(), '\n'), 3);
  // The second message kept what the first had computed, picture included.
  const std::size_t stats = result.err.find('{');
  ASSERT_NE(stats, std::string::npos) << result.err;
  const std::size_t end = result.err.find('}', stats);
  const Json timings = parse_json(result.err.substr(stats, end + 1 - stats), "stats");
  EXPECT_GT(timings["cached_tokens"].get<int>(), timings["prompt_tokens"].get<int>() / 2);
  EXPECT_NE(result.err.find("none.png"), std::string::npos);
  EXPECT_NE(result.err.find("unknown command"), std::string::npos);
}

TEST_F(Program, PackMakesTheFilesAhead) {
  TinyModel model;
  model.wide = true;
  model.type = GgmlType::kQ8_0;
  const TinyFiles files = write_tiny_model(model);
  if (choose_kernels("auto").packed_matmul == nullptr) GTEST_SKIP() << "this processor's kernels read the file format";
  const ProgramResult result = run("pack --model " + files.language + " --mmproj " + files.mmproj + " --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const Json packed = parse_json(result.out, "out")["packed"];
  ASSERT_EQ(packed.size(), 2U);
  EXPECT_EQ(packed[0]["file"], files.language + ".packed");
  EXPECT_EQ(packed[1]["file"], files.mmproj + ".packed");
  EXPECT_GT(packed[1]["bytes"].get<int>(), 4096);
  const std::string folder = temporary_folder();
  ASSERT_EQ(run("pack --model " + files.language + " --packed-folder " + folder).status, 0);
  EXPECT_EQ(read_file(folder + "/" + files.language.substr(files.language.rfind('/') + 1) + ".packed"), read_file(files.language + ".packed"));
  for (const std::string nothing : {" --kernels scalar", " --packed-folder /nowhere"}) {
    const ProgramResult refused = run("pack --model " + files.language + nothing);
    EXPECT_EQ(refused.status, 1);
    EXPECT_NE(refused.err.find("0 of 1 files"), std::string::npos) << refused.err;
  }
}

TEST_F(Program, SettingsOfAVisionFileThatIsNotThereAreErrors) {
  for (const std::string setting : {"--vision int8", "--resident both"}) {
    const ProgramResult result = run("chat --model " + files_.language + " --prompt hello " + setting);
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.err.find("settings of the vision file"), std::string::npos) << result.err;
  }
  const ProgramResult folder = run("chat" + model_ + "--prompt hello --packed memory --packed-folder " + temporary_folder());
  EXPECT_EQ(folder.status, 1);
  EXPECT_NE(folder.err.find("kept in \"memory\""), std::string::npos) << folder.err;
  const ProgramResult forward = run("forward" + model_ + "--prompt hello --tuning none --out " + temporary_folder() + "/f.safetensors");
  EXPECT_EQ(forward.status, 1);
  EXPECT_NE(forward.err.find("--tuning"), std::string::npos) << forward.err;
}

/// Frames are chosen as of a folder, and read in two slices each at most, without image ids.
TEST_F(Program, AVideoIsAFolderOfFramesOrTheFrames) {
  const std::string folder = temporary_folder();
  std::string all;
  for (int i = 0; i < 6; ++i) {
    Image frame(90, 40);
    std::fill(frame.rgb.begin(), frame.rgb.end(), static_cast<std::uint8_t>(40 * i));
    write_file_atomic(fmt::format("{}/{}.png", folder, i), encode_png(frame));
    all += fmt::format(" {}/{}.png", folder, i);
  }
  const std::string common = "chat" + model_ + "--prompt hello --max-new-tokens 4 --json --video-fps 2 --video ";
  const ProgramResult whole = run(common + folder);
  ASSERT_EQ(whole.status, 0) << whole.err;
  const Json json = parse_json(whole.out, "out");
  EXPECT_EQ(json["timings"]["slices"], 3 * 3);  // frames 0, 2, 4; an overview and two slices each
  const Json listed = parse_json(run(common + all).out, "out");
  EXPECT_EQ(listed["ids"], json["ids"]);
  EXPECT_EQ(listed["timings"]["prompt_tokens"], json["timings"]["prompt_tokens"]);
  const ProgramResult both = run(common + folder + " --image " + image_);
  EXPECT_EQ(both.status, 1);
  EXPECT_NE(both.err.find("cannot be given together"), std::string::npos);
  const ProgramResult blind = run("chat --model " + files_.language + " --prompt hello --video " + folder);
  EXPECT_NE(blind.err.find("--video needs the vision file"), std::string::npos) << blind.err;
}

TEST_F(Program, CompareMeasuresPerplexityAndDistance) {
  const std::string text = temporary_folder() + "/text.txt";
  write_file_atomic(text, "hello world what is this hello world what is that");
  const std::string same = "compare --model " + files_.language + " --text " + text + " --json";
  const ProgramResult alone = run(same);
  ASSERT_EQ(alone.status, 0) << alone.err;
  const Json first = parse_json(alone.out, "out");
  EXPECT_GT(first["perplexity"].get<double>(), 1.0);
  EXPECT_FALSE(first.contains("kl"));
  TinyModel other;
  other.seed = 9;
  const ProgramResult both = run(same + " --reference " + write_tiny_model(other).language);
  ASSERT_EQ(both.status, 0) << both.err;
  const Json second = parse_json(both.out, "out");
  EXPECT_EQ(second["perplexity"], first["perplexity"]);
  EXPECT_GT(second["kl"].get<double>(), 0.0);
  const Json itself = parse_json(run(same + " --reference " + files_.language).out, "out");
  EXPECT_EQ(itself["kl"].get<double>(), 0.0);
  EXPECT_EQ(itself["same_next_token"].get<double>(), 1.0);
  EXPECT_EQ(itself["reference_perplexity"], itself["perplexity"]);
}

TEST_F(Program, BenchPrintsMedians) {
  const ProgramResult result =
      run("bench" + model_ + "--prompt-tokens 16 --gen-tokens 4 --repeat 2 --threads 1 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = parse_json(result.out, "out");
  for (const char* key :
       {"load_ms", "vision_ms_per_slice", "prefill_tps", "decode_tps", "peak_rss_mib"}) {
    EXPECT_GT(json[key].get<double>(), 0.0) << key;
  }
  EXPECT_EQ(json["threads"], 1);
  EXPECT_TRUE(json["kernels"].is_string());
}

TEST_F(Program, BenchWithoutAVisionFileHasNoVisionFigure) {
  const std::string run_text =
      "bench --model " + files_.language + " --prompt-tokens 16 --gen-tokens 4 ";
  const ProgramResult result = run(run_text + "--repeat 1 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(parse_json(result.out, "out")["vision_ms_per_slice"].is_null());
  const ProgramResult text = run(run_text + "--repeat 1");
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_NE(text.out.find("tokens/s"), std::string::npos);
}

TEST_F(Program, TuneWritesAFileThatTheOthersUse) {
  const TinyFiles files = write_tiny_model({});  // its own folder: the tuning lies beside it
  const std::string model = " --model " + files.language + " --mmproj " + files.mmproj + " ";
  const std::string short_bench =
      "bench" + model + "--prompt-tokens 8 --gen-tokens 2 --repeat 1 --json ";
  const ProgramResult tune =
      run("tune" + model + "--prompt-tokens 40 --gen-tokens 2 --repeat 1 --json");
  ASSERT_EQ(tune.status, 0) << tune.err;
  const Json found = parse_json(tune.out, "out");
  const std::string path = found["file"].get<std::string>();
  EXPECT_EQ(path, files.language + ".tuning.json");
  EXPECT_GE(found["trials"].size(), 5U);

  // Another value than any search finds, so that its effect can be seen.
  Json written = read_json(path);
  EXPECT_EQ(written["threads"], found["threads"]);
  written["kernels"] = "scalar";
  written["threads"] = 3;
  written["decode_threads"] = 2;
  write_json(path, written);
  const ProgramResult tuned = run(short_bench);
  ASSERT_EQ(tuned.status, 0) << tuned.err;
  const Json figures = parse_json(tuned.out, "out");
  EXPECT_EQ(figures["kernels"], "scalar");
  EXPECT_EQ(figures["threads"], 3);
  EXPECT_EQ(figures["decode_threads"], 2);
  EXPECT_EQ(figures["tuning"], path);
  // What the command line says comes first.
  EXPECT_EQ(parse_json(run(short_bench + "--threads 1").out, "out")["threads"], 1);
  EXPECT_TRUE(parse_json(run(short_bench + "--tuning none").out, "out")["tuning"].is_null());
  EXPECT_EQ(run("chat" + model + "--prompt hello --max-new-tokens 2").status, 0);

  // Another device's file is passed over with a word, or refused when it was named.
  written["processor"] = "another one";
  write_json(path, written);
  const ProgramResult elsewhere = run(short_bench);
  EXPECT_EQ(elsewhere.status, 0);
  EXPECT_NE(elsewhere.err.find("another device"), std::string::npos) << elsewhere.err;
  EXPECT_TRUE(parse_json(elsewhere.out, "out")["tuning"].is_null());
  const ProgramResult named = run(short_bench + "--tuning " + path);
  EXPECT_EQ(named.status, 1);
  EXPECT_NE(named.err.find("another one"), std::string::npos) << named.err;

  written["thread"] = 1;
  write_json(path, written);
  const ProgramResult damaged = run(short_bench);
  EXPECT_EQ(damaged.status, 1);
  EXPECT_NE(damaged.err.find("did you mean"), std::string::npos) << damaged.err;
}

TEST_F(Program, TuneSaysWhereItCannotWrite) {
  const std::string path = image_ + "/t.json";  // inside something that is no folder
  const ProgramResult result = run("tune --model " + files_.language +
                                   " --prompt-tokens 8 --gen-tokens 1 --repeat 1 --out " + path);
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.err.find(image_), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("--out"), std::string::npos) << result.err;
}

TEST_F(Program, InfoChecksBothKindsOfFile) {
  for (const std::string& file : {files_.language, files_.mmproj}) {
    const ProgramResult result = run("info " + file + " --json");
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_TRUE(parse_json(result.out, "out")["valid"].get<bool>());
    EXPECT_EQ(run("info " + file).status, 0);
  }
}

TEST_F(Program, InfoFindsADamagedWeight) {
  std::string bytes = read_file(files_.language);
  const std::string nan = "\xFF\xFF\xFF\x7F";
  bytes.replace(bytes.size() / 2 / 4 * 4, 4, nan);
  const std::string path = temporary_folder() + "/bad.gguf";
  write_file_atomic(path, bytes);
  const ProgramResult result = run("info " + path);
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.err.find(path), std::string::npos);
  EXPECT_NE(result.err.find("NaN"), std::string::npos);
}

TEST_F(Program, MistakesExitWithOneAndSayWhatToDo) {
  for (const auto& [arguments, words] : std::vector<std::pair<std::string, std::string>>{
           {"", "subcommand"},
           {"chat", "--model"},
           {"chat --model /no.gguf --prompt x", "/no.gguf"},
           {"chat" + model_ + "--image /no.png --prompt x", "/no.png"},
           {"chat --model " + files_.language + " --image " + image_ + " --prompt x", "--mmproj"},
           {"chat" + model_ + "--json", "--prompt"},
           {"chat" + model_ + "--prompt x --kernels fast", "scalar"},
           {"chat" + model_ + "--prompt x --greedy --temperature 1", "exclude"},
           {"chat" + model_ + "--prompt x --top-p 2", "top-p"},
           {"bench" + model_ + "--repeat 0", "repeat"},
           {"bench" + model_ + "--prompt-tokens 20 --gen-tokens 5 --context 24", "raise"},
           {"bench" + model_ + "--tuning /no/tuning.json", "/no/tuning.json"},
           {"chat" + model_ + "--prompt x --kv-cache q8_0", "blocks of 32"},
           {"tune --model /no.gguf", "/no.gguf"},
           {"info " + image_, "GGUF"},
           {"info", "file"}}) {
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.status, 1) << arguments;
    EXPECT_NE(result.err.find(words), std::string::npos) << arguments << ": " << result.err;
    EXPECT_EQ(result.out, "") << arguments;
  }
}

TEST_F(Program, HelpIsASuccess) { EXPECT_EQ(run("--help").status, 0); }

}  // namespace
}  // namespace pocketvlm
