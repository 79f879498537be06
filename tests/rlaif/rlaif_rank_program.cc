/// One rank of a job that rlaif_ranks_test starts with mpirun. The one argument is a JSON object:
///   policy, judge, folder; judge_of_rank_1 (where it has another)
///   stages       a list such as ["sample", "judge"]: these alone, one after the other; absent: the whole loop
///   set          fields of the config that differ from tiny_round, as a JSON patch of objects
///   fault        "" | "kill" | "throw": what happens to `fault_rank` when `fault_stage` has done `fault_done`
#include <signal.h>

#include <cstdio>

#include "base/config.h"
#include "base/log.h"
#include "rlaif/loop.h"
#include "rlaif/round.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

void run(const Json& job, Communicator& ranks) {
  Json json = config_to_json(test::tiny_round());
  json.merge_patch(job.value("set", Json::object()));
  const auto config = read_config<RlaifConfig>(json, "job.set");
  const RoundObserver observer = [&](const std::string& stage, std::int64_t done) {
    if (ranks.rank() != job.value("fault_rank", -1) || stage != job.value("fault_stage", "") || done < job.value("fault_done", 0))
      return;
    if (job["fault"] == "kill") ::raise(SIGKILL);
    fail("this rank has had enough");
  };
  const std::string policy = job["policy"].get<std::string>();
  const std::string judge = ranks.rank() == 1 && job.contains("judge_of_rank_1") ? job["judge_of_rank_1"].get<std::string>()
                                                                                 : job["judge"].get<std::string>();
  if (!job.contains("stages")) {
    run_rlaif(config, policy, judge, job["folder"].get<std::string>(), observer, &ranks);
    return;
  }
  RoundInputs inputs;
  inputs.policy = policy;
  inputs.judge = judge;
  inputs.splitter = config.splitter;
  inputs.folder = job["folder"].get<std::string>();
  for (const Json& stage : job["stages"]) run_stage_alone(config, inputs, stage.get<std::string>(), observer, &ranks);
}

}  // namespace
}  // namespace pocketvlm

int main(int /*argc*/, char** argv) {
  using namespace pocketvlm;
  set_up_logging();
  Communicator ranks;
  try {
    run(parse_json(argv[1], "job"), ranks);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: rank %d: %s\n", ranks.rank(), error.what());
    ranks.abort(1);
    return 1;
  }
}
