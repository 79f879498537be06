#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "apps/command_line.h"
#include "apps/light_commands.h"
#include "base/error.h"
#include "base/log.h"

namespace {

/// GNU OpenMP reads its environment before main. A thread that arrives first spins for the others, by default for many milliseconds:
/// where anything else wants a core, the spinning takes it from the very thread that is waited for, and a training step became four
/// times as long. A fraction of a millisecond covers the gaps between the parallel regions of a step. Nothing is said where the
/// user did.
void spin_briefly() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", "4000", /*overwrite=*/0);
}

/// oneDNN keeps the machine code of the last 1024 shapes of products, two megabytes each. A step has some dozens of shapes, and
/// rarely one of those of long ago.
void keep_little_machine_code() { ::setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256", /*overwrite=*/0); }

/// Replaces this process by `pocketvlm-engine`, which stands beside it and links LibTorch.
[[noreturn]] void become_engine(char** argv) {
  const auto engine = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "pocketvlm-engine";
  spin_briefly();
  keep_little_machine_code();
  ::execv(engine.c_str(), argv);
  pocketvlm::fail("{}: cannot be started: {}; rebuild with ./scripts/build.sh", engine.string(), std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  // Pictures are decoded into memory of nearly one size, again and again: keep its pages.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 28);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 28);
  pocketvlm::set_up_logging();
  try {
    const pocketvlm::CommandLine line = pocketvlm::parse_command_line(argc, argv);
    if (pocketvlm::run_light_command(line)) return 0;
    pocketvlm::check_heavy_config(line);
    become_engine(argv);
  } catch (const pocketvlm::CheckFailed& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 1;
  }
}
