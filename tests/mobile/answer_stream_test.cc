#include "mobile/answer_stream.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace pocketvlm {
namespace {

/// Byte pieces, words with and without a space before them, control pieces and, as id 0 in "released" chats, a text piece.
Vocabulary small_vocabulary(bool prefix, const std::string& zero) {
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  vocabulary.add_space_prefix = prefix;
  const auto add = [&](const std::string& piece, TokenType type) {
    vocabulary.pieces.push_back(piece);
    vocabulary.types.push_back(type);
    vocabulary.scores.push_back(-1.0F);
  };
  add(zero, zero == "<unk>" ? TokenType::kUnknown : TokenType::kNormal);
  for (const char* control : {"<s>", "</s>", "<image>", "</image>", "<slice>", "</slice>", "<|im_start|>", "<|im_end|>"}) {
    add(control, TokenType::kControl);
  }
  if (zero != "<unk>") add("<unk>", TokenType::kUnknown);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), TokenType::kByte);
  for (const char* word : {"\xE2\x96\x81", "a", "\xE2\x96\x81two", "\xE5\xA5\xBD", "\xEF\xBF\xBD"}) add(word, TokenType::kNormal);
  vocabulary.unk_id = zero == "<unk>" ? 0 : 9;
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  return vocabulary;
}

/// What the first `count` ids say for certain.
std::string certain(const PromptEncoder& encoder, const std::vector<std::int32_t>& ids, std::size_t count) {
  std::string text = encoder.answer_text(std::span(ids).first(count));
  while (text.ends_with("\xEF\xBF\xBD")) text.resize(text.size() - 3);
  return text;
}

TEST(AnswerStream, PiecesAreThoseOfTheWholeTextDecodedAgain) {
  Random random({5});
  for (const auto& [prefix, zero, compat] : {std::tuple{true, "<unk>", "right"}, std::tuple{false, "<unk>", "right"}, std::tuple{true, "!", "released"}}) {
    const Tokenizer tokenizer(small_vocabulary(prefix, zero));
    PromptConfig prompt;
    prompt.compat = compat;
    const PromptEncoder encoder(tokenizer, prompt, ImageConfig());
    const std::int32_t size = tokenizer.size();
    for (int run = 0; run < 300; ++run) {
      std::vector<std::int32_t> ids;
      AnswerStream stream(encoder);
      std::string told;
      const auto length = static_cast<std::size_t>(random.between(1, 24));
      while (ids.size() < length) {
        // Words, bytes of a character of three, any byte, and id 0.
        const std::int64_t kind = random.below(5);
        const std::int32_t first_byte = size - 5 - 256;
        if (kind == 0) ids.push_back(static_cast<std::int32_t>(random.between(size - 5, size - 1)));
        if (kind == 1) for (const int byte : {0xE5, 0xA5, 0xBD}) ids.push_back(first_byte + byte);
        if (kind == 2) ids.push_back(first_byte + static_cast<std::int32_t>(random.below(256)));
        if (kind == 3) ids.push_back(0);
        if (kind == 4) ids.push_back(static_cast<std::int32_t>(random.below(9)));
      }
      for (std::size_t i = 0; i < ids.size(); ++i) {
        told += stream.add(ids[i]);
        // Certain text may only grow; what follows can show that a character was invalid, never take a whole one back.
        const std::string now = certain(encoder, ids, i + 1);
        if (now.size() > told.size()) ADD_FAILURE() << now << " but " << told;
        EXPECT_EQ(encoder.answer_text(ids).substr(0, told.size()), told) << compat;
      }
      EXPECT_EQ(told + stream.finish(), encoder.answer_text(ids)) << compat << " " << prefix;
    }
  }
}

TEST(AnswerStream, WithoutIdsThereIsNoText) {
  const Tokenizer tokenizer(small_vocabulary(true, "<unk>"));
  const PromptEncoder encoder(tokenizer, PromptConfig(), ImageConfig());
  EXPECT_EQ(AnswerStream(encoder).finish(), "");
}

}  // namespace
}  // namespace pocketvlm
