#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/random.h"
#include "data/preprocess/image.h"
#include "mobile/kernels.h"
#include "mobile/session.h"
#include "tests/mobile/run_program.h"
#include "tests/mobile/tiny_model.h"

#ifndef AARCH64_BUILD
#define AARCH64_BUILD ""
#define AARCH64_RUN ""
#endif

// What was built for 64-bit ARM and runs here under qemu. A processor that lacks an instruction
// stops the program, so each of the three also proves that its kernels use nothing more.
namespace pocketvlm {
namespace {

struct Processor {
  const char* name;     // as qemu calls it
  const char* kernels;  // the fastest table it can run
};

constexpr Processor kProcessors[] = {
    {"cortex-a72", "neon"},           // ARMv8.0
    {"neoverse-n1", "neon_dotprod"},  // ARMv8.2 with dotprod, the server's Cortex-A76
    {"max", "neon_i8mm"},             // everything that qemu has
};

std::string on(const Processor& processor, const std::string& program) {
  return fmt::format("{} -cpu {} {}/{}", AARCH64_RUN, processor.name, AARCH64_BUILD, program);
}

Json ids_of(const std::string& command) {
  const ProgramResult result = run_shell(command);
  EXPECT_EQ(result.status, 0) << command << "\n" << result.err;
  return result.status == 0 ? parse_json(result.out, command)["ids"] : Json();
}

constexpr std::int64_t kAnswerTokens = 8;

// Where the best two logits of a random model lie closer than this many standard deviations of all
// logits, kernels may well choose differently: rounding inputs to eight bits turns a difference in
// the last digit of a sum into a whole level, and prompts in bfloat16 lack that rounding. The test of the tables of this processor
// measures both.
constexpr double kClose = 0.2;

Chat chat_about(const Image& picture, const std::string& prompt) {
  Chat chat;
  chat.turns = {{"user", prompt}};
  chat.images = {picture};
  return chat;
}

void read_prompt(Session& session, const Chat& chat) {
  const EncodedChat prompt = session.encoder().encode(chat, true);
  const std::vector<float> visual = session.encode_image(prompt);
  session.reset();
  session.append(prompt, visual);
}

double deviation(std::span<const float> logits) {
  const auto count = static_cast<double>(logits.size());
  const double mean = std::accumulate(logits.begin(), logits.end(), 0.0) / count;
  double squares = 0.0;
  for (const float logit : logits) squares += std::pow(static_cast<double>(logit) - mean, 2);
  return std::sqrt(squares / count);
}

// Whether the best token of every step of a greedy answer is clear.
bool is_clear(Session& session, const Chat& chat) {
  read_prompt(session, chat);
  for (std::int64_t step = 0; step < kAnswerTokens; ++step) {
    const std::span<const float> logits = session.logits();
    std::vector<float> best(logits.begin(), logits.end());
    std::partial_sort(best.begin(), best.begin() + 2, best.end(), std::greater<float>());
    if (static_cast<double>(best[0] - best[1]) < kClose * deviation(logits)) return false;
    const auto id = static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
    session.append({&id, 1});
  }
  return true;
}

// A question about a picture that a random model of one type answers without close decisions.
struct Question {
  std::string type;
  TinyFiles files;
  Chat chat;
  std::string arguments;      // the same for pocketvlm-mobile
  Json ids;                   // what the plain loops of this processor answer
  std::vector<float> logits;  // and their logits of the first token
};

Question ask(GgmlType type, const std::string& projector) {
  TinyModel model;
  model.type = type;
  model.wide = true;
  model.projector = projector;
  Question question;
  question.type = type_info(type).name;
  question.files = write_tiny_model(model);
  Image picture(40, 24);
  Random random({7});
  for (std::uint8_t& value : picture.rgb) value = static_cast<std::uint8_t>(random.below(256));
  const std::string image = temporary_folder() + "/p.png";
  write_file_atomic(image, encode_png(picture));
  SessionOptions options;
  options.kernels = "scalar";
  options.packed = "none";
  Session session(question.files.language, question.files.mmproj, options);
  std::string prompt = "what is this";
  for (int tries = 0; !is_clear(session, chat_about(picture, prompt)); ++tries) {
    PV_CHECK(tries < 500, "no prompt without close decisions found for {}", type_info(type).name);
    prompt.push_back(static_cast<char>('a' + random.below(26)));
  }
  question.chat = chat_about(picture, prompt);
  read_prompt(session, question.chat);
  question.logits.assign(session.logits().begin(), session.logits().end());
  question.arguments = fmt::format(
      " chat --model {} --mmproj {} --image {} --prompt '{}' --greedy --max-new-tokens {} "
      "--packed memory --json",
      question.files.language,
      question.files.mmproj,
      image,
      prompt,
      kAnswerTokens);
  question.ids = ids_of(std::string(BINARY_ROOT) + "/pocketvlm-mobile" + question.arguments +
                        " --kernels scalar");
  return question;
}

// One model for each type, alternating between two projectors.
const std::vector<Question>& questions() {
  static const std::vector<Question> all = {ask(GgmlType::kF16, "resampler"),
                                            ask(GgmlType::kQ8_0, "ldpv2"),
                                            ask(GgmlType::kQ4_0, "resampler"),
                                            ask(GgmlType::kQ4_K, "ldpv2"),
                                            ask(GgmlType::kQ6_K, "resampler")};
  return all;
}

class Aarch64 : public ::testing::TestWithParam<Processor> {
 protected:
  void SetUp() override {
    if (std::string(AARCH64_BUILD).empty())
      GTEST_SKIP() << "no compiler, emulator or libraries for 64-bit ARM: run `scripts/setup.sh "
                      "--aarch64` and configure again";
  }
};

std::string processor_name(const ::testing::TestParamInfo<Processor>& info) {
  return info.param.kernels;
}

// mobile_kernels_test of the ARM build, for the fastest table of each processor; "max" can run
// them all.
TEST_P(Aarch64, KernelsEqualThePlainLoops) {
  const Processor& processor = GetParam();
  const std::string kernels = processor.kernels;
  const ProgramResult result =
      run_shell(on(processor, "tests/mobile_kernels_test") + " --gtest_filter='*KernelTables*/" +
                kernels + ":Kernels.*:PackedProducts.*:Int8Products.*:Int8Vision.*'");
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  for (const char* name : {"FloatProductsEqualThePlainLoops",
                           "QuantizedProductsEqualThePlainLoops",
                           "IntegerPartsAreExact",
                           "QuantizingIsBitEqual"}) {
    EXPECT_NE(result.out.find(fmt::format("OK ] All/KernelTables.{}/{} ", name, kernels)),
              std::string::npos)
        << name << "\n"
        << result.out;
  }
}

TEST_P(Aarch64, ChoosesTheFastestKernelsOfTheProcessor) {
  const TinyFiles files = write_tiny_model({});
  const std::string bench = " bench --json --prompt-tokens 4 --gen-tokens 2 --repeat 1 --model ";
  const ProgramResult result =
      run_shell(on(GetParam(), "pocketvlm-mobile") + bench + files.language);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(parse_json(result.out, "bench")["kernels"], GetParam().kernels) << result.out;
}

TEST_P(Aarch64, AnswersWithTheTokensOfThePlainLoopsOnX86) {
  for (const Question& question : questions()) {
    EXPECT_GE(question.ids.size(), 4U) << question.type;
    EXPECT_EQ(ids_of(on(GetParam(), "pocketvlm-mobile") + question.arguments), question.ids)
        << question.type;
  }
}

// The other half of the chain: all tables of this processor answer alike, too, and their logits
// differ by less than half of what makes a decision clear.
TEST(X86, EveryTableAnswersWithTheTokensOfThePlainLoops) {
  for (const Question& question : questions()) {
    for (const Kernels* kernels : available_kernels()) {
      EXPECT_EQ(ids_of(std::string(BINARY_ROOT) + "/pocketvlm-mobile" + question.arguments +
                       " --kernels " + kernels->name),
                question.ids)
          << question.type << " " << kernels->name;
      SessionOptions options;
      options.kernels = kernels->name;
      options.packed = "memory";
      Session session(question.files.language, question.files.mmproj, options);
      read_prompt(session, question.chat);
      double farthest = 0.0;
      for (std::size_t i = 0; i < question.logits.size(); ++i)
        farthest = std::max(
            farthest, std::fabs(static_cast<double>(session.logits()[i] - question.logits[i])));
      const double allowed = kernels->prompt_matmul == nullptr ? 0.25 : 0.5;
      EXPECT_LT(farthest, allowed * kClose * deviation(question.logits))
          << question.type << " " << kernels->name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Qemu, Aarch64, ::testing::ValuesIn(kProcessors), processor_name);

}  // namespace
}  // namespace pocketvlm
