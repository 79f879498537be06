#include "data/conversations.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::test_picture;
using test::TestFolder;

const SamplePlace kPlace{"data.json", "[0], line 1"};

/// Reads a record whose pictures are known by name; a picture is told by its width.
Sample read(const std::string& json, const std::string& implied = {}) {
  const std::map<std::string, int> widths = {{"a.png", 1}, {"b.png", 2}, {"c.png", 3}};
  return read_conversation(
      parse_record(json, kPlace),
      kPlace,
      "default",
      [&](const std::string& name) {
        if (!widths.contains(name)) kPlace.damaged("missing image", name);
        return Image(widths.at(name), 1);
      },
      implied,
      [](const std::string& folder) -> std::vector<std::string> {
        if (folder != "frames") kPlace.damaged("missing video", folder);
        return {"a.png", "b.png", "c.png", "b.png", "c.png"};
      });
}

std::string reason_of(const std::string& json) {
  try {
    read(json);
  } catch (const DamagedSample& e) {
    EXPECT_EQ(e.file(), "data.json");
    EXPECT_EQ(e.place(), "[0], line 1");
    EXPECT_FALSE(e.detail().empty());
    return e.reason();
  }
  return "none";
}

std::vector<int> widths_of(const Sample& sample) {
  std::vector<int> widths;
  for (const Image& image : sample.chat.images) widths.push_back(image.width);
  return widths;
}

std::string user(const std::string& content) {
  return R"("conversations": [{"role": "user", "content": ")" + content +
         R"("}, {"role": "assistant", "content": "fine"}])";
}

TEST(ReadConversation, ReadsLlavaRecords) {
  const Sample sample = read(R"({"id": "000123", "image": "a.png", "model": "x", "conversations": [
      {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
      {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]})");
  EXPECT_EQ(sample.id, "000123");
  EXPECT_EQ(sample.task, "chat");
  ASSERT_EQ(sample.chat.turns.size(), 4U);
  EXPECT_EQ(sample.chat.turns[0].role, "user");
  EXPECT_EQ(sample.chat.turns[0].content, "<image>\nWhat is it?");
  EXPECT_EQ(sample.chat.turns[1].role, "assistant");
  EXPECT_EQ(sample.chat.turns[3].content, "Yes.");
  EXPECT_EQ(widths_of(sample), std::vector<int>{1});
}

TEST(ReadConversation, ReadsMiniCpmRecordsWithASystemTurn) {
  const Sample sample =
      read(R"({"id": 7, "image": "b.png", "task": "vqa", "language": "de", "conversations": [
      {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Was ist das?"},
      {"role": "assistant", "content": "Ein Hund."}]})");
  EXPECT_EQ(sample.id, "7");
  EXPECT_EQ(sample.task, "vqa");
  EXPECT_EQ(sample.language, "de");
  EXPECT_EQ(sample.chat.turns[0].role, "system");
  EXPECT_EQ(widths_of(sample), std::vector<int>{2});
}

TEST(ReadConversation, NamedMarksDecideTheOrderAndStandOnLinesOfTheirOwn) {
  const Sample sample = read(R"({"image": {"<image_00>": "a.png", "<image_01>": "b.png"}, )" +
                             user(R"(<image_01><image_00>Compare, then <image_01>\nagain.)") + "}");
  EXPECT_EQ(sample.id, "default");
  EXPECT_EQ(sample.chat.turns[0].content, "<image>\n<image>\nCompare, then \n<image>\nagain.");
  EXPECT_EQ(widths_of(sample), (std::vector<int>{2, 1, 2}));
}

TEST(ReadConversation, WithoutMarksPicturesKeepTheirOrder) {
  EXPECT_EQ(widths_of(read(R"({"image": {"<image_00>": "c.png", "<image_01>": "b.png"}, )" +
                           user("Compare.") + "}")),
            (std::vector<int>{3, 2}));
  EXPECT_EQ(widths_of(read(R"({"image": ["b.png", "a.png"], )" + user("Compare.") + "}")),
            (std::vector<int>{2, 1}));
}

TEST(ReadConversation, APictureAloneIsAQuestion) {
  EXPECT_EQ(read(R"({"image": "a.png", )" + user("") + "}").chat.turns[0].content, "");
  EXPECT_EQ(widths_of(read("{" + user("<image>") + "}", "a.png")), std::vector<int>{1});
}

TEST(ReadConversation, AMarkInAnAnswerIsText) {
  EXPECT_TRUE(
      read(
          R"({"conversations": [{"from": "human", "value": "Which tag?"}, {"from": "gpt", "value": "<image>"}]})")
          .chat.images.empty());
}

TEST(ReadConversation, ReadsDocuments) {
  const Sample sample = read(R"({"id": "d", "text": "Once upon a time."})");
  EXPECT_EQ(sample.task, "text");
  ASSERT_EQ(sample.chat.turns.size(), 1U);
  EXPECT_EQ(sample.chat.turns[0].role, "assistant");
  EXPECT_EQ(sample.chat.turns[0].content, "Once upon a time.");
  EXPECT_EQ(read(R"({"text": "x", "image": [], "video": null})").task, "text");
}

TEST(ReadConversation, ReadsAListOfImagesUnderItsOtherName) {
  const Sample sample = read(R"({"images": ["b.png", "a.png"], )" + user(R"(<image>\n<image>\nCompare.)") + "}");
  EXPECT_EQ(widths_of(sample), (std::vector<int>{2, 1}));
  EXPECT_FALSE(sample.is_video);
  EXPECT_EQ(widths_of(read(R"({"image": "c.png", "images": [], "videos": null, )" + user("What?") + "}")),
            std::vector<int>{3});
}

TEST(ReadConversation, AVideoIsTheFramesOfAFolderOneASecond) {
  // Five frames, two a second: those at 0, 1 and 2 seconds.
  const Sample sample = read(R"({"video": "frames", "video_fps": 2, )" + user(R"(Look: <video> What moves?)") + "}");
  EXPECT_TRUE(sample.is_video);
  EXPECT_EQ(widths_of(sample), (std::vector<int>{1, 3, 3}));
  EXPECT_EQ(sample.chat.turns[0].content, "Look: \n<image>\n<image>\n<image>\n What moves?");
  // Thirty a second where nothing is said, as --video-fps of generate.
  EXPECT_EQ(widths_of(read(R"({"video": "frames", )" + user("What?") + "}")), std::vector<int>{1});
}

TEST(ReadConversation, AVideoMayListItsFrames) {
  const Sample sample = read(R"({"videos": [["c.png", "a.png", "b.png"]], "images": [], )" + user(R"(<image>\nWhat?)") + "}");
  EXPECT_TRUE(sample.is_video);
  EXPECT_EQ(widths_of(sample), (std::vector<int>{3, 1, 2}));
  EXPECT_EQ(sample.chat.turns[0].content, "<image>\n<image>\n<image>\nWhat?");
  EXPECT_EQ(read(R"({"video": ["c.png"], )" + user("What?") + "}").chat.turns[0].content, "What?");
  std::string many = R"("a.png")";
  for (int i = 1; i < 200; ++i) many += R"(, "a.png")";
  EXPECT_EQ(read(R"({"video": [)" + many + "], " + user("What?") + "}").chat.images.size(), 64U);
}

TEST(ReadConversation, EveryKindOfDamageHasItsReason) {
  const std::string answer = R"({"from": "gpt", "value": "fine"})";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "wrong type"},
      {"3", "wrong type"},
      {"null", "wrong type"},
      {R"({"id": [1], "text": "x"})", "wrong type"},
      {"{}", "no conversation"},
      {R"({"text": 3})", "wrong type"},
      {R"({"text": " "})", "empty text"},
      {R"({"conversations": "hello"})", "wrong type"},
      {R"({"conversations": []})", "empty conversation"},
      {R"({"conversations": null})", "wrong type"},
      {R"({"conversations": ["hello"]})", "wrong type"},
      {R"({"conversations": [{"from": "human"}]})", "incomplete turn"},
      {R"({"conversations": [{"value": "x"}]})", "incomplete turn"},
      {R"({"conversations": [{"from": "human", "value": 3}]})", "wrong type"},
      {R"({"conversations": [{"from": 3, "value": "x"}]})", "wrong type"},
      {R"({"conversations": [{"from": "human", "role": "user", "value": "x"}]})",
       "contradictory turn"},
      {R"({"conversations": [{"from": "robot", "value": "x"}]})", "unknown role"},
      {R"({"conversations": [{"from": "system", "value": "x"}]})", "empty conversation"},
      {R"({"conversations": [)" + answer + "]}", "turns out of order"},
      {R"({"conversations": [{"from": "human", "value": "x"}, )" + answer + ", " + answer + "]}",
       "turns out of order"},
      {R"({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " \n"}]})",
       "empty turn"},
      {R"({"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "x"}]})",
       "empty turn"},
      {"{" + user("<image>\\nWhat?") + "}", "image mark without image"},
      {"{" + user("<image_00>\\nWhat?") + "}", "image mark without image"},
      {R"({"image": null, )" + user("<image>") + "}", "image mark without image"},
      {R"({"image": "a.png", )" + user("<image> <image>") + "}", "image marks and images differ"},
      {R"({"image": ["a.png", "b.png"], )" + user("<image>") + "}",
       "image marks and images differ"},
      {R"({"image": {"<image_00>": "a.png"}, )" + user("<image_01>") + "}",
       "image mark without image"},
      {R"({"image": {"<image_00>": "a.png", "<image_01>": "b.png"}, )" + user("<image_01>") + "}",
       "image marks and images differ"},
      {R"({"image": {"picture": "a.png"}, )" + user("x") + "}", "bad image mark"},
      {R"({"image": 3, )" + user("x") + "}", "wrong type"},
      {R"({"image": "", )" + user("x") + "}", "wrong type"},
      {R"({"image": [["a.png"]], )" + user("x") + "}", "wrong type"},
      {R"({"image": "nowhere.png", )" + user("x") + "}", "missing image"},
      {R"({"images": 3, )" + user("x") + "}", "wrong type"},
      {R"({"image": "a.png", "images": ["a.png"], )" + user("x") + "}", "contradictory pictures"},
      {R"({"image": "a.png", "text": "x"})", "document with pictures"},
      {R"({"video": "frames", "text": "x"})", "document with pictures"},
      {"{" + user("<video>") + "}", "video mark without video"},
      {R"({"image": "a.png", )" + user("<video>") + "}", "video mark without video"},
      {R"({"image": {"<video>": "a.png"}, )" + user("x") + "}", "bad image mark"},
      {R"({"video": "clip.mp4", )" + user("<video>") + "}", "missing video"},
      {R"({"video": [], )" + user("x") + "}", "missing video"},
      {R"({"video": "", )" + user("x") + "}", "wrong type"},
      {R"({"video": ["a.png", 3], )" + user("x") + "}", "wrong type"},
      {R"({"video": {"file": "a.png"}, )" + user("x") + "}", "wrong type"},
      {R"({"video": "frames", "video_fps": 0, )" + user("x") + "}", "wrong type"},
      {R"({"video": "frames", "video_fps": "30", )" + user("x") + "}", "wrong type"},
      {R"({"video": ["nowhere.png"], )" + user("x") + "}", "missing image"},
      {R"({"video": "frames", "image": "a.png", )" + user("x") + "}", "contradictory pictures"},
      {R"({"video": "frames", "videos": ["frames"], )" + user("x") + "}", "contradictory pictures"},
      {R"({"videos": ["frames", "frames"], )" + user("x") + "}", "several videos"},
      {R"({"video": "frames", )" + user("<video> and <video>") + "}", "several video marks"},
      {R"({"video": "frames", )" + user("<image_01>") + "}", "image mark without image"},
      {R"({"video": "frames", "conversations": [{"from": "system", "value": "<video>"}, {"from": "human", "value": "x"}]})",
       "image mark in a system turn"},
      {R"({"audio": "a.wav", )" + user("x") + "}", "sound"},
      {R"({"image": "a.png", "conversations": [{"from": "system", "value": "<image>"}, {"from": "human", "value": "x"}]})",
       "image mark in a system turn"},
      {R"({"id": 1, "id": 2})", "invalid JSON"},
      {"{", "invalid JSON"},
      {"", "invalid JSON"},
      {R"({"text": "\ud800"})", "invalid JSON"},
      {"{\"text\": \"\xff\"}", "invalid UTF-8"},
      {std::string(100, '[') + std::string(100, ']'), "invalid JSON"},
  };
  for (const auto& [json, reason] : cases) EXPECT_EQ(reason_of(json), reason) << json;
}

TEST(ConversationSource, FindsPicturesBesideTheFileInJsonAndJsonl) {
  const TestFolder folder;
  folder.write("pictures/one.png", encode_png(test_picture(30, 20)));
  folder.write("two.jpg", encode_jpeg(test_picture(16, 24), 90));
  const std::string one = R"({"id": "one", "image": "pictures/one.png", )" + user("What?") + "}";
  const std::string two =
      R"({"id": "two", "image": ")" + folder.path("two.jpg") + R"(", )" + user("What?") + "}";
  const ConversationSource list(folder.write("data.json", "[" + one + ",\n" + two + "]"));
  const ConversationSource lines(folder.write("data.JSONL", one + "\n\n" + two + "\n"));
  ASSERT_EQ(list.size(), 2);
  ASSERT_EQ(lines.size(), 2);
  for (const ConversationSource* source : {&list, &lines}) {
    EXPECT_EQ(source->at(0).chat.images.at(0).rgb, test_picture(30, 20).rgb);
    EXPECT_EQ(source->at(1).chat.images.at(0).height, 24);
    EXPECT_EQ(source->at(1).id, "two");
  }
  EXPECT_EQ(list.place(1), "[1], line 2");
  EXPECT_EQ(lines.place(1), "line 3");
}

TEST(ConversationSource, FindsTheFramesOfAVideoBesideTheFile) {
  const TestFolder folder;
  for (int frame = 0; frame < 4; ++frame)
    folder.write(fmt::format("clip/{}.png", frame), encode_png(test_picture(10 + frame, 20)));
  folder.write("empty/notes.txt", "no frame");
  const auto record = [](const std::string& video) {
    return R"({"video": ")" + video + R"(", "video_fps": 2, )" + user("<video>") + "}\n";
  };
  const ConversationSource source(
      folder.write("data.jsonl", record("clip") + record("empty") + record("clip/0.png") + record(R"(a\u0000b)")));
  EXPECT_EQ(widths_of(source.at(0)), (std::vector<int>{10, 12}));
  EXPECT_EQ(widths_of(source.outline(0)), (std::vector<int>{10, 12}));
  EXPECT_TRUE(source.outline(0).is_video);
  for (std::int64_t index = 1; index < 4; ++index) {
    try {
      source.at(index);
      ADD_FAILURE() << index;
    } catch (const DamagedSample& e) {
      EXPECT_EQ(e.reason(), "missing video") << e.what();
    }
  }
}

TEST(ConversationSource, PicturesThatCannotBeReadHaveTheirReasons) {
  const TestFolder folder;
  const std::string jpeg = encode_jpeg(test_picture(64, 64), 90);
  folder.write("cut.jpg", jpeg.substr(0, jpeg.size() / 2));
  folder.write("text.png", "this is no picture");
  folder.write("empty.png", "");
  folder.write("wide.png", encode_png(test_picture(200, 100)));
  std::filesystem::create_directories(folder.path("folder.png"));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"cut.jpg", "damaged image"},
      {"text.png", "not an image"},
      {"empty.png", "not an image"},
      {"wide.png", "image too large"},
      {"folder.png", "missing image"},
      {"absent.png", "missing image"},
      {"/dev/zero", "missing image"},
      {"http://example.org/a.png", "missing image"},
      {R"(a\u0000b.png)", "missing image"},
      {std::string(5000, 'x'), "missing image"},
  };
  std::string list = "[";
  for (const auto& [name, reason] : cases)
    list +=
        (list.size() > 1 ? "," : "") + (R"({"image": ")" + name + R"(", )") + user("What?") + "}";
  const ConversationSource source(folder.write("data.json", list + "]"),
                                  DecodeOptions{0.01, false});
  for (std::size_t i = 0; i < cases.size(); ++i) {
    try {
      source.at(static_cast<std::int64_t>(i));
      ADD_FAILURE() << cases[i].first;
    } catch (const DamagedSample& e) {
      EXPECT_EQ(e.reason(), cases[i].second) << e.what();
      EXPECT_TRUE(is_utf8(e.detail()));
      EXPECT_LT(e.detail().size(), 600U);
    }
  }
}

TEST(TextSource, ReadsLinesAndRecords) {
  const TestFolder folder;
  const TextSource lines(folder.write("a.txt", "First.\n\nSecond \xff.\nThird.\n"));
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines.at(0).chat.turns.at(0).content, "First.");
  EXPECT_EQ(lines.at(2).chat.turns.at(0).content, "Third.");
  EXPECT_THROW(lines.at(1), DamagedSample);
  const TextSource records(
      folder.write("a.jsonl", "{\"text\": \"One.\", \"id\": \"x\"}\n{\"texts\": 1}\n[]\n"));
  EXPECT_EQ(records.at(0).id, "x");
  EXPECT_EQ(records.at(0).chat.turns.at(0).content, "One.");
  EXPECT_THROW(records.at(1), DamagedSample);
  EXPECT_THROW(records.at(2), DamagedSample);
}

TEST(ConversationSource, AFileThatCannotBeReadIsAnError) {
  const TestFolder folder;
  EXPECT_NE(
      test::error_of([&] { ConversationSource(folder.path("absent.json")); }).find("absent.json"),
      std::string::npos);
  EXPECT_NE(test::error_of([&] {
              ConversationSource(folder.write("a.json", "[{]"));
            }).find("line 1, column 3"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] { ConversationSource(folder.path("")); }), "");
}

}  // namespace
}  // namespace pocketvlm
