#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace pocketvlm::test {

/// Processes of rank_program that are alive and have `argument_part` in their command line.
std::vector<pid_t> ranks_with(const std::string& argument_part);

}  // namespace pocketvlm::test
