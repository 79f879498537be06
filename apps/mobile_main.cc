#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/mobile_commands.h"
#include "base/error.h"
#include "base/log.h"

int main(int argc, char** argv) {
  pocketvlm::set_up_logging();
  CLI::App app("pocketvlm-mobile: vision-language models on a phone, from GGUF files");
  app.require_subcommand(1);
  pocketvlm::add_chat_command(app);
  pocketvlm::add_serve_command(app);
  pocketvlm::add_bench_command(app);
  pocketvlm::add_tune_command(app);
  pocketvlm::add_info_command(app);
  pocketvlm::add_compare_command(app);
  pocketvlm::add_forward_command(app);
  pocketvlm::add_pack_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  } catch (const pocketvlm::CheckFailed& error) {
    std::fprintf(stderr, "pocketvlm-mobile: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm-mobile: %s\n", error.what());
    return 1;
  }
}
