#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>

#include "base/files.h"
#include "base/json.h"
#include "data/preprocess/image.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

struct Result {
  int status;
  std::string out;
  std::string err;
};

Result run(const std::string& arguments, const std::string& input = "") {
  const std::string folder = temporary_folder();
  write_file_atomic(folder + "/in", input);
  const std::string command = std::string(BINARY_ROOT) + "/pocketvlm-mobile " + arguments + " <" +
                              folder + "/in >" + folder + "/out 2>" + folder + "/err";
  const int code = std::system(command.c_str());
  return {WEXITSTATUS(code), read_file(folder + "/out"), read_file(folder + "/err")};
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
  const Result result = run("chat" + model_ + "--image " + image_ +
                            " --prompt hello --greedy --max-new-tokens 8 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = parse_json(result.out, "out");
  EXPECT_TRUE(json["text"].is_string());
  EXPECT_LE(json["ids"].size(), 8U);
  EXPECT_GT(json["timings"]["prompt_tokens"].get<int>(), 0);
  EXPECT_EQ(json["timings"]["slices"].get<int>() > 0, true);
}

TEST_F(Program, AConversationGoesOverStandardInput) {
  const Result result =
      run("chat" + model_ + "--max-new-tokens 5",
          "/image " + image_ +
              "\nhello\n/image none.png\n/what\nmore\n/reset\nagain\n/exit\nnot read\n");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.err.find("none.png"), std::string::npos);
  EXPECT_NE(result.err.find("unknown command"), std::string::npos);
}

TEST_F(Program, BenchPrintsMedians) {
  const Result result =
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

TEST_F(Program, InfoChecksBothKindsOfFile) {
  for (const std::string& file : {files_.language, files_.mmproj}) {
    const Result result = run("info " + file + " --json");
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
  const Result result = run("info " + path);
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
           {"info " + image_, "GGUF"},
           {"info", "file"}}) {
    const Result result = run(arguments);
    EXPECT_EQ(result.status, 1) << arguments;
    EXPECT_NE(result.err.find(words), std::string::npos) << arguments << ": " << result.err;
    EXPECT_EQ(result.out, "") << arguments;
  }
}

TEST_F(Program, HelpIsASuccess) { EXPECT_EQ(run("--help").status, 0); }

}  // namespace
}  // namespace pocketvlm
