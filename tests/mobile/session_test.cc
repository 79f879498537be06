#include "mobile/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "mobile/kernels.h"
#include "tests/mobile/plain_model.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

Image noise(int width, int height, std::uint64_t seed = 1) {
  Image image(width, height);
  Random random({seed});
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
  return image;
}

Chat picture_chat(int width = 40, int height = 20) {
  Chat chat;
  chat.turns = {{"user", "what is this"}};
  chat.images = {noise(width, height)};
  return chat;
}

double relative_error(const std::vector<float>& got, const PlainMatrix& want) {
  EXPECT_EQ(got.size(), want.data.size());
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < std::min(got.size(), want.data.size()); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want.data[i], 2);
    norm += want.data[i] * want.data[i];
  }
  return std::sqrt(error / norm);
}

struct Errors {
  double vision, projector, logits;
};

Errors compare(const TinyModel& model, const std::string& kernels) {
  const TinyFiles files = write_tiny_model(model);
  SessionOptions options;
  options.kernels = kernels;
  options.threads = 2;
  Session session(files.language, files.mmproj, options);
  const EncodedChat prompt = session.encoder().encode(picture_chat(), true);
  const GgufFile language(files.language);
  const GgufFile mmproj(files.mmproj);
  const PlainMatrix features = plain_vision(mmproj, prompt);
  const PlainMatrix visual = plain_projector(mmproj, features, prompt.grids);
  const PlainMatrix logits = plain_language(language, prompt, visual);
  return {relative_error(session.encode_vision(prompt), features),
          relative_error(session.encode_image(prompt), visual),
          relative_error(session.forward_logits(prompt), logits)};
}

class EveryTable : public ::testing::TestWithParam<const Kernels*> {};

TEST_P(EveryTable, FloatModelsEqualThePlainForward) {
  for (const char* architecture : {"llama", "minicpm", "qwen2"}) {
    for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16}) {
      TinyModel model;
      model.architecture = architecture;
      model.type = type;
      model.tied = type == GgmlType::kF16;
      const Errors errors = compare(model, GetParam()->name);
      EXPECT_LT(errors.vision, 2e-6) << architecture;
      EXPECT_LT(errors.projector, 2e-6) << architecture;
      EXPECT_LT(errors.logits, 5e-6) << architecture;
    }
  }
}

TEST_P(EveryTable, EveryProjectorAndPositionSchemeEqualsThePlainForward) {
  std::vector<TinyModel> models;
  for (const char* positions : {"key", "key_and_query", "interpolated"}) {
    TinyModel model;
    model.projector_positions = positions;
    model.vision_positions = "interpolated";
    model.activation = "gelu_erf";
    models.push_back(model);
  }
  for (const char* projector : {"mlp", "ldp", "ldpv2"}) {
    TinyModel model;
    model.projector = projector;
    model.activation = "quick_gelu";
    models.push_back(model);
  }
  for (const TinyModel& model : models) {
    const Errors errors = compare(model, GetParam()->name);
    EXPECT_LT(errors.vision, 2e-6) << model.projector << " " << model.projector_positions;
    EXPECT_LT(errors.projector, 5e-6) << model.projector << " " << model.projector_positions;
    EXPECT_LT(errors.logits, 1e-5) << model.projector << " " << model.projector_positions;
  }
}

TEST_P(EveryTable, QuantizedModelsDifferOnlyByTheRoundingOfInputs) {
  for (const GgmlType type : {GgmlType::kQ8_0,
                              GgmlType::kQ4_0,
                              GgmlType::kQ4_1,
                              GgmlType::kQ5_0,
                              GgmlType::kQ5_1,
                              GgmlType::kQ4_K,
                              GgmlType::kQ5_K,
                              GgmlType::kQ6_K}) {
    TinyModel model;
    model.type = type;
    model.wide = true;
    model.vision_type = GgmlType::kQ8_0;
    const Errors errors = compare(model, GetParam()->name);
    EXPECT_LT(errors.vision, 0.01) << type_info(type).name;
    EXPECT_LT(errors.projector, 0.02) << type_info(type).name;
    EXPECT_LT(errors.logits, 0.03) << type_info(type).name;
  }
}

std::string table_name(const ::testing::TestParamInfo<const Kernels*>& info) {
  return info.param->name;
}
INSTANTIATE_TEST_SUITE_P(All, EveryTable, ::testing::ValuesIn(available_kernels()), table_name);

TEST(Session, ThePlainForwardNoticesOneChangedWeight) {
  TinyModel model;
  const TinyFiles files = write_tiny_model(model);
  model.seed = 2;
  const TinyFiles others = write_tiny_model(model);
  Session session(files.language, files.mmproj);
  const EncodedChat prompt = session.encoder().encode(picture_chat(), true);
  const GgufFile other(others.mmproj);
  EXPECT_GT(relative_error(session.encode_vision(prompt), plain_vision(other, prompt)), 0.1);
}

TEST(Session, TokensDoNotDependOnThreadsOrCalls) {
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kQ4_0}) {
    TinyModel model;
    model.type = type;
    const TinyFiles files = write_tiny_model(model);
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<std::int32_t>> answers;
    for (const int threads : {1, 2, 3, 1}) {
      SessionOptions options;
      options.threads = threads;
      Session session(files.language, files.mmproj, options);
      const EncodedChat prompt = session.encoder().encode(picture_chat(), true);
      logits.push_back(session.forward_logits(prompt));
      MobileSampling sampling;
      sampling.max_new_tokens = 20;
      answers.push_back(session.generate(prompt, sampling).ids);
      session.reset();
      answers.push_back(session.generate(prompt, sampling).ids);
    }
    for (const auto& other : logits) EXPECT_EQ(other, logits.front());
    for (const auto& other : answers) EXPECT_EQ(other, answers.front());
    EXPECT_FALSE(answers.front().empty());
  }
}

TEST(Session, CachedDecodingEqualsTheFullForward) {
  for (const std::string cache : {"f32", "f16", "q8_0"}) {
    TinyModel model;
    model.wide = cache == "q8_0";  // heads of whole blocks
    const TinyFiles files = write_tiny_model(model);
    SessionOptions options;
    options.kv_cache = cache;
    Session session(files.language, files.mmproj, options);
    const EncodedChat prompt = session.encoder().encode(picture_chat(), true);
    const std::vector<float> all = session.forward_logits(prompt);
    const auto vocab = static_cast<std::size_t>(session.language().vocab);
    EncodedChat head = prompt;
    head.ids.resize(prompt.ids.size() - 5);  // the text after the picture
    session.append(head, session.encode_image(head));
    for (std::size_t t = head.ids.size(); t < prompt.ids.size(); ++t) {
      session.append(std::span(&prompt.ids[t], 1));
      for (std::size_t v = 0; v < vocab; ++v) {
        ASSERT_NEAR(session.logits()[v], all[t * vocab + v], cache == "f32" ? 1e-4 : 2e-2);
      }
    }
    EXPECT_EQ(session.position(), static_cast<std::int64_t>(prompt.ids.size()));
  }
}

TEST(Session, AQuantizedCacheGivesNearlyTheLogitsOfAFullOne) {
  TinyModel model;
  model.wide = true;
  const TinyFiles files = write_tiny_model(model);
  const auto logits = [&](const char* cache) {
    SessionOptions options;
    options.kv_cache = cache;
    Session session(files.language, files.mmproj, options);
    return session.forward_logits(session.encoder().encode(picture_chat(), true));
  };
  const std::vector<float> full = logits("f32");
  const std::vector<float> quantized = logits("q8_0");
  PlainMatrix want(1, static_cast<std::int64_t>(full.size()));
  want.data.assign(full.begin(), full.end());
  const double error = relative_error(quantized, want);
  EXPECT_GT(error, 0.0);  // it did quantize
  EXPECT_LT(error, 0.02);
}

TEST(Session, TwoPicturesInOneMessageKeepTheirOrder) {
  const TinyFiles files = write_tiny_model({});
  Session session(files.language, files.mmproj);
  Chat chat;
  chat.turns = {{"user", "<image> or <image>"}};
  chat.images = {noise(40, 20, 1), noise(40, 20, 2)};
  const EncodedChat both = session.encoder().encode(chat, true);
  const std::vector<float> logits = session.forward_logits(both);
  EXPECT_EQ(session.chat(chat, {}).timings.slices, static_cast<std::int64_t>(both.grids.size()));
  EXPECT_EQ(both.grids.size() % 2, 0U);
  std::swap(chat.images[0], chat.images[1]);
  EXPECT_NE(session.forward_logits(session.encoder().encode(chat, true)), logits);
}

TEST(Session, BlockSizesAndDecodingThreadsDoNotChangeAnswers) {
  TinyModel model;
  model.type = GgmlType::kQ4_0;
  const TinyFiles files = write_tiny_model(model);
  SessionOptions options;
  options.threads = 3;
  Session usual(files.language, files.mmproj, options);
  options.decode_threads = 1;
  options.pieces = {1024, 2048};
  options.prefill_tokens = 16;
  Session tuned(files.language, files.mmproj, options);
  EXPECT_EQ(tuned.decode_threads(), 1);
  EXPECT_EQ(tuned.chat(picture_chat(), {}).ids, usual.chat(picture_chat(), {}).ids);
  options.decode_threads = 4;
  EXPECT_THROW(Session(files.language, files.mmproj, options), Error);
}

TEST(Session, ASecondTurnReusesThePrefixAndGivesTheSameAnswer) {
  const TinyFiles files = write_tiny_model({});
  MobileSampling sampling;
  sampling.max_new_tokens = 12;
  Session session(files.language, files.mmproj);
  Chat chat = picture_chat();
  const ChatAnswer first = session.chat(chat, sampling);
  chat.turns.push_back({"assistant", "a cat"});
  chat.turns.push_back({"user", "are you sure"});
  const ChatAnswer second = session.chat(chat, sampling);
  EXPECT_EQ(first.timings.cached_tokens, 0);
  // At least all up to where the answer began; the answer in the chat is not the one generated.
  EXPECT_GE(second.timings.cached_tokens, first.timings.prompt_tokens);
  EXPECT_LT(second.timings.cached_tokens, second.timings.prompt_tokens);
  Session fresh(files.language, files.mmproj);
  EXPECT_EQ(fresh.chat(chat, sampling).ids, second.ids);
  // Another picture must not be answered from the cache of the first.
  chat.images = {noise(40, 20, 99)};
  const ChatAnswer third = session.chat(chat, sampling);
  Session again(files.language, files.mmproj);
  EXPECT_EQ(again.chat(chat, sampling).ids, third.ids);
}

TEST(Session, StreamedPiecesAddUpToTheAnswer) {
  const TinyFiles files = write_tiny_model({});
  Session session(files.language, files.mmproj);
  MobileSampling sampling;
  sampling.max_new_tokens = 40;
  sampling.temperature = 1.5;  // many byte tokens, among them broken characters
  std::string streamed;
  const ChatAnswer answer = session.chat(picture_chat(), sampling, [&](std::string_view text) {
    streamed += text;
    return true;
  });
  EXPECT_EQ(streamed, answer.text);
  int pieces = 0;
  const ChatAnswer cut =
      session.chat(picture_chat(), sampling, [&](std::string_view) { return ++pieces < 3; });
  EXPECT_LT(cut.ids.size(), answer.ids.size());
}

TEST(Session, SeedsDecideTheSample) {
  const TinyFiles files = write_tiny_model({});
  Session session(files.language, files.mmproj);
  MobileSampling sampling;
  sampling.temperature = 1.0;
  sampling.max_new_tokens = 20;
  const auto ids = [&](std::uint64_t seed) {
    sampling.seed = seed;
    return session.chat(picture_chat(), sampling).ids;
  };
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1), ids(2));
}

TEST(Session, TextOnlyFilesAnswerTextAndRefusePictures) {
  const TinyFiles files = write_tiny_model({});
  Session session(files.language, "");
  Chat chat;
  chat.turns = {{"user", "hello"}};
  EXPECT_NO_THROW(session.chat(chat, {}));
  EXPECT_THROW(session.chat(picture_chat(), {}), Error);
}

TEST(Session, MistakesNameTheFileAtFault) {
  const TinyFiles files = write_tiny_model({});
  TinyModel wide;
  wide.wide = true;
  const TinyFiles other = write_tiny_model(wide);
  const auto text_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(text_of([&] { Session(files.mmproj, ""); }).find("--mmproj"), std::string::npos);
  EXPECT_NE(text_of([&] { Session(files.language, files.language); }).find("clip"),
            std::string::npos);
  EXPECT_NE(text_of([&] { Session(files.language, other.mmproj); }).find("do not belong together"),
            std::string::npos);
  EXPECT_NE(text_of([&] { Session("/no/such.gguf", ""); }).find("/no/such.gguf"),
            std::string::npos);
  SessionOptions options;
  options.context = 100000;
  EXPECT_NE(text_of([&] { Session(files.language, "", options); }).find("positions"),
            std::string::npos);
  options = SessionOptions();
  options.kv_cache = "q3";
  EXPECT_NE(text_of([&] { Session(files.language, "", options); }).find("q3"), std::string::npos);
  options = SessionOptions();
  options.kv_cache = "q8_0";
  EXPECT_NE(text_of([&] { Session(files.language, "", options); }).find("blocks of 32"),
            std::string::npos);
  options = SessionOptions();
  options.context = 8;
  Session small(files.language, files.mmproj, options);
  EXPECT_NE(text_of([&] { small.chat(picture_chat(), {}); }).find("context"), std::string::npos);
}

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  const std::vector<float> logits = {1.0F, 3.0F, 3.0F, 2.0F};
  EXPECT_EQ(sample_token(logits, {}, {}, 0), 1);
  MobileSampling penalised;
  penalised.repetition_penalty = 2.0;
  const std::vector<std::int32_t> history = {1, 2};
  EXPECT_EQ(sample_token(logits, history, penalised, 0), 3);
}

TEST(Sampling, CutsLeaveOnlyTheHead) {
  const std::vector<float> logits = {
      std::log(0.5F), std::log(0.3F), std::log(0.15F), std::log(0.05F)};
  const auto reachable = [&](const MobileSampling& sampling) {
    std::int32_t largest = 0;
    for (std::uint64_t step = 0; step < 500; ++step)
      largest = std::max(largest, sample_token(logits, {}, sampling, step));
    return largest;
  };
  MobileSampling sampling;
  sampling.temperature = 1.0;
  EXPECT_EQ(reachable(sampling), 3);
  sampling.top_k = 2;
  EXPECT_EQ(reachable(sampling), 1);
  sampling.top_k = 0;
  sampling.top_p = 0.6;
  EXPECT_EQ(reachable(sampling), 1);
  sampling.top_p = 1.0;
  sampling.min_p = 0.2;
  EXPECT_EQ(reachable(sampling), 2);
}

TEST(Sampling, FrequenciesFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.6F), std::log(0.3F), std::log(0.1F)};
  MobileSampling sampling;
  sampling.temperature = 1.0;
  std::vector<int> counts(3);
  for (std::uint64_t step = 0; step < 10000; ++step)
    ++counts[static_cast<std::size_t>(sample_token(logits, {}, sampling, step))];
  EXPECT_NEAR(counts[0], 6000, 200);
  EXPECT_NEAR(counts[1], 3000, 200);
}

}  // namespace
}  // namespace pocketvlm
