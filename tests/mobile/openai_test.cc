#include <gtest/gtest.h>

#include "apps/mobile_openai.h"
#include "base/base64.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

std::string mistake(const std::string& body) {
  try {
    chat_of(read_completion_request(body, {}), ImageConfig());
  } catch (const Error& error) {
    return error.what();
  }
  return "no mistake found";
}

TEST(OpenAi, ReadsAConversationWithPictures) {
  Image image(2, 1);
  image.rgb = {1, 2, 3, 4, 5, 6};
  const std::string url = "data:image/png;base64," + encode_base64(encode_png(image));
  const Json body = {
      {"model", "m"},
      {"temperature", 0.5},
      {"max_tokens", 7},
      {"seed", 3},
      {"stop", "end"},
      {"messages",
       {{{"role", "developer"}, {"content", "be short"}},
        {{"role", "user"},
         {"content",
          {{{"type", "image_url"}, {"image_url", {{"url", url}, {"detail", "high"}}}},
           {{"type", "text"}, {"text", "what is this"}}}}},
        {{"role", "assistant"}, {"content", "an <image> mark"}},
        {{"role", "user"}, {"content", "sure?"}}}}};
  MobileSampling defaults;
  defaults.top_p = 0.9;
  const CompletionRequest request = read_completion_request(body.dump(), defaults);
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 0.9);
  EXPECT_EQ(request.sampling.max_new_tokens, 7);
  EXPECT_EQ(request.sampling.seed, 3U);
  EXPECT_TRUE(request.seed_given);
  EXPECT_EQ(request.stop, std::vector<std::string>{"end"});
  const Chat chat = chat_of(request, ImageConfig());
  ASSERT_EQ(chat.turns.size(), 4U);
  EXPECT_EQ(chat.turns[0].role, "system");
  EXPECT_EQ(chat.turns[1].content, "<image>\nwhat is this");
  EXPECT_EQ(chat.turns[2].content, "an <image> mark");
  ASSERT_EQ(chat.images.size(), 1U);
  EXPECT_EQ(chat.images[0].rgb, image.rgb);
}

TEST(OpenAi, NullCountsAsAbsent) {
  const CompletionRequest request = read_completion_request(
      R"({"messages": [{"role": "user", "content": "x"}], "stop": null, "seed": null,
          "stream": null, "max_tokens": null, "stream_options": null})",
      {});
  EXPECT_FALSE(request.stream);
  EXPECT_FALSE(request.seed_given);
  EXPECT_TRUE(request.stop.empty());
}

TEST(OpenAi, MistakesNameTheirField) {
  const std::string user = R"("messages": [{"role": "user", "content": "x"}])";
  const auto part = [](const std::string& text) {
    return R"({"messages": [{"role": "user", "content": [)" + text + "]}]}";
  };
  const auto picture = [&](const std::string& url) {
    return part(R"({"type": "image_url", "image_url": {"url": ")" + url + R"("}})");
  };
  for (const auto& [body, words] : std::vector<std::pair<std::string, std::string>>{
           {"", "request"},
           {"{", "request"},
           {"[]", "object"},
           {"{}", "\"messages\" is required"},
           {"{" + user + ", \"temprature\": 1}", "did you mean \"temperature\""},
           {"{" + user + ", \"temperature\": \"hot\"}", "request.temperature"},
           {"{" + user + ", \"temperature\": -1}", "request.temperature"},
           {"{" + user + ", \"top_p\": 1.5}", "request.top_p"},
           {"{" + user + ", \"max_tokens\": 0}", "request.max_tokens"},
           {"{" + user + ", \"max_tokens\": 5, \"max_completion_tokens\": 5}", "mean the same"},
           {"{" + user + ", \"n\": 2}", "request.n"},
           {"{" + user + ", \"logprobs\": true, \"stream\": true}", "request.logprobs"},
           {"{" + user + ", \"top_logprobs\": 2}", "request.top_logprobs"},
           {"{" + user + ", \"logprobs\": true, \"top_logprobs\": 21}", "request.top_logprobs"},
           {"{" + user + ", \"presence_penalty\": 1}", "request.presence_penalty"},
           {"{" + user + ", \"tools\": []}", "\"tools\""},
           {"{" + user + ", \"stop\": 5}", "request.stop"},
           {"{" + user + ", \"stop\": [\"\"]}", "request.stop"},
           {"{" + user + ", \"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\"]}", "at most 4"},
           {"{" + user + ", \"stream_options\": {}}", "no effect"},
           {R"({"messages": []})", "last message"},
           {R"({"messages": [{"role": "assistant", "content": "x"}]})", "last message"},
           {R"({"messages": [{"role": "judge", "content": "x"}]})", "request.messages[0].role"},
           {R"({"messages": [{"role": "user", "content": 5}]})", "request.messages[0].content"},
           {R"({"messages": [{"role": "user", "content": []}]})", "request.messages[0].content"},
           {part(R"({"type": "video"})"), "request.messages[0].content[0].type"},
           {part(R"({"type": "text"})"), "request.messages[0].content[0]"},
           {part(R"({"type": "image_url", "text": "x"})"), "request.messages[0].content[0]"},
           {picture("http://example.org/a.png"), "fetches no other addresses"},
           {picture("data:image/png,abc"), "base64"},
           {picture("data:image/png;base64,a"), "ends too early"},
           {picture("data:image/png;base64,ab!d"), "character 2"},
           {picture("data:image/png;base64,abcd"),
            "request.messages[0].content[0].image_url.url"}}) {
    EXPECT_NE(mistake(body).find(words), std::string::npos) << body << ": " << mistake(body);
  }
}

TEST(OpenAi, AMarkBesidePicturesAndAPictureOfAnotherRoleAreRefused) {
  const std::string url = "data:image/png;base64," + encode_base64(encode_png(Image(1, 1)));
  const std::string image = R"({"type": "image_url", "image_url": {"url": ")" + url + R"("}})";
  EXPECT_NE(mistake(R"({"messages": [{"role": "user", "content": [)" + image +
                    R"(, {"type": "text", "text": "an <image>"}]}]})")
                .find("content[1]"),
            std::string::npos);
  EXPECT_NE(mistake(R"({"messages": [{"role": "system", "content": [)" + image +
                    R"(]}, {"role": "user", "content": "x"}]})")
                .find("messages of the user"),
            std::string::npos);
  EXPECT_EQ(mistake(R"({"messages": [{"role": "user", "content": "an <image> of none"}]})"),
            "no mistake found");
}

TEST(OpenAi, DataUrlsOfEveryLengthComeBack) {
  for (std::size_t length = 0; length < 9; ++length) {
    std::string bytes;
    for (std::size_t i = 0; i < length; ++i) bytes.push_back(static_cast<char>(250 + 3 * i));
    EXPECT_EQ(decode_data_url("data:x/y;base64," + encode_base64(bytes), "url"), bytes) << length;
  }
}

TEST(StopTexts, CutTheAnswerWhereverItIsSplit) {
  const std::string answer = "one two three two";
  for (std::size_t width = 1; width <= answer.size(); ++width) {
    StopTexts stop({"three", "tw!"});
    std::string text;
    for (std::size_t at = 0; at < answer.size(); at += width)
      text += stop.add(answer.substr(at, width));
    text += stop.finish();
    EXPECT_EQ(text, "one two ") << width;
    EXPECT_TRUE(stop.found());
  }
}

TEST(StopTexts, HoldBackOnlyWhatMayStillBecomeOne) {
  StopTexts stop({"end"});
  EXPECT_EQ(stop.add("the e"), "the ");
  EXPECT_EQ(stop.add("n"), "");
  EXPECT_EQ(stop.add("ough en"), "enough ");
  EXPECT_EQ(stop.finish(), "en");
  EXPECT_FALSE(stop.found());
  StopTexts none({});
  EXPECT_EQ(none.add("all"), "all");
}

}  // namespace
}  // namespace pocketvlm
