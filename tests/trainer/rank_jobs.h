#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>

#include "base/json.h"

/// Jobs of several processes under mpirun, and what they leave behind.
namespace pocketvlm::test {

struct Outcome {
  int status;
  std::string output;
};

/// Where a job of this name works.
std::string folder_of(const std::string& name);

/// Runs `job` with a program of the tests on so many ranks. `environment`: assignments of the shell, before mpirun.
Outcome run_program(const std::string& program, int ranks, const Json& job, const std::string& environment = {});

/// The same with rank_program's `job`.
Outcome run_ranks(int ranks, Json job, const std::string& environment = {});

/// run_ranks that must end well.
void succeed(int ranks, const Json& job);

/// The gradients that the ranks of a job of this name agree on, by parameter.
std::map<std::string, torch::Tensor> gradients(int ranks, Json job, const std::string& name);

/// `floor`: what counts as a size at all. The gradient of a key's bias is zero but for rounding, in every order of sums.
double relative(const torch::Tensor& a, const torch::Tensor& b, double floor = 1e-2);

}  // namespace pocketvlm::test
