#include "tests/mobile/run_program.h"

#include <sys/wait.h>

#include <cstdlib>

#include "base/files.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {

ProgramResult run_shell(const std::string& command_line, const std::string& input) {
  const std::string folder = temporary_folder();
  write_file_atomic(folder + "/in", input);
  const std::string redirected =
      "( " + command_line + " ) <" + folder + "/in >" + folder + "/out 2>" + folder + "/err";
  const int code = std::system(redirected.c_str());
  const int status = WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
  return {status, read_file(folder + "/out"), read_file(folder + "/err")};
}

}  // namespace pocketvlm
