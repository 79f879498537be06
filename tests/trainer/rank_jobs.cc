#include "rank_jobs.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/state_store.h"

namespace pocketvlm::test {

std::string folder_of(const std::string& name) { return test_folder() + "/ranks-" + name; }

Outcome run_program(const std::string& program, int ranks, const Json& job, const std::string& environment) {
  const std::string log = test_folder() + "/ranks.log";
  // One core is enough for a test; in a container the processes belong to root.
  const std::string command =
      fmt::format("OMP_NUM_THREADS=1 {} timeout 300 mpirun --allow-run-as-root --oversubscribe --bind-to none -n {} {}/tests/{} '{}' > {} 2>&1",
                  environment,
                  ranks,
                  BINARY_ROOT,
                  program,
                  job.dump(),
                  log);
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(log)};
}

Outcome run_ranks(int ranks, Json job, const std::string& environment) {
  job["tokenizer"] = tiny_tokenizer_path();
  return run_program("rank_program", ranks, job, environment);
}

void succeed(int ranks, const Json& job) {
  const Outcome outcome = run_ranks(ranks, job);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
}

std::map<std::string, torch::Tensor> gradients(int ranks, Json job, const std::string& name) {
  job["task"] = "gradients";
  job["folder"] = folder_of(name);
  succeed(ranks, job);
  std::map<std::string, torch::Tensor> result;
  std::vector<TensorSlice> slices;
  StateStore::Tensors tensors;
  for (const auto& item : VisionLanguageModel(tiny_model_config(), 1)->named_parameters()) {
    result[item.key()] = torch::zeros_like(item.value()).detach();
    slices.push_back(whole_tensor(item.key(), result[item.key()]));
    tensors.emplace_back(item.key(), slices.back().shape);
  }
  StateStore(job["folder"].get<std::string>()).restore_weights(1, slices, tensors);
  return result;
}

double relative(const torch::Tensor& a, const torch::Tensor& b, double floor) {
  return (a - b).norm().item<double>() / std::max(floor, b.norm().item<double>());
}

}  // namespace pocketvlm::test
