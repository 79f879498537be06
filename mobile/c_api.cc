#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
#include "mobile/include/pocketvlm.h"
#include "mobile/session.h"
#include "mobile/tuning.h"

// The edge of the library: handles, status codes and the last error text. Everything else is done
// by Session.
namespace pocketvlm {
namespace {

constexpr std::int32_t kApiVersion = 3;
constexpr std::string_view kImageMark = "<image>";

thread_local std::string last_error;

// What was said to the interface is wrong, as opposed to a file or a conversation.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

class Busy : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
void require(bool condition, fmt::format_string<Args...> text, Args&&... args) {
  if (!condition) throw InvalidArgument(fmt::format(text, std::forward<Args>(args)...));
}

// Calls of this thread that are computing an answer, hence hold locks while a callback runs.
thread_local int answers_in_progress = 0;

// Waiting while holding locks could wait for ever: for this thread itself, or for another one that
// waits for what this thread holds. So a callback gets a lock at once or is told to come later.
class CallbackSafeMutex {
 public:
  void lock() {
    if (answers_in_progress == 0) return mutex_.lock();
    if (owner_.load() == std::this_thread::get_id() || !mutex_.try_lock())
      throw Busy("called from a text callback, and would have to wait; call it after the answer");
  }
  void unlock() { mutex_.unlock(); }
  // While the answer runs; trying to lock a mutex that the same thread holds is undefined.
  void set_owner(std::thread::id owner) { owner_.store(owner); }

 private:
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_;
};

// Marks what this thread holds while it runs callbacks.
class AnswerInProgress {
 public:
  AnswerInProgress(CallbackSafeMutex& chat, CallbackSafeMutex& session)
      : chat_(chat), session_(session) {
    chat_.set_owner(std::this_thread::get_id());
    session_.set_owner(std::this_thread::get_id());
    ++answers_in_progress;
  }
  ~AnswerInProgress() {
    --answers_in_progress;
    session_.set_owner({});
    chat_.set_owner({});
  }
  AnswerInProgress(const AnswerInProgress&) = delete;
  AnswerInProgress& operator=(const AnswerInProgress&) = delete;

 private:
  CallbackSafeMutex& chat_;
  CallbackSafeMutex& session_;
};

struct SharedSession {
  SharedSession(const std::string& model, const std::string& mmproj, const SessionOptions& options)
      : session(model, mmproj, options) {}
  CallbackSafeMutex mutex;  // held while answering; what is const in Session needs no lock
  Session session;
};

struct SharedChat {
  explicit SharedChat(std::shared_ptr<SharedSession> owner) : session(std::move(owner)) {}
  CallbackSafeMutex mutex;
  const std::shared_ptr<SharedSession> session;
  Chat chat;
  std::vector<Image> waiting;  // for the next user turn
  std::string answer;
};

pocketvlm_status remember(pocketvlm_status status, const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();  // no memory for the text; the status says enough
  }
  return status;
}

// Runs one call of the interface; no exception passes.
template <typename Work>
pocketvlm_status guarded(const Work& work) noexcept {
  try {
    work();
    return POCKETVLM_OK;
  } catch (const InvalidArgument& error) {
    return remember(POCKETVLM_INVALID_ARGUMENT, error.what());
  } catch (const Busy& error) {
    return remember(POCKETVLM_BUSY, error.what());
  } catch (const Error& error) {
    return remember(POCKETVLM_FAILED, error.what());
  } catch (const std::bad_alloc&) {
    return remember(POCKETVLM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return remember(POCKETVLM_INTERNAL, error.what());
  } catch (...) {
    return remember(POCKETVLM_INTERNAL, "an exception of an unknown type");
  }
}

// Reads a caller's struct of this or another version: missing fields are zero, unknown ones must
// be.
template <typename Struct>
Struct read_struct(const Struct* given, const char* what) {
  Struct value{};
  if (given == nullptr) return value;
  const std::size_t size = given->struct_size;
  require(size >= sizeof(std::size_t) && size <= 4096,
          "{}.struct_size is {}; set it to sizeof({})",
          what,
          size,
          what);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    require(bytes[i] == 0,
            "{} has a field that this version of the library does not know; set it to zero",
            what);
  }
  std::memcpy(&value, given, std::min(size, sizeof(Struct)));
  return value;
}

// Fills as much of a caller's struct as the caller knows.
template <typename Struct>
void write_struct(Struct value, Struct* target) {
  value.struct_size = target->struct_size;
  std::memcpy(target, &value, std::min(value.struct_size, sizeof(Struct)));
}

template <typename Struct>
void check_size(const Struct* target, const char* what) {
  require(target->struct_size >= sizeof(std::size_t) && target->struct_size <= 4096,
          "{}.struct_size is {}; set it to sizeof({})",
          what,
          target->struct_size,
          what);
}

SessionOptions session_options(const pocketvlm_session_options* given, const char* model_path) {
  const auto options = read_struct(given, "pocketvlm_session_options");
  require(options.threads >= 0 && options.threads <= 1024,
          "threads is {}; it lies in 0 .. 1024",
          options.threads);
  require(options.context >= 0, "context is {}; it must not be negative", options.context);
  SessionOptions result;
  result.threads = options.threads;
  result.context = options.context;
  const auto set = [](const char* text, std::string& target) {
    if (text != nullptr) target = text;
  };
  set(options.kernels, result.kernels);
  set(options.kv_cache, result.kv_cache);
  set(options.vision, result.vision);
  set(options.packed, result.packed);
  set(options.packed_folder, result.packed_folder);
  set(options.resident, result.resident);
  set(options.affinity, result.affinity);
  if (options.tuning != nullptr) use_tuning_file(options.tuning, model_path, result);
  return result;
}

MobileSampling mobile_sampling(const pocketvlm_sampling* given) {
  const auto sampling = read_struct(given, "pocketvlm_sampling");
  const auto or_off = [](double value) { return value == 0.0 ? 1.0 : value; };
  MobileSampling result;
  result.temperature = sampling.temperature;
  result.top_p = or_off(sampling.top_p);
  result.min_p = sampling.min_p;
  result.repetition_penalty = or_off(sampling.repetition_penalty);
  result.top_k = sampling.top_k;
  result.seed = sampling.seed;
  if (sampling.max_new_tokens != 0) result.max_new_tokens = sampling.max_new_tokens;
  require(result.max_new_tokens > 0,
          "max_new_tokens is {}; it must not be negative",
          sampling.max_new_tokens);
  try {
    check_sampling(result);
  } catch (const Error& error) {
    throw InvalidArgument(error.what());
  }
  return result;
}

std::size_t count_marks(std::string_view text) {
  std::size_t marks = 0;
  for (std::size_t at = text.find(kImageMark); at != text.npos; at = text.find(kImageMark, at + 1))
    ++marks;
  return marks;
}

void add_turn(SharedChat& shared, const std::string& role, std::string text) {
  require(role == "system" || role == "user" || role == "assistant",
          "the role \"{}\" is unknown; choose system, user or assistant",
          role);
  if (role != "assistant") {
    const std::size_t marks = count_marks(text);
    const std::size_t pictures = role == "user" ? shared.waiting.size() : 0;
    require(marks == 0 || marks == pictures,
            "the text has {} <image> marks, but {} pictures wait for them; write one mark a "
            "picture, or none",
            marks,
            pictures);
    std::string before;
    for (std::size_t i = marks; i < pictures; ++i) before += std::string(kImageMark) + "\n";
    text = before + text;
  }
  shared.chat.images.reserve(shared.chat.images.size() + shared.waiting.size());
  shared.chat.turns.push_back({role, std::move(text)});
  if (role != "user") return;
  for (Image& image : shared.waiting) shared.chat.images.push_back(std::move(image));
  shared.waiting.clear();
}

DecodeOptions decoding_of(const SharedChat& shared) {
  return decode_options(shared.session->session.encoder().image());
}

Image image_of_pixels(const SharedChat& shared,
                      const std::uint8_t* rgb,
                      std::int32_t width,
                      std::int32_t height) {
  require(width > 0 && height > 0, "a picture of {} x {} pixels has no content", width, height);
  const double megapixels = static_cast<double>(width) * height / 1e6;
  const double most = decoding_of(shared).max_megapixels;
  PV_CHECK(megapixels <= most,
           "the picture has {:.1f} megapixels, but the model takes at most {}; make it smaller",
           megapixels,
           most);
  Image image(width, height);
  std::memcpy(image.rgb.data(), rgb, image.rgb.size());
  return image;
}

void check_can_see(const SharedChat& shared) {
  PV_CHECK(shared.session->session.has_vision(),
           "the session has no vision file; open it with mmproj_path to add pictures");
}

pocketvlm_answer answer_facts(const ChatAnswer& answer, bool stopped_by_callback) {
  pocketvlm_answer facts{};
  facts.stop_reason = stopped_by_callback ? POCKETVLM_STOP_CALLBACK
                      : answer.stopped    ? POCKETVLM_STOP_END
                                          : POCKETVLM_STOP_LENGTH;
  facts.slices = static_cast<std::int32_t>(answer.timings.slices);
  facts.prompt_tokens = answer.timings.prompt_tokens;
  facts.cached_tokens = answer.timings.cached_tokens;
  facts.answer_tokens = answer.timings.generated_tokens;
  facts.vision_ms = answer.timings.vision_ms;
  facts.prefill_ms = answer.timings.prefill_ms;
  facts.decode_ms = answer.timings.decode_ms;
  return facts;
}

void answer_chat(SharedChat& shared,
                 const MobileSampling& sampling,
                 pocketvlm_text_callback callback,
                 void* user_data,
                 pocketvlm_answer* out) {
  require(shared.waiting.empty(),
          "{} pictures wait for a user turn; add the turn before asking for an answer",
          shared.waiting.size());
  require(!shared.chat.turns.empty() && shared.chat.turns.back().role == "user",
          "the chat does not end with a user turn; add one before asking for an answer");
  bool stopped_by_callback = false;
  ChatAnswer answer;
  {
    const std::lock_guard lock(shared.session->mutex);
    const AnswerInProgress mark(shared.mutex, shared.session->mutex);
    answer = shared.session->session.chat(shared.chat, sampling, [&](std::string_view text) {
      if (callback == nullptr) return true;
      stopped_by_callback = callback(text.data(), text.size(), user_data) != 0;
      return !stopped_by_callback;
    });
  }
  shared.chat.turns.push_back({"assistant", answer.text});
  shared.answer = std::move(answer.text);
  if (out == nullptr) return;
  pocketvlm_answer facts = answer_facts(answer, stopped_by_callback);
  facts.text = shared.answer.c_str();
  facts.text_bytes = shared.answer.size();
  write_struct(facts, out);
}

}  // namespace
}  // namespace pocketvlm

struct pocketvlm_session {
  std::shared_ptr<pocketvlm::SharedSession> shared;
};

// Shared, so that a callback may close the chat whose answer is being computed.
struct pocketvlm_chat {
  std::shared_ptr<pocketvlm::SharedChat> shared;
};

namespace {

// Most calls on a chat: checked handle, locked chat.
template <typename Work>
pocketvlm_status on_chat(pocketvlm_chat* chat, const Work& work) noexcept {
  return pocketvlm::guarded([&] {
    pocketvlm::require(chat != nullptr, "chat is NULL");
    const std::shared_ptr<pocketvlm::SharedChat> shared = chat->shared;
    const std::lock_guard lock(shared->mutex);
    work(*shared);
  });
}

}  // namespace

int32_t pocketvlm_api_version(void) { return pocketvlm::kApiVersion; }

const char* pocketvlm_status_text(pocketvlm_status status) {
  switch (status) {
    case POCKETVLM_OK:
      return "ok";
    case POCKETVLM_INVALID_ARGUMENT:
      return "invalid argument";
    case POCKETVLM_FAILED:
      return "failed";
    case POCKETVLM_BUSY:
      return "busy";
    case POCKETVLM_OUT_OF_MEMORY:
      return "out of memory";
    case POCKETVLM_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

const char* pocketvlm_last_error(void) { return pocketvlm::last_error.c_str(); }

pocketvlm_status pocketvlm_session_open(const char* model_path,
                                        const char* mmproj_path,
                                        const pocketvlm_session_options* options,
                                        pocketvlm_session** session) {
  if (session != nullptr) *session = nullptr;
  return pocketvlm::guarded([&] {
    pocketvlm::require(session != nullptr, "session is NULL");
    pocketvlm::require(model_path != nullptr, "model_path is NULL");
    auto shared = std::make_shared<pocketvlm::SharedSession>(
        model_path, mmproj_path == nullptr ? "" : mmproj_path, pocketvlm::session_options(options, model_path));
    *session = new pocketvlm_session{std::move(shared)};
  });
}

void pocketvlm_session_close(pocketvlm_session* session) { delete session; }

pocketvlm_status pocketvlm_session_describe(const pocketvlm_session* session,
                                            pocketvlm_session_info* info) {
  return pocketvlm::guarded([&] {
    pocketvlm::require(session != nullptr, "session is NULL");
    pocketvlm::require(info != nullptr, "info is NULL");
    pocketvlm::check_size(info, "pocketvlm_session_info");
    const pocketvlm::Session& described = session->shared->session;
    pocketvlm_session_info facts{};
    facts.threads = described.threads();
    facts.has_vision = described.has_vision() ? 1 : 0;
    facts.context = described.context();
    facts.kernels = described.kernels().c_str();
    pocketvlm::write_struct(facts, info);
  });
}

pocketvlm_status pocketvlm_chat_open(pocketvlm_session* session, pocketvlm_chat** chat) {
  if (chat != nullptr) *chat = nullptr;
  return pocketvlm::guarded([&] {
    pocketvlm::require(session != nullptr, "session is NULL");
    pocketvlm::require(chat != nullptr, "chat is NULL");
    *chat = new pocketvlm_chat{std::make_shared<pocketvlm::SharedChat>(session->shared)};
  });
}

void pocketvlm_chat_close(pocketvlm_chat* chat) { delete chat; }

pocketvlm_status pocketvlm_chat_clear(pocketvlm_chat* chat) {
  return on_chat(chat, [](pocketvlm::SharedChat& shared) {
    shared.chat = pocketvlm::Chat();
    shared.waiting.clear();
    shared.answer.clear();
  });
}

pocketvlm_status pocketvlm_chat_add_image_file(pocketvlm_chat* chat, const char* path) {
  return on_chat(chat, [&](pocketvlm::SharedChat& shared) {
    pocketvlm::require(path != nullptr, "path is NULL");
    pocketvlm::check_can_see(shared);
    shared.waiting.push_back(pocketvlm::load_image(path, pocketvlm::decoding_of(shared)));
  });
}

pocketvlm_status pocketvlm_chat_add_image_bytes(pocketvlm_chat* chat,
                                                const void* bytes,
                                                size_t size) {
  return on_chat(chat, [&](pocketvlm::SharedChat& shared) {
    pocketvlm::require(bytes != nullptr, "bytes is NULL");
    pocketvlm::check_can_see(shared);
    const std::span span(static_cast<const std::byte*>(bytes), size);
    shared.waiting.push_back(
        pocketvlm::decode_image(span, "picture", pocketvlm::decoding_of(shared)));
  });
}

pocketvlm_status pocketvlm_chat_add_image_pixels(pocketvlm_chat* chat,
                                                 const uint8_t* rgb,
                                                 int32_t width,
                                                 int32_t height) {
  return on_chat(chat, [&](pocketvlm::SharedChat& shared) {
    pocketvlm::require(rgb != nullptr, "rgb is NULL");
    pocketvlm::check_can_see(shared);
    shared.waiting.push_back(pocketvlm::image_of_pixels(shared, rgb, width, height));
  });
}

pocketvlm_status pocketvlm_chat_add_turn(pocketvlm_chat* chat, const char* role, const char* text) {
  return on_chat(chat, [&](pocketvlm::SharedChat& shared) {
    pocketvlm::require(role != nullptr, "role is NULL");
    pocketvlm::require(text != nullptr, "text is NULL");
    pocketvlm::add_turn(shared, role, text);
  });
}

pocketvlm_status pocketvlm_chat_answer(pocketvlm_chat* chat,
                                       const pocketvlm_sampling* sampling,
                                       pocketvlm_text_callback callback,
                                       void* user_data,
                                       pocketvlm_answer* answer) {
  return on_chat(chat, [&](pocketvlm::SharedChat& shared) {
    if (answer != nullptr) pocketvlm::check_size(answer, "pocketvlm_answer");
    pocketvlm::answer_chat(
        shared, pocketvlm::mobile_sampling(sampling), callback, user_data, answer);
  });
}
