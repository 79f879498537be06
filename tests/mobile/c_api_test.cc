#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "base/files.h"
#include "base/random.h"
#include "mobile/cores.h"
#include "mobile/include/pocketvlm.h"
#include "mobile/packed_weights.h"
#include "mobile/session.h"
#include "mobile/tuning.h"
#include "tests/mobile/run_program.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

Image noise(int width, int height, std::uint64_t seed = 1) {
  Image image(width, height);
  Random random({seed});
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
  return image;
}

template <typename Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof(value);
  return value;
}

int append_text(const char* text, size_t bytes, void* user_data) {
  static_cast<std::string*>(user_data)->append(text, bytes);
  return 0;
}

struct CloseSession {
  void operator()(pocketvlm_session* session) const { pocketvlm_session_close(session); }
};
struct CloseChat {
  void operator()(pocketvlm_chat* chat) const { pocketvlm_chat_close(chat); }
};
using SessionHandle = std::unique_ptr<pocketvlm_session, CloseSession>;
using ChatHandle = std::unique_ptr<pocketvlm_chat, CloseChat>;

class CApi : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = write_tiny_model({});
    image_ = temporary_folder() + "/p.png";
    write_file_atomic(image_, encode_png(noise(40, 20)));
  }

  static SessionHandle open(bool with_vision = true) {
    pocketvlm_session* session = nullptr;
    EXPECT_EQ(pocketvlm_session_open(files_.language.c_str(),
                                     with_vision ? files_.mmproj.c_str() : nullptr,
                                     nullptr,
                                     &session),
              POCKETVLM_OK)
        << pocketvlm_last_error();
    return SessionHandle(session);
  }

  static ChatHandle open_chat(const SessionHandle& session) {
    pocketvlm_chat* chat = nullptr;
    EXPECT_EQ(pocketvlm_chat_open(session.get(), &chat), POCKETVLM_OK) << pocketvlm_last_error();
    return ChatHandle(chat);
  }

  // A chat with one picture and one question.
  static ChatHandle picture_chat(const SessionHandle& session) {
    ChatHandle chat = open_chat(session);
    EXPECT_EQ(pocketvlm_chat_add_image_file(chat.get(), image_.c_str()), POCKETVLM_OK);
    EXPECT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "what is this"), POCKETVLM_OK);
    return chat;
  }

  // The same question to the C++ session below.
  static std::string expected_answer(std::int64_t max_new_tokens) {
    Session session(files_.language, files_.mmproj);
    Chat chat;
    chat.turns = {{"user", "<image>\nwhat is this"}};
    chat.images = {noise(40, 20)};
    MobileSampling sampling;
    sampling.max_new_tokens = max_new_tokens;
    return session.chat(chat, sampling).text;
  }

  static inline TinyFiles files_;
  static inline std::string image_;
};

TEST_F(CApi, AnswersAsTheSessionDoesAndStreamsTheSameText) {
  const SessionHandle session = open();
  const ChatHandle chat = picture_chat(session);
  auto sampling = sized<pocketvlm_sampling>();
  sampling.max_new_tokens = 12;
  auto answer = sized<pocketvlm_answer>();
  std::string streamed;
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), &sampling, append_text, &streamed, &answer),
            POCKETVLM_OK)
      << pocketvlm_last_error();
  const std::string expected = expected_answer(12);
  EXPECT_EQ(std::string(answer.text, answer.text_bytes), expected);
  EXPECT_EQ(streamed, expected);
  EXPECT_GT(answer.slices, 0);
  EXPECT_GT(answer.prompt_tokens, 0);
  EXPECT_EQ(answer.cached_tokens, 0);
  EXPECT_LE(answer.answer_tokens, 12);
  EXPECT_GT(answer.prefill_ms, 0.0);
}

TEST_F(CApi, PicturesComeFromFilesBytesAndPixelsAlike) {
  const SessionHandle session = open();
  const std::string bytes = read_file(image_);
  const Image pixels = noise(40, 20);
  std::vector<std::string> answers;
  for (int way = 0; way < 3; ++way) {
    const ChatHandle chat = open_chat(session);
    const pocketvlm_status status =
        way == 0   ? pocketvlm_chat_add_image_file(chat.get(), image_.c_str())
        : way == 1 ? pocketvlm_chat_add_image_bytes(chat.get(), bytes.data(), bytes.size())
                   : pocketvlm_chat_add_image_pixels(chat.get(), pixels.rgb.data(), 40, 20);
    ASSERT_EQ(status, POCKETVLM_OK) << pocketvlm_last_error();
    ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "what is this"), POCKETVLM_OK);
    std::string text;
    ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, append_text, &text, nullptr),
              POCKETVLM_OK);
    answers.push_back(text);
  }
  EXPECT_EQ(answers[0], expected_answer(128));
  EXPECT_EQ(answers[1], answers[0]);
  EXPECT_EQ(answers[2], answers[0]);
}

TEST_F(CApi, ASecondTurnKeepsWhatTheFirstComputed) {
  const SessionHandle session = open();
  const ChatHandle chat = picture_chat(session);
  auto answer = sized<pocketvlm_answer>();
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, &answer), POCKETVLM_OK);
  const std::int64_t first_prompt = answer.prompt_tokens;
  ASSERT_EQ(pocketvlm_chat_add_image_file(chat.get(), image_.c_str()), POCKETVLM_OK);
  ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "and <image> this"), POCKETVLM_OK);
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, &answer), POCKETVLM_OK)
      << pocketvlm_last_error();
  EXPECT_GE(answer.cached_tokens, first_prompt);
  EXPECT_GT(answer.prompt_tokens, answer.cached_tokens);
  ASSERT_EQ(pocketvlm_chat_clear(chat.get()), POCKETVLM_OK);
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, &answer),
            POCKETVLM_INVALID_ARGUMENT);
}

TEST_F(CApi, DescribesTheSession) {
  auto options = sized<pocketvlm_session_options>();
  options.threads = 1;
  options.kernels = "scalar";
  options.context = 128;
  pocketvlm_session* session = nullptr;
  ASSERT_EQ(pocketvlm_session_open(files_.language.c_str(), nullptr, &options, &session),
            POCKETVLM_OK);
  const SessionHandle handle(session);
  auto info = sized<pocketvlm_session_info>();
  ASSERT_EQ(pocketvlm_session_describe(session, &info), POCKETVLM_OK);
  EXPECT_EQ(info.threads, 1);
  EXPECT_EQ(info.has_vision, 0);
  EXPECT_EQ(info.context, 128);
  EXPECT_STREQ(info.kernels, "scalar");
}

TEST_F(CApi, MistakesHaveAStatusAndATextThatNamesThem) {
  const SessionHandle session = open();
  const SessionHandle blind = open(false);
  const ChatHandle chat = open_chat(session);
  const ChatHandle blind_chat = open_chat(blind);
  auto options = sized<pocketvlm_session_options>();
  auto sampling = sized<pocketvlm_sampling>();
  pocketvlm_session* none = session.get();
  const std::uint8_t pixel[3] = {1, 2, 3};
  const auto expect = [](pocketvlm_status got, pocketvlm_status want, const char* words) {
    EXPECT_EQ(got, want) << words;
    EXPECT_NE(std::string(pocketvlm_last_error()).find(words), std::string::npos)
        << words << ": " << pocketvlm_last_error();
  };
  expect(pocketvlm_session_open("/no/such.gguf", nullptr, nullptr, &none),
         POCKETVLM_FAILED,
         "/no/such.gguf");
  EXPECT_EQ(none, nullptr);
  options.kernels = "fast";
  expect(pocketvlm_session_open(files_.language.c_str(), nullptr, &options, &none),
         POCKETVLM_FAILED,
         "scalar");
  options.threads = -1;
  expect(pocketvlm_session_open(files_.language.c_str(), nullptr, &options, &none),
         POCKETVLM_INVALID_ARGUMENT,
         "threads");
  expect(pocketvlm_chat_add_turn(chat.get(), "judge", "x"), POCKETVLM_INVALID_ARGUMENT, "judge");
  expect(pocketvlm_chat_add_turn(chat.get(), "user", "see <image>"),
         POCKETVLM_INVALID_ARGUMENT,
         "0 pictures");
  expect(pocketvlm_chat_add_image_file(chat.get(), "/no.png"), POCKETVLM_FAILED, "/no.png");
  expect(pocketvlm_chat_add_image_bytes(chat.get(), "junk", 4), POCKETVLM_FAILED, "picture");
  expect(pocketvlm_chat_add_image_pixels(chat.get(), pixel, 0, 1),
         POCKETVLM_INVALID_ARGUMENT,
         "0 x 1");
  expect(pocketvlm_chat_add_image_pixels(chat.get(), pixel, 1 << 20, 1 << 20),
         POCKETVLM_FAILED,
         "megapixels");
  expect(pocketvlm_chat_add_image_file(blind_chat.get(), image_.c_str()),
         POCKETVLM_FAILED,
         "mmproj_path");
  sampling.top_p = 2.0;
  expect(pocketvlm_chat_answer(chat.get(), &sampling, nullptr, nullptr, nullptr),
         POCKETVLM_INVALID_ARGUMENT,
         "top_p");
  sampling = sized<pocketvlm_sampling>();
  sampling.max_new_tokens = -5;
  expect(pocketvlm_chat_answer(chat.get(), &sampling, nullptr, nullptr, nullptr),
         POCKETVLM_INVALID_ARGUMENT,
         "max_new_tokens");
  ASSERT_EQ(pocketvlm_chat_add_image_pixels(chat.get(), pixel, 1, 1), POCKETVLM_OK);
  expect(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, nullptr),
         POCKETVLM_INVALID_ARGUMENT,
         "wait for a user turn");
  // After all this the chat works.
  ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "x"), POCKETVLM_OK);
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, nullptr), POCKETVLM_OK);
}

TEST_F(CApi, NullPointersAreRefusedByEveryFunction) {
  const SessionHandle session = open();
  const ChatHandle chat = open_chat(session);
  pocketvlm_chat* other = nullptr;
  pocketvlm_session* opened = nullptr;
  const pocketvlm_status statuses[] = {
      pocketvlm_session_open(nullptr, nullptr, nullptr, &opened),
      pocketvlm_session_open("x", nullptr, nullptr, nullptr),
      pocketvlm_session_describe(session.get(), nullptr),
      pocketvlm_session_describe(nullptr, nullptr),
      pocketvlm_chat_open(nullptr, &other),
      pocketvlm_chat_open(session.get(), nullptr),
      pocketvlm_chat_clear(nullptr),
      pocketvlm_chat_add_image_file(chat.get(), nullptr),
      pocketvlm_chat_add_image_bytes(chat.get(), nullptr, 5),
      pocketvlm_chat_add_image_pixels(chat.get(), nullptr, 5, 5),
      pocketvlm_chat_add_turn(nullptr, "user", "x"),
      pocketvlm_chat_add_turn(chat.get(), nullptr, "x"),
      pocketvlm_chat_add_turn(chat.get(), "user", nullptr),
      pocketvlm_chat_answer(nullptr, nullptr, nullptr, nullptr, nullptr)};
  for (const pocketvlm_status status : statuses) EXPECT_EQ(status, POCKETVLM_INVALID_ARGUMENT);
  EXPECT_NE(std::string(pocketvlm_last_error()).find("NULL"), std::string::npos);
  pocketvlm_session_close(nullptr);
  pocketvlm_chat_close(nullptr);
  for (int status = 0; status <= 5; ++status)
    EXPECT_STRNE(pocketvlm_status_text(static_cast<pocketvlm_status>(status)), "unknown status");
  EXPECT_STREQ(pocketvlm_status_text(static_cast<pocketvlm_status>(77)), "unknown status");
  EXPECT_GE(pocketvlm_api_version(), 1);
}

TEST_F(CApi, StructsOfOtherVersionsAreReadAsFarAsBothKnowThem) {
  const SessionHandle session = open();
  const ChatHandle chat = picture_chat(session);
  struct Later {
    pocketvlm_sampling known;
    std::uint64_t added;
  } later{};
  later.known.struct_size = sizeof(later);
  later.known.max_new_tokens = 3;
  auto answer = sized<pocketvlm_answer>();
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), &later.known, nullptr, nullptr, &answer),
            POCKETVLM_OK)
      << pocketvlm_last_error();
  EXPECT_LE(answer.answer_tokens, 3);
  later.added = 1;
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), &later.known, nullptr, nullptr, nullptr),
            POCKETVLM_INVALID_ARGUMENT);
  later.known.struct_size = 0;
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), &later.known, nullptr, nullptr, nullptr),
            POCKETVLM_INVALID_ARGUMENT);
  // An older caller's struct ends before the timings: they must not be written.
  ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "more"), POCKETVLM_OK);
  auto older = sized<pocketvlm_answer>();
  older.struct_size = offsetof(pocketvlm_answer, vision_ms);
  older.vision_ms = -7.0;
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, &older), POCKETVLM_OK);
  EXPECT_EQ(older.vision_ms, -7.0);
  EXPECT_GT(older.prompt_tokens, 0);
}

TEST_F(CApi, LaterOptionsReachTheSession) {
  EXPECT_GE(pocketvlm_api_version(), 3);
  TinyModel quantized;
  quantized.wide = true;
  quantized.type = GgmlType::kQ4_K;
  const TinyFiles files = write_tiny_model(quantized);
  const auto open_with = [&](const pocketvlm_session_options& options, const char* mmproj) {
    pocketvlm_session* session = nullptr;
    const pocketvlm_status status = pocketvlm_session_open(files.language.c_str(), mmproj, &options, &session);
    EXPECT_EQ(session != nullptr, status == POCKETVLM_OK);
    return std::pair(status, SessionHandle(session));
  };
  const std::string folder = temporary_folder();
  auto options = sized<pocketvlm_session_options>();
  options.packed_folder = folder.c_str();
  options.resident = "both";
  ASSERT_EQ(open_with(options, files.mmproj.c_str()).first, POCKETVLM_OK) << pocketvlm_last_error();
  const bool packs = choose_kernels("auto").packed_matmul != nullptr;
  EXPECT_EQ(std::filesystem::exists(PackedWeights::path_of(files.language, folder)), packs);
  EXPECT_FALSE(std::filesystem::exists(PackedWeights::path_of(files.language)));
  options.packed_folder = nullptr;
  options.packed = "memory";
  ASSERT_EQ(open_with(options, files.mmproj.c_str()).first, POCKETVLM_OK);
  EXPECT_FALSE(std::filesystem::exists(PackedWeights::path_of(files.language)));
  // A caller compiled against version 1 knows nothing of them.
  options.struct_size = offsetof(pocketvlm_session_options, vision);
  options.vision = "never read";
  EXPECT_EQ(open_with(options, files.mmproj.c_str()).first, POCKETVLM_OK);
  options.struct_size = sizeof(options);
  for (const char* pointer : {"vision", "packed", "resident", "affinity", "tuning"}) {
    auto wrong = sized<pocketvlm_session_options>();
    wrong.packed = "memory";
    (std::string(pointer) == "vision"     ? wrong.vision
     : std::string(pointer) == "packed"   ? wrong.packed
     : std::string(pointer) == "resident" ? wrong.resident
     : std::string(pointer) == "affinity" ? wrong.affinity
                                          : wrong.tuning) = "cloud";
    EXPECT_EQ(open_with(wrong, files.mmproj.c_str()).first, POCKETVLM_FAILED) << pointer;
    EXPECT_NE(std::string(pocketvlm_last_error()).find("cloud"), std::string::npos) << pocketvlm_last_error();
  }
  // The tuning file's kernels are taken.
  Tuning tuning;
  tuning.processor = processor_name();
  tuning.cores = usable_cores();
  tuning.kernels = "scalar";
  write_json(tuning_path_of(files.language), config_to_json(tuning));
  auto tuned = sized<pocketvlm_session_options>();
  tuned.packed = "memory";
  for (const char* given : {"auto", "none"}) {
    tuned.tuning = given;
    const auto [status, session] = open_with(tuned, nullptr);
    ASSERT_EQ(status, POCKETVLM_OK) << pocketvlm_last_error();
    auto info = sized<pocketvlm_session_info>();
    ASSERT_EQ(pocketvlm_session_describe(session.get(), &info), POCKETVLM_OK);
    EXPECT_EQ(std::string(info.kernels), std::string(given) == "auto" ? "scalar" : std::string(choose_kernels("auto").name));
  }
}

TEST_F(CApi, ACallbackStopsTheAnswerAndItsExceptionsDoNotEscape) {
  const SessionHandle session = open();
  const ChatHandle chat = picture_chat(session);
  auto answer = sized<pocketvlm_answer>();
  const auto stop = [](const char*, size_t, void*) { return 1; };
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, stop, nullptr, &answer), POCKETVLM_OK);
  EXPECT_EQ(answer.stop_reason, POCKETVLM_STOP_CALLBACK);
  EXPECT_LT(answer.answer_tokens, 128);
  const auto raise = [](const char*, size_t, void*) -> int { throw std::runtime_error("mine"); };
  ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "again"), POCKETVLM_OK);
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, raise, nullptr, nullptr),
            POCKETVLM_INTERNAL);
  EXPECT_STREQ(pocketvlm_last_error(), "mine");
  const auto raise_number = [](const char*, size_t, void*) -> int { throw 5; };
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, raise_number, nullptr, nullptr),
            POCKETVLM_INTERNAL);
  // The failed answers left no turn behind: the question still waits, and is answered.
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, nullptr), POCKETVLM_OK);
}

TEST_F(CApi, CallsThatWouldWaitForTheirOwnAnswerAreBusy) {
  const SessionHandle session = open();
  const ChatHandle chat = picture_chat(session);
  const ChatHandle other = picture_chat(session);
  struct Seen {
    pocketvlm_chat* chat;
    pocketvlm_chat* other;
    std::vector<pocketvlm_status> statuses;
  } seen{chat.get(), other.get(), {}};
  const auto nested = [](const char*, size_t, void* user_data) {
    auto& found = *static_cast<Seen*>(user_data);
    found.statuses = {
        pocketvlm_chat_answer(found.chat, nullptr, nullptr, nullptr, nullptr),
        pocketvlm_chat_add_turn(found.chat, "user", "x"),
        pocketvlm_chat_answer(found.other, nullptr, nullptr, nullptr, nullptr),
        pocketvlm_chat_add_turn(found.other, "assistant", "free"),
    };
    return 1;
  };
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nested, &seen, nullptr), POCKETVLM_OK);
  EXPECT_EQ(seen.statuses,
            (std::vector{POCKETVLM_BUSY, POCKETVLM_BUSY, POCKETVLM_BUSY, POCKETVLM_OK}));
}

TEST_F(CApi, CallbacksThatReachIntoEachOthersChatsDoNotDeadlock) {
  const SessionHandle session = open();
  const ChatHandle first = picture_chat(session);
  const ChatHandle second = picture_chat(session);
  const auto reach = [](const char*, size_t, void* user_data) {
    const pocketvlm_status status =
        pocketvlm_chat_add_turn(static_cast<pocketvlm_chat*>(user_data), "system", "hello");
    EXPECT_TRUE(status == POCKETVLM_OK || status == POCKETVLM_BUSY);
    return 0;
  };
  // The other chat's extra turns may make its own answer impossible; what counts is that both end.
  std::thread one([&] {
    for (int i = 0; i < 3; ++i)
      pocketvlm_chat_answer(first.get(), nullptr, reach, second.get(), nullptr);
  });
  std::thread two([&] {
    for (int i = 0; i < 3; ++i)
      pocketvlm_chat_answer(second.get(), nullptr, reach, first.get(), nullptr);
  });
  one.join();
  two.join();
  const ChatHandle third = picture_chat(session);
  EXPECT_EQ(pocketvlm_chat_answer(third.get(), nullptr, nullptr, nullptr, nullptr), POCKETVLM_OK);
}

TEST_F(CApi, ThreadsShareASessionAndGetTheirOwnAnswers) {
  const SessionHandle session = open();
  const std::string expected = expected_answer(128);
  std::vector<std::string> answers(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 3; ++round) {
        const ChatHandle chat = picture_chat(session);
        answers[i].clear();
        EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, append_text, &answers[i], nullptr),
                  POCKETVLM_OK);
        // The text of a failure belongs to its thread.
        const std::string path = "/no/such/" + std::to_string(i);
        EXPECT_EQ(pocketvlm_chat_add_image_file(chat.get(), path.c_str()), POCKETVLM_FAILED);
        EXPECT_NE(std::string(pocketvlm_last_error()).find(path), std::string::npos);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& answer : answers) EXPECT_EQ(answer, expected);
}

TEST_F(CApi, ASessionMayBeClosedBeforeItsChatsAndAChatInItsOwnCallback) {
  SessionHandle session = open();
  ChatHandle chat = picture_chat(session);
  session.reset();
  ASSERT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, nullptr, nullptr, nullptr), POCKETVLM_OK);
  ASSERT_EQ(pocketvlm_chat_add_turn(chat.get(), "user", "more"), POCKETVLM_OK);
  const auto close = [](const char*, size_t, void* user_data) {
    static_cast<ChatHandle*>(user_data)->reset();
    return 1;
  };
  EXPECT_EQ(pocketvlm_chat_answer(chat.get(), nullptr, close, &chat, nullptr), POCKETVLM_OK);
  EXPECT_EQ(chat, nullptr);
}

// Any order of calls with any values: a status, a text, and a session that still works.
TEST_F(CApi, RandomCallsNeverCrash) {
  const SessionHandle session = open();
  const std::string picture = read_file(image_);
  Random random({11});
  const char* texts[] = {"", "hello", "<image>", "a <image> b <image>", "\xFF\xFE bytes", nullptr};
  const char* roles[] = {"user", "system", "assistant", "", "User", nullptr};
  ChatHandle chat = open_chat(session);
  int answered = 0;
  for (int call = 0; call < 3000; ++call) {
    const char* text = texts[random.below(6)];
    pocketvlm_status status = POCKETVLM_OK;
    switch (random.below(7)) {
      case 0:
        status = pocketvlm_chat_add_turn(chat.get(), roles[random.below(6)], text);
        break;
      case 1:
        status = pocketvlm_chat_add_turn(chat.get(), "user", text);
        break;
      case 2:
        status = pocketvlm_chat_add_image_bytes(
            chat.get(), picture.data(), random.below(picture.size() + 1));
        break;
      case 3: {
        const std::uint8_t pixels[12] = {};
        status = pocketvlm_chat_add_image_pixels(chat.get(),
                                                 pixels,
                                                 static_cast<std::int32_t>(random.between(-1, 2)),
                                                 static_cast<std::int32_t>(random.between(-1, 2)));
        break;
      }
      case 4: {
        auto sampling = sized<pocketvlm_sampling>();
        sampling.max_new_tokens = random.between(-1, 4);
        sampling.temperature = static_cast<double>(random.between(-1, 2));
        sampling.top_k = random.between(-1, 3);
        sampling.repetition_penalty = random.chance(0.1) ? NAN : 0.0;
        status = pocketvlm_chat_answer(chat.get(), &sampling, nullptr, nullptr, nullptr);
        answered += status == POCKETVLM_OK ? 1 : 0;
        break;
      }
      case 5:
        if (random.chance(0.5)) status = pocketvlm_chat_clear(chat.get());
        break;
      default:
        if (random.chance(0.2)) chat = open_chat(session);
    }
    ASSERT_NE(status, POCKETVLM_INTERNAL) << pocketvlm_last_error();
    if (status != POCKETVLM_OK) {
      ASSERT_STRNE(pocketvlm_last_error(), "");
    }
  }
  EXPECT_GT(answered, 20);
}

TEST_F(CApi, TheSharedLibraryShowsOnlyTheInterface) {
  const ProgramResult result =
      run_shell("nm -D --defined-only " + std::string(BINARY_ROOT) + "/libpocketvlm.so");
  ASSERT_EQ(result.status, 0) << result.err;
  std::istringstream lines(result.out);
  int functions = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string name = line.substr(line.rfind(' ') + 1);
#if defined(__SANITIZE_ADDRESS__)
    if (name.starts_with("__")) continue;  // the sanitizers' own tables
#endif
    EXPECT_TRUE(name.starts_with("pocketvlm_")) << name;
    ++functions;
  }
  EXPECT_EQ(functions, 14);
}

TEST_F(CApi, TheExampleInCAnswersTwice) {
  const std::string program = std::string(BINARY_ROOT) + "/examples/describe ";
  const ProgramResult result =
      run_shell(program + files_.language + " " + files_.mmproj + " " + image_ + " 'what is this'");
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string expected = expected_answer(100) + "\n";
  EXPECT_EQ(result.out.substr(0, expected.size()), expected);
  EXPECT_NE(result.err.find("prompt tokens"), std::string::npos);
  const ProgramResult mistake = run_shell(program + "/no.gguf x y z");
  EXPECT_EQ(mistake.status, 1);
  EXPECT_NE(mistake.err.find("/no.gguf"), std::string::npos) << mistake.err;
}

TEST_F(CApi, TheExampleInPythonGivesTheSameAnswer) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitized library cannot be loaded into a plain Python";
#endif
  const std::string program = "python3 " + std::string(SOURCE_ROOT) +
                              "/examples/python/describe.py --library " + std::string(BINARY_ROOT) +
                              "/libpocketvlm.so ";
  const ProgramResult result = run_shell(program + "--model " + files_.language + " --mmproj " +
                                         files_.mmproj + " " + image_ + " 'what is this'");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, expected_answer(100) + "\n");
  const ProgramResult mistake = run_shell(program + "--model /no.gguf --mmproj x y z");
  EXPECT_EQ(mistake.status, 1);
  EXPECT_NE(mistake.err.find("/no.gguf"), std::string::npos) << mistake.err;
}

}  // namespace
}  // namespace pocketvlm
