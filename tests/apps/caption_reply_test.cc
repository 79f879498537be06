#include "apps/caption_reply.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

using Pairs = std::vector<QuestionAndAnswer>;

CaptionReply read(const std::string& reply) { return read_caption_reply(reply, kCaptionTemplate); }

TEST(CaptionReply, ReadsMarkedLines) {
  const Pairs one = {{"What is it?", "A dog."}};
  for (const char* reply : {"Q: What is it?\nA: A dog.",
                            "Sure! Here you are:\n\nQ: What is it?\n\nA: A dog.\n",
                            "Question: What is it?\nAnswer: A dog.",
                            "1. Q: What is it?\n   A: A dog.",
                            "**Q1:** What is it?\n**A1:** A dog.",
                            "- question 1: What is it?\n- answer 1: A dog.",
                            "```\nQ: What is it?\nA: A dog.\n```"}) {
    const CaptionReply result = read(reply);
    EXPECT_EQ(result.problem, "") << reply;
    EXPECT_EQ(result.pairs, one) << reply;
  }
  EXPECT_EQ(read("Q: What is it?\nA: A dog.\nIt sleeps.\n\nQ: What colour?\nA: Brown: dark.").pairs,
            (Pairs{{"What is it?", "A dog.\nIt sleeps."}, {"What colour?", "Brown: dark."}}));
}

TEST(CaptionReply, ReadsJson) {
  const Pairs two = {{"What is it?", "A dog."}, {"Where?", "On grass."}};
  for (const char* reply : {R"([{"question": "What is it?", "answer": "A dog."}, {"question": "Where?", "answer": " On grass. "}])",
                            R"({"pairs": [{"q": "What is it?", "a": "A dog."}, {"Q": "Where?", "A": "On grass."}]})",
                            "```json\n[{\"question\": \"What is it?\", \"answer\": \"A dog.\"}, {\"question\": \"Where?\", \"answer\": \"On grass.\"}]\n```"}) {
    EXPECT_EQ(read(reply).pairs, two) << reply;
    EXPECT_EQ(read(reply).problem, "") << reply;
  }
  EXPECT_EQ(read(R"({"question": "What is it?", "answer": "A dog."})").pairs.size(), 1U);
}

TEST(CaptionReply, WhatIsOfNoUseHasItsReason) {
  std::string many, long_question = "Q: " + std::string(501, 'w') + "\nA: x", long_answer = "Q: Why?\nA: " + std::string(2001, 'w');
  for (int i = 0; i < 11; ++i) many += "Q: Number " + std::to_string(i) + "?\nA: Yes.\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no question and answer"},
      {"A dog sleeps on the grass.", "no question and answer"},
      {"[]", "no question and answer"},
      {"[1, 2]", "no question and answer"},
      {"{\"question\": ", "no question and answer"},
      {"Q: What is it?", "empty question or answer"},
      {"A: A dog.", "empty question or answer"},
      {"Q: What is it?\nA:", "empty question or answer"},
      {"Q: What is it?\nA: A dog.\nA: A cat.", "empty question or answer"},
      {"Q: What is it?\nQ: Where?\nA: Here.", "empty question or answer"},
      {R"([{"question": "What is it?"}])", "empty question or answer"},
      {R"([{"question": 3, "answer": "x"}])", "empty question or answer"},
      {many, "too many pairs"},
      {long_question, "too long"},
      {long_answer, "too long"},
      {"Q: A dog.\nA: A dog.", "answer repeats the question"},
      {"Q: What is in <image>?\nA: A dog.", "picture mark"},
      {"Q: What is it?\nA: \xff", "invalid UTF-8"},
      {"Q: What is {caption}?\nA: A dog.", "copy of the instruction"},
      {"Q: What is it?\nA: Use only what the caption says about the picture.", "copy of the instruction"},
  };
  for (const auto& [reply, problem] : cases) EXPECT_EQ(read(reply).problem, problem) << reply.substr(0, 80);
  // What a template of one's own says, too; the same words are no copy under another template.
  EXPECT_EQ(read_caption_reply("Q: Ask about this very picture, please?\nA: No.", "Ask about this very picture, please: {caption}").problem,
            "copy of the instruction");
  EXPECT_EQ(read("Q: Ask about this very picture, please?\nA: No.").problem, "");
}

TEST(CaptionReply, ATemplateNamesTheCaptionOnce) {
  EXPECT_EQ(caption_prompt("<{caption}>", "a {caption}"), "<a {caption}>");
  EXPECT_NE(caption_prompt(kCaptionTemplate, "a dog").find("Caption: a dog"), std::string::npos);
  EXPECT_THROW(caption_prompt("no mark", "x"), Error);
  EXPECT_THROW(caption_prompt("{caption} {caption}", "x"), Error);
}

}  // namespace
}  // namespace pocketvlm
