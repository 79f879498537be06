#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "tests/apps/program.h"

/// `pocketvlm inspect tokens` with the vocabulary of tests/golden/make_chat_templates.py, which has the pieces of MiniCPM-V 2.6.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

const std::string kPhoto = SOURCE_ROOT "/assets/photos/images/airplane.jpeg";  // 1920 x 1440: an overview and 9 slices

class InspectTokens : public testing::Test {
 protected:
  InspectTokens() : root_(testing::TempDir() + "/inspect_tokens_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
    const Json bytes = read_json(TEST_DATA "/data/preprocess/chat_templates.json").at("bytes");
    Json vocab = Json::object(), added = Json::array();
    for (std::size_t id = 0; id < bytes["pieces"].size(); ++id) {
      const auto piece = bytes["pieces"][id].get<std::string>();
      const bool special = std::find(bytes["specials"].begin(), bytes["specials"].end(), piece) != bytes["specials"].end();
      if (special) added.push_back({{"id", id}, {"content", piece}, {"special", true}});
      else vocab[piece] = id;
      ids_[piece] = id;
    }
    const char* rule = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    write_json(root_ + "/tokenizer.json",
               {{"added_tokens", added},
                {"normalizer", {{"type", "NFC"}}},
                {"pre_tokenizer",
                 {{"type", "Sequence"},
                  {"pretokenizers",
                   {{{"type", "Split"}, {"pattern", {{"Regex", rule}}}, {"behavior", "Isolated"}, {"invert", false}},
                    {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
                {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", bytes["merges"]}}}});
    write_json(root_ + "/tokenizer_config.json", {{"eos_token", "<|im_end|>"}});
  }
  ~InspectTokens() override { fs::remove_all(root_); }

  Outcome inspect(const std::string& options) const {
    return run_program(program("pocketvlm") + " inspect tokens --tokenizer " + root_ + " " + options);
  }
  Json json(const std::string& options) const {
    const Outcome outcome = inspect(options + " --json");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return parse_json(outcome.out, "standard output");
  }

  std::string root_;
  std::map<std::string, std::size_t> ids_;
};

TEST_F(InspectTokens, OfATextOneIdAPiece) {
  const Json plain = json("--text 'a<|im_end|>'"), special = json("--text 'a<|im_end|>' --specials --eos");
  EXPECT_GT(plain["ids"].size(), 3U);
  EXPECT_EQ(special["ids"], Json({ids_["a"], ids_["<|im_end|>"], ids_["<|im_end|>"]}));
  EXPECT_EQ(special["pieces"], Json({"a", "<|im_end|>", "<|im_end|>"}));
  // e and an accent apart become one letter.
  EXPECT_EQ(json("--text e\xCC\x81")["ids"], json("--text \xC3\xA9")["ids"]);
  write_file_atomic(root_ + "/bad.txt", "a\xFF");
  write_file_atomic(root_ + "/good.txt", "a\xEF\xBF\xBD");
  EXPECT_EQ(json("--text-file " + root_ + "/bad.txt"), json("--text-file " + root_ + "/good.txt"));
}

TEST_F(InspectTokens, OfAPromptTheLayoutOfThePresetUpToTheAnswer) {
  const Json layout = json("--model minicpmv-2.6 --prompt 'What is it?' --image " + kPhoto);
  EXPECT_EQ(layout["visual_positions"].size(), 10U * 64U);
  EXPECT_EQ(layout["grids"].size(), 10U);
  for (const Json& place : layout["visual_positions"]) EXPECT_EQ(layout["ids"][place.get<std::size_t>()], ids_["<unk>"]);
  for (const Json& label : layout["labels"]) EXPECT_EQ(label, -100);
  EXPECT_EQ(layout["ids"].size(), layout["labels"].size());
  EXPECT_EQ(layout["pieces"].size(), layout["ids"].size());
  EXPECT_EQ(layout["runs"][0]["text"], "<|im_start|>");
  EXPECT_EQ(layout["runs"].back()["text"].get<std::string>().substr(0, 1), "a");
  std::size_t at = 0;
  for (const Json& run : layout["runs"]) {
    EXPECT_EQ(run["begin"], at);
    at = run["end"].get<std::size_t>();
  }
  EXPECT_EQ(at, layout["ids"].size());
  EXPECT_EQ(json("--model minicpmv-2.6 --prompt q --max-slices 1 --image " + kPhoto + " --image " + kPhoto)["grids"].size(), 2U);
}

TEST_F(InspectTokens, OfAConversationWhatIsLearned) {
  fs::copy(kPhoto, root_ + "/a.jpg");
  write_json(root_ + "/data.json",
             {{{"id", "0"}, {"conversations", {{{"from", "human"}, {"value", "Hi"}}, {{"from", "gpt"}, {"value", "Hello"}}}}},
              {{"id", "1"},
               {"image", {{"<image_00>", "a.jpg"}, {"<image_01>", "a.jpg"}}},
               {"conversations",
                {{{"role", "user"}, {"content", "<image_00> and <image_01>?"}}, {{"role", "assistant"}, {"content", "Two"}}}}}});
  const std::string options = "--model minicpmv-2.6 --max-slices 1 --conversation " + root_ + "/data.json";
  const Json hello = json(options);
  const auto end = static_cast<int>(ids_["<|im_end|>"]);
  EXPECT_EQ(std::count(hello["labels"].begin(), hello["labels"].end(), end), 1);
  // The released code labels what follows an answer's end as the end once more.
  const Json released = json(options + " --compat released");
  EXPECT_EQ(std::count(released["labels"].begin(), released["labels"].end(), end), 2);
  const Json two = json(options + " --index 1");
  EXPECT_EQ(two["grids"].size(), 2U);
  const Outcome text = inspect(options + " --index 1");
  EXPECT_EQ(text.status, 0) << text.err;
  for (const char* part : {"visual   <unk>*64", "learned  ", "marker   <|im_start|>", "128 of them visual (2 slices)", "<|im_end|>"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
  }
  EXPECT_EQ(text.out.find('\x1b'), std::string::npos);  // colours are for terminals
  EXPECT_NE(inspect(options + " --index 2").err.find("has 2 records; --index 2 is beyond them"), std::string::npos);
}

TEST_F(InspectTokens, OfAVideoTwoSlicesAFrameWithoutImageIds) {
  fs::create_directories(root_ + "/frames");
  for (const char* name : {"0.jpg", "1.jpg", "2.jpg"}) fs::copy(kPhoto, root_ + "/frames/" + name);
  const Json layout = json("--model minicpmv-2.6 --prompt 'What happens?' --video-fps 2 --video " + root_ + "/frames");
  EXPECT_EQ(layout["grids"].size(), 2U * 3U);  // frames 0 and 2: an overview and two tiles each
  EXPECT_EQ(std::count(layout["ids"].begin(), layout["ids"].end(), ids_["<image_id>"]), 0);
  EXPECT_EQ(inspect("--model minicpmv-2.6 --prompt q --video " + root_ + " --image " + kPhoto).status, 1);
}

TEST_F(InspectTokens, MistakesSayWhatToDo) {
  EXPECT_NE(inspect("--prompt q").err.find("--model: name the preset"), std::string::npos);
  EXPECT_NE(inspect("--text a --model minicpmv-2.6").err.find("have no effect on plain text"), std::string::npos);
  EXPECT_NE(run_program(program("pocketvlm") + " inspect tokens --text a").err.find("--tokenizer: name the vocabulary"), std::string::npos);
  EXPECT_NE(inspect("--model mobilevlm-1.7b --compat released --prompt q").err.find("compat released has no effect"), std::string::npos);
  EXPECT_EQ(inspect("").status, 1);
}

}  // namespace
}  // namespace pocketvlm
