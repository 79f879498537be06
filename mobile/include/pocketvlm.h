#ifndef POCKETVLM_H
#define POCKETVLM_H

/* Vision-language models on a device, for C and every language that can call C.
 *
 *   pocketvlm_session *session;
 *   pocketvlm_chat *chat;
 *   pocketvlm_session_open("language-q4_0.gguf", "mmproj-f16.gguf", NULL, &session);
 *   pocketvlm_chat_open(session, &chat);
 *   pocketvlm_chat_add_image_file(chat, "photo.jpg");
 *   pocketvlm_chat_add_turn(chat, "user", "What is in the picture?");
 *   pocketvlm_chat_answer(chat, NULL, print_text, NULL, NULL);
 *   pocketvlm_chat_close(chat);
 *   pocketvlm_session_close(session);
 *
 * Errors. Every function that can fail returns a status; pocketvlm_last_error() then says what is
 * wrong, where, and what to do. No C++ exception leaves these functions. A call that fails changes
 * nothing: the session and the chat can be used further.
 *
 * Threads. Every function may be called from any thread at any time, with these consequences:
 *   - answers of one session are computed one at a time; a second caller waits for the first;
 *   - calls on one chat wait for each other, too;
 *   - inside a text callback nothing waits: calls that would have to, above all those on the chat
 *     that is being answered, return POCKETVLM_BUSY;
 *   - a handle must not be used by any thread after it was closed. A session may be closed before
 *     its chats: it lives until the last of them is closed.
 *
 * Text is UTF-8 that ends with NUL; bytes that are no UTF-8 count as U+FFFD.
 *
 * Structs begin with `struct_size`, which the caller sets to sizeof of the struct, so that a program
 * runs with later versions of the library. Fill them with zeros first: zero means the default. */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define POCKETVLM_API __attribute__((visibility("default")))
#else
#define POCKETVLM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pocketvlm_status {
  POCKETVLM_OK = 0,
  POCKETVLM_INVALID_ARGUMENT = 1, /* a null pointer, an unknown role, a value out of range */
  POCKETVLM_FAILED = 2,           /* a file, a picture or a conversation that cannot be used */
  POCKETVLM_BUSY = 3,             /* called from a text callback, and would have to wait */
  POCKETVLM_OUT_OF_MEMORY = 4,
  POCKETVLM_INTERNAL = 5 /* a mistake of this library, or an exception out of a callback */
} pocketvlm_status;

typedef struct pocketvlm_session pocketvlm_session; /* a loaded model */
typedef struct pocketvlm_chat pocketvlm_chat;       /* a conversation with it */

typedef struct pocketvlm_session_options {
  size_t struct_size;
  int32_t threads;      /* 0: one for each core this process may use; at most 1024 */
  const char *kernels;  /* NULL: the fastest this processor has; scalar, avx2, avx512vnni, amx, ... */
  const char *kv_cache; /* NULL: chosen by the weights; f32, f16 or q8_0 */
  int64_t context;      /* tokens of a conversation; 0: the model's, at most 4096 */
  /* since version 2 */
  const char *vision;        /* NULL or float; bf16 (with AMX), int8: faster where the kernels can, answers differ a little */
  const char *packed;        /* where quantized weights are kept as the kernels read them: NULL or file
                                (made on first use), memory (of this process), none */
  const char *packed_folder; /* of those files, where the app may write; NULL: beside the model's */
  const char *resident;      /* NULL or sequential: vision weights leave memory before the answer is
                                computed; both: they stay, for many pictures in a row */
  const char *tuning;        /* what `pocketvlm-mobile tune` found: auto (the file beside the model, if it
                                was measured on this device), or a path; NULL or none: not used */
  /* since version 3 */
  const char *affinity; /* NULL or any: the system places threads; fastest: they stay on the fastest cores, as many as there
                           are threads, and the calling thread with them while it answers */
} pocketvlm_session_options;

typedef struct pocketvlm_session_info {
  size_t struct_size;
  int32_t threads;
  int32_t has_vision;  /* 1: pictures can be added */
  int64_t context;     /* tokens a conversation may have */
  const char *kernels; /* lives as long as the session */
} pocketvlm_session_info;

typedef struct pocketvlm_sampling {
  size_t struct_size;
  double temperature;        /* 0: always the most probable token */
  double top_p;              /* 0 or 1: off */
  double min_p;              /* 0: off; drops tokens below min_p times the largest probability */
  double repetition_penalty; /* 0 or 1: off */
  int64_t top_k;             /* 0: off */
  int64_t max_new_tokens;    /* 0: 128 */
  uint64_t seed;
} pocketvlm_sampling;

typedef enum pocketvlm_stop_reason {
  POCKETVLM_STOP_END = 0,     /* the model ended its answer */
  POCKETVLM_STOP_LENGTH = 1,  /* max_new_tokens, or the context is full */
  POCKETVLM_STOP_CALLBACK = 2 /* the callback asked for it */
} pocketvlm_stop_reason;

typedef struct pocketvlm_answer {
  size_t struct_size;
  const char *text;     /* the whole answer, ends with NUL; lives until the next call on the chat */
  size_t text_bytes;    /* without the NUL */
  int32_t stop_reason;  /* a pocketvlm_stop_reason */
  int32_t slices;       /* pieces that the pictures were cut into */
  int64_t prompt_tokens;
  int64_t cached_tokens; /* of these, kept from the answer before */
  int64_t answer_tokens;
  double vision_ms;
  double prefill_ms;
  double decode_ms;
} pocketvlm_answer;

/* Receives the answer piece by piece, always whole UTF-8 characters; `text` is not ended by NUL and
 * lives only during the call. Return 0 to go on, anything else to stop the answer here. */
typedef int (*pocketvlm_text_callback)(const char *text, size_t bytes, void *user_data);

/* Version of this interface: grows when something is added. */
POCKETVLM_API int32_t pocketvlm_api_version(void);

/* "ok", "invalid argument", ... Never NULL. */
POCKETVLM_API const char *pocketvlm_status_text(pocketvlm_status status);

/* What the last failed call on this thread complained about; "" when none has failed. Lives until
 * the next failure on this thread. Never NULL. */
POCKETVLM_API const char *pocketvlm_last_error(void);

/* Loads a model. `mmproj_path` NULL: text only; `options` NULL: the defaults. On failure *session
 * becomes NULL. */
POCKETVLM_API pocketvlm_status pocketvlm_session_open(const char *model_path,
                                                      const char *mmproj_path,
                                                      const pocketvlm_session_options *options,
                                                      pocketvlm_session **session);
/* NULL is allowed. */
POCKETVLM_API void pocketvlm_session_close(pocketvlm_session *session);

/* The caller sets info->struct_size. */
POCKETVLM_API pocketvlm_status pocketvlm_session_describe(const pocketvlm_session *session,
                                                          pocketvlm_session_info *info);

/* An empty conversation. On failure *chat becomes NULL. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_open(pocketvlm_session *session,
                                                   pocketvlm_chat **chat);
/* NULL is allowed. */
POCKETVLM_API void pocketvlm_chat_close(pocketvlm_chat *chat);

/* Removes all turns and pictures. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_clear(pocketvlm_chat *chat);

/* Adds a picture (JPEG, PNG, WebP, GIF) to the next "user" turn. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_add_image_file(pocketvlm_chat *chat,
                                                             const char *path);
/* The same from the bytes of such a file. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_add_image_bytes(pocketvlm_chat *chat,
                                                              const void *bytes,
                                                              size_t size);
/* The same from pixels: 3 bytes (red, green, blue) each, row after row without gaps. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_add_image_pixels(pocketvlm_chat *chat,
                                                               const uint8_t *rgb,
                                                               int32_t width,
                                                               int32_t height);

/* Adds a turn; role: "system", "user" or "assistant". The pictures added since the last "user" turn
 * come first in a "user" turn; or they come where "<image>" stands in its text, which must then be
 * written once for each of them. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_add_turn(pocketvlm_chat *chat,
                                                       const char *role,
                                                       const char *text);

/* Answers the last "user" turn and adds the answer to the chat. `sampling` NULL: greedy, at most 128
 * tokens; `callback` and `answer` may be NULL; the caller sets answer->struct_size. What earlier
 * answers of the session computed is used again as far as the conversations begin alike. */
POCKETVLM_API pocketvlm_status pocketvlm_chat_answer(pocketvlm_chat *chat,
                                                     const pocketvlm_sampling *sampling,
                                                     pocketvlm_text_callback callback,
                                                     void *user_data,
                                                     pocketvlm_answer *answer);

#ifdef __cplusplus
}
#endif

#endif
