/* Describes a picture, then answers a second question about it.
 *
 *   cc -Imobile/include examples/c/describe.c -Lbuild/release -lpocketvlm -o describe
 *   LD_LIBRARY_PATH=build/release ./describe language.gguf mmproj.gguf photo.jpg "What is this?" */

#include <stdio.h>

#include "pocketvlm.h"

static int print_text(const char *text, size_t bytes, void *user_data) {
  (void)user_data;
  fwrite(text, 1, bytes, stdout);
  fflush(stdout);
  return 0;
}

static int complain(void) {
  fprintf(stderr, "describe: %s\n", pocketvlm_last_error());
  return 1;
}

/* Asks one question; the chat remembers it with its answer. */
static int ask(pocketvlm_chat *chat, const char *question) {
  pocketvlm_sampling sampling = {0};
  pocketvlm_answer answer = {0};
  sampling.struct_size = sizeof(sampling);
  sampling.max_new_tokens = 100;
  answer.struct_size = sizeof(answer);
  if (pocketvlm_chat_add_turn(chat, "user", question) != POCKETVLM_OK) return complain();
  if (pocketvlm_chat_answer(chat, &sampling, print_text, NULL, &answer) != POCKETVLM_OK)
    return complain();
  printf("\n");
  fprintf(stderr,
          "%d slices in %.0f ms, %d prompt tokens (%d kept) in %.0f ms, %d tokens in %.0f ms\n",
          (int)answer.slices,
          answer.vision_ms,
          (int)answer.prompt_tokens,
          (int)answer.cached_tokens,
          answer.prefill_ms,
          (int)answer.answer_tokens,
          answer.decode_ms);
  return 0;
}

static int describe(pocketvlm_chat *chat, char **arguments) {
  int failed;
  if (pocketvlm_chat_add_image_file(chat, arguments[3]) != POCKETVLM_OK) return complain();
  failed = ask(chat, arguments[4]);
  return failed ? failed : ask(chat, "Are you sure?");
}

int main(int argc, char **argv) {
  pocketvlm_session *session = NULL;
  pocketvlm_chat *chat = NULL;
  int failed;
  if (argc != 5) {
    fprintf(stderr, "usage: describe LANGUAGE.gguf MMPROJ.gguf PICTURE QUESTION\n");
    return 1;
  }
  if (pocketvlm_session_open(argv[1], argv[2], NULL, &session) != POCKETVLM_OK) return complain();
  if (pocketvlm_chat_open(session, &chat) != POCKETVLM_OK) {
    pocketvlm_session_close(session);
    return complain();
  }
  failed = describe(chat, argv);
  pocketvlm_chat_close(chat);
  pocketvlm_session_close(session);
  return failed;
}
