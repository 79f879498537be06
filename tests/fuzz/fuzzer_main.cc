// libFuzzer's entry. With POCKETVLM_WRITE_SEEDS=DIR in the environment the program replaces DIR by its seeds and ends.
#include <cstdlib>

#include "base/error.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const char* folder = std::getenv("POCKETVLM_WRITE_SEEDS")) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    pocketvlm::write_seeds(folder);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    pocketvlm::read_hostile({reinterpret_cast<const std::byte*>(data), size});
  } catch (const pocketvlm::Error&) {
  }
  return 0;
}
