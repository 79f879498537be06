// Calls of the C interface in any order, with any arguments that C can hold: each answers with a status, and none fails for a
// reason of its own.
#include "mobile/include/pocketvlm.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/image.h"
#include "tests/fuzz/target.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

/// Takes calls and their arguments off the bytes; zeros when they are used up.
class Calls {
 public:
  explicit Calls(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool any() const { return !bytes_.empty(); }
  template <typename T>
  T number() {
    T value{};
    const auto taken = take(sizeof(T));
    std::memcpy(&value, taken.data(), taken.size());
    return value;
  }
  /// At most 65535 bytes, their number first.
  std::span<const std::byte> stretch() { return take(number<std::uint16_t>()); }
  std::string text() {
    const auto taken = stretch();
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

 private:
  std::span<const std::byte> take(std::size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  std::span<const std::byte> bytes_;
};

constexpr const char* kRoles[] = {"user", "assistant", "system", "User", "", nullptr};

pocketvlm_status call(pocketvlm_session* session, pocketvlm_chat* chat, Calls& calls) {
  switch (calls.number<std::uint8_t>() % 6) {
    case 0: return pocketvlm_chat_clear(chat);
    case 1: {
      const auto file = calls.stretch();
      return pocketvlm_chat_add_image_bytes(chat, file.empty() ? nullptr : file.data(), file.size());
    }
    case 2: {
      const auto width = static_cast<std::int32_t>(calls.number<std::int8_t>()), height = static_cast<std::int32_t>(calls.number<std::int8_t>());
      const std::vector<std::uint8_t> pixels(3 * 128 * 128, 90);
      return pocketvlm_chat_add_image_pixels(chat, pixels.data(), width, height);
    }
    case 3: {
      const char* role = kRoles[calls.number<std::uint8_t>() % std::size(kRoles)];
      const std::string text = calls.text();
      return pocketvlm_chat_add_turn(chat, role, text.c_str());
    }
    case 4: {
      pocketvlm_session_info info{};
      info.struct_size = calls.number<std::uint8_t>() % 2 == 0 ? sizeof(info) : calls.number<std::size_t>() % (sizeof(info) + 1);
      return pocketvlm_session_describe(session, &info);
    }
    default: {
      pocketvlm_sampling sampling{};
      sampling.struct_size = sizeof(sampling);
      sampling.max_new_tokens = calls.number<std::uint8_t>() % 4;
      sampling.seed = calls.number<std::uint64_t>();
      if (calls.number<std::uint8_t>() % 2 == 1) {
        sampling.temperature = calls.number<double>();
        sampling.top_p = calls.number<double>();
        sampling.min_p = calls.number<double>();
        sampling.repetition_penalty = calls.number<double>();
        sampling.top_k = calls.number<std::int64_t>();
      }
      if (sampling.max_new_tokens == 0) sampling.max_new_tokens = 1;
      pocketvlm_answer answer{};
      answer.struct_size = sizeof(answer);
      int stop_after = calls.number<std::uint8_t>() % 4;
      const auto told = [](const char*, std::size_t, void* left) { return --*static_cast<int*>(left) == 0 ? 1 : 0; };
      const pocketvlm_status status = pocketvlm_chat_answer(chat, &sampling, told, &stop_after, &answer);
      if (status == POCKETVLM_OK && std::strlen(answer.text) > answer.text_bytes) __builtin_trap();
      return status;
    }
  }
}

}  // namespace

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  static pocketvlm_session* const session = [] {
    const TinyFiles files = write_tiny_model({});
    pocketvlm_session_options options{};
    options.struct_size = sizeof(options);
    options.threads = 1;
    options.kernels = "scalar";
    options.context = 96;
    pocketvlm_session* opened = nullptr;
    PV_CHECK(pocketvlm_session_open(files.language.c_str(), files.mmproj.c_str(), &options, &opened) == POCKETVLM_OK, "{}", pocketvlm_last_error());
    return opened;
  }();
  pocketvlm_chat* chat = nullptr;
  if (pocketvlm_chat_open(session, &chat) != POCKETVLM_OK) __builtin_trap();
  Calls calls(bytes);
  std::string refused;
  for (int i = 0; i < 12 && calls.any(); ++i) {
    const pocketvlm_status status = call(session, chat, calls);
    if (status == POCKETVLM_INTERNAL || status < POCKETVLM_OK || status > POCKETVLM_INTERNAL) __builtin_trap();
    if (status == POCKETVLM_OK) continue;
    refused = pocketvlm_last_error();
    if (refused.empty()) __builtin_trap();
  }
  pocketvlm_chat_close(chat);
  PV_CHECK(refused.empty(), "{}", refused);
}

void write_seeds(const std::filesystem::path& folder) {
  const auto sized = [](const std::string& text) {
    return std::string{static_cast<char>(text.size() & 255), static_cast<char>(text.size() >> 8)} + text;
  };
  const std::string turn = std::string{3, 0} + sized("what is it?"), answer = std::string{5, 2} + std::string(10, '\0');
  write_file_atomic(folder / "picture", std::string{1} + sized(encode_png(Image(20, 12))) + turn + answer + turn + answer);
  write_file_atomic(folder / "pixels", std::string{2, 30, 20} + turn + answer + std::string{0} + turn);
}

}  // namespace pocketvlm
