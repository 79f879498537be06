#include "trainer/state_store.h"
#include "trainer/state_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "base/files.h"
#include "tiny_stage.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

NamedTensors weights_of(double value) { return {{"a", torch::full({3, 4}, value)}, {"b", torch::full({5}, -value)}}; }

TrainingState state_of(int64_t step) {
  TrainingState state;
  state.total.steps = step;
  return state;
}

std::string fresh_folder(const std::string& name) {
  const std::string folder = test::test_folder() + "/store-" + name;
  fs::remove_all(folder);
  return folder;
}

/// The one file of a state of one process.
std::string shard_of(const std::string& folder, int64_t step) {
  return fmt::format("{}/step-{:09}/rank-00000-of-00001.safetensors", folder, step);
}

TEST(StateStore, KeepsTheLastTwoStates) {
  const std::string folder = fresh_folder("two");
  for (const int64_t step : {1, 2, 3}) save_training_state(folder, state_of(step), weights_of(static_cast<double>(step)), {});
  EXPECT_FALSE(fs::exists(folder + "/step-000000001"));
  EXPECT_TRUE(fs::exists(folder + "/step-000000002"));
  const auto saved = load_training_state(folder);
  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(saved->state.total.steps, 3);
  EXPECT_TRUE(torch::equal(saved->weights[0].second, torch::full({3, 4}, 3.0)));
}

TEST(StateStore, FallsBackWhenTheNewestIsDamagedAndSaysSo) {
  const std::string folder = fresh_folder("damaged");
  save_training_state(folder, state_of(1), weights_of(1), {});
  save_training_state(folder, state_of(2), weights_of(2), {});
  std::string bytes = read_file(shard_of(folder, 2));
  bytes[bytes.size() - 5000] = static_cast<char>(bytes[bytes.size() - 5000] ^ 1);  // one bit
  write_file_atomic(shard_of(folder, 2), bytes);
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  const auto saved = load_training_state(folder);
  const std::string said = testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout();
  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(saved->state.total.steps, 1);
  EXPECT_TRUE(torch::equal(saved->weights[0].second, torch::full({3, 4}, 1.0)));
  EXPECT_NE(said.find("rank-00000-of-00001.safetensors"), std::string::npos) << said;
  EXPECT_NE(said.find("falling back to that of step 1"), std::string::npos) << said;
}

TEST(StateStore, SaysWhenEveryStateIsDamaged) {
  const std::string folder = fresh_folder("all-damaged");
  save_training_state(folder, state_of(4), weights_of(1), {});
  write_file_atomic(shard_of(folder, 4), "short");
  const std::string error = test::error_of([&] { load_training_state(folder); });
  EXPECT_NE(error.find(shard_of(folder, 4)), std::string::npos) << error;
  EXPECT_NE(error.find("there is no earlier one; delete"), std::string::npos) << error;
}

TEST(StateStore, DoesNotSeeAStateThatWasNotFinished) {
  const std::string folder = fresh_folder("unfinished");
  save_training_state(folder, state_of(1), weights_of(1), {});
  save_training_state(folder, state_of(2), weights_of(2), {});
  fs::remove(folder + "/step-000000002/complete.json");
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 1);
  EXPECT_FALSE(load_training_state(fresh_folder("nothing")).has_value());
}

TEST(StateStore, PutsRunsOfNumbersTogether) {
  const std::string folder = fresh_folder("runs");
  const torch::Tensor whole = torch::arange(12, torch::kFloat32).view({3, 4});
  const StateStore store(folder);
  std::vector<TensorSlice> pieces;
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{7, 5}, {0, 7}}) {
    pieces.push_back({"a", whole.view({-1}).narrow(0, begin, count), {3, 4}, begin});
  }
  StateWriter(folder).save(state_of(1), {pieces, {}, {}});
  torch::Tensor read = torch::zeros({3, 4}), run = torch::zeros({6});
  store.restore_weights(1, {whole_tensor("a", read), {"a", run, {3, 4}, 4}}, {{"a", {3, 4}}});
  EXPECT_TRUE(torch::equal(read, whole));
  EXPECT_TRUE(torch::equal(run, whole.view({-1}).narrow(0, 4, 6)));
  EXPECT_NE(test::error_of([&] { store.restore_weights(1, {whole_tensor("a", read)}, {{"a", {3, 5}}}); })
                .find("a is unexpected or has another shape"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] { store.restore_moments(1, {whole_tensor("a.exp_avg", read)}); }).find("is missing"),
            std::string::npos);
}

/// A limit on file size refuses writes as a full disk does.
class FullDisk {
 public:
  FullDisk() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {6000, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_ = {};
};

TEST(StateStore, NamesTheFileWhenTheDiskIsFull) {
  const std::string folder = fresh_folder("full-disk");
  save_training_state(folder, state_of(1), weights_of(1), {});
  const std::string error = test::error_of([&] {
    const FullDisk full;
    save_training_state(folder, state_of(2), {{"a", torch::zeros({1 << 20})}}, {});
  });
  EXPECT_NE(error.find(shard_of(folder, 2)), std::string::npos) << error;
  EXPECT_NE(error.find("writing failed"), std::string::npos) << error;
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 1);
}

TEST(StateStore, NamesAFolderThatCannotBeWritten) {
  const std::string file = test::test_folder() + "/a-file";
  write_file_atomic(file, "not a folder");
  const std::string error = test::error_of([&] { save_training_state(file + "/state", state_of(1), weights_of(1), {}); });
  EXPECT_NE(error.find(file + "/state"), std::string::npos) << error;
  EXPECT_NE(error.find("cannot be created"), std::string::npos) << error;
}

StateSlices slices_of(const torch::Tensor& tensor) { return {{whole_tensor("a", tensor)}, {}, {}}; }

void wait_until_written(const StateWriter& writer) {
  for (int i = 0; i < 1000 && !writer.written(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_TRUE(writer.written());
}

TEST(StateWriter, SavesTheNumbersOfTheMomentItBegan) {
  const std::string folder = fresh_folder("moment");
  torch::Tensor weight = torch::full({1 << 20}, 3.0);
  StateWriter writer(folder);
  writer.begin(state_of(1), slices_of(weight));
  weight.fill_(4.0);
  writer.finish();
  EXPECT_TRUE(torch::equal(load_training_state(folder)->weights[0].second, torch::full({1 << 20}, 3.0)));
  // A larger state, in pieces that do not fill whole cache lines, and a smaller one after it in the same memory.
  const torch::Tensor large = torch::randn({3, 700001}), small = torch::randn({7});
  writer.begin(state_of(2), {{whole_tensor("a", large)}, {whole_tensor("m", small)}, {}});
  writer.finish();
  EXPECT_TRUE(torch::equal(load_training_state(folder)->weights[0].second, large));
  EXPECT_TRUE(torch::equal(load_training_state(folder)->moments[0].second, small));
  writer.begin(state_of(3), slices_of(small));
  writer.finish();
  EXPECT_TRUE(torch::equal(load_training_state(folder)->weights[0].second, small));
}

TEST(StateWriter, LetsAStateCountOnlyWhenItIsCompleted) {
  const std::string folder = fresh_folder("counts");
  StateWriter writer(folder);
  writer.save(state_of(1), slices_of(torch::ones({8})));
  writer.begin(state_of(2), slices_of(torch::ones({8})));
  EXPECT_TRUE(writer.in_progress());
  wait_until_written(writer);
  EXPECT_TRUE(fs::exists(shard_of(folder, 2)));
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 1);
  writer.complete();
  EXPECT_FALSE(writer.in_progress());
  writer.finish();
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 2);
}

TEST(StateWriter, NeverWritesTwoAtOnceAndFinishesTheLastWhenItGoes) {
  const std::string folder = fresh_folder("one-at-a-time");
  {
    StateWriter writer(folder);
    for (const int64_t step : {1, 2, 3}) {
      writer.begin(state_of(step), slices_of(torch::full({1 << 20}, static_cast<double>(step))));
      if (step == 1) continue;
      EXPECT_EQ(load_training_state(folder)->state.total.steps, step - 1);
    }
  }
  EXPECT_FALSE(fs::exists(folder + "/step-000000001"));
  const auto saved = load_training_state(folder);
  EXPECT_EQ(saved->state.total.steps, 3);
  EXPECT_TRUE(torch::equal(saved->weights[0].second, torch::full({1 << 20}, 3.0)));
}

TEST(StateWriter, TellsOfAFailedWriteWhenTheNextStateBegins) {
  const std::string folder = fresh_folder("failed");
  StateWriter writer(folder);
  writer.save(state_of(1), slices_of(torch::ones({8})));
  {
    const FullDisk full;
    writer.begin(state_of(2), slices_of(torch::zeros({1 << 20})));
    wait_until_written(writer);
  }
  const std::string error = test::error_of([&] { writer.begin(state_of(3), slices_of(torch::ones({8}))); });
  EXPECT_NE(error.find(shard_of(folder, 2)), std::string::npos) << error;
  EXPECT_NE(error.find("writing failed"), std::string::npos) << error;
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 1);
  writer.save(state_of(4), slices_of(torch::ones({8})));  // once told, it is over
  EXPECT_EQ(load_training_state(folder)->state.total.steps, 4);
}

TEST(StateWriter, TellsWhenTheListOfFilesCannotBeWritten) {
  const std::string folder = fresh_folder("no-list");
  StateWriter writer(folder);
  writer.begin(state_of(1), slices_of(torch::ones({8})));
  wait_until_written(writer);
  make_folders(folder + "/step-000000001/complete.json/in-the-way");
  writer.complete();
  const std::string error = test::error_of([&] { writer.finish(); });
  EXPECT_NE(error.find("step-000000001/complete.json: cannot be replaced"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
