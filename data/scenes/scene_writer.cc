#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "data/output_file.h"
#include "data/scenes/scene_source.h"

namespace pocketvlm {
namespace {

/// One sample as it goes to disk.
struct WrittenSample {
  Json record;  // LLaVA form
  Json truth;
  std::string png;  // empty: a sample without picture
};

std::string key_of(std::int64_t index) { return fmt::format("{:08}", index); }

WrittenSample make_sample(const SceneSource& source, std::int64_t index) {
  const Sample sample = source.at(index);
  WrittenSample written;
  const std::string key = key_of(index);
  const bool has_image = !sample.chat.images.empty();
  written.record["id"] = key;
  if (has_image) written.record["image"] = "images/" + key + ".png";
  Json conversations = Json::array();
  bool mark = has_image;  // the picture's place: before the first user content
  for (const Turn& turn : sample.chat.turns) {
    const bool user = turn.role == "user";
    conversations.push_back({{"from", user ? "human" : "gpt"}, {"value", (mark && user ? "<image>\n" : "") + turn.content}});
    mark = mark && !user;
  }
  // An answer without a question is a document, not a conversation.
  if (sample.chat.turns.size() > 1) written.record["conversations"] = conversations;
  else written.record["text"] = sample.chat.turns.at(0).content;
  written.record["task"] = sample.task;
  written.record["language"] = sample.language;
  written.truth = {{"id", key}, {"image", has_image ? Json("images/" + key + ".png") : Json(nullptr)}};
  for (const auto& [name, value] : sample.truth.items()) written.truth[name] = value;
  if (has_image) written.png = encode_png(sample.chat.images[0]);
  return written;
}

/// Samples [begin, end), made by several threads; the order does not depend on them.
std::vector<WrittenSample> make_samples(const SceneSource& source, std::int64_t begin, std::int64_t end) {
  std::vector<WrittenSample> samples(static_cast<std::size_t>(end - begin));
  std::atomic<std::int64_t> next = begin;
  std::exception_ptr problem;
  std::mutex problem_mutex;
  std::vector<std::thread> threads;
  const unsigned wanted = std::clamp(std::thread::hardware_concurrency(), 1U, 16U);
  for (unsigned i = 0; i < wanted; ++i) {
    threads.emplace_back([&] {
      try {
        for (std::int64_t index = next++; index < end; index = next++) {
          samples[static_cast<std::size_t>(index - begin)] = make_sample(source, index);
        }
      } catch (...) {
        const std::lock_guard lock(problem_mutex);
        problem = std::current_exception();
        next = end;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (problem) std::rethrow_exception(problem);
  return samples;
}

}  // namespace

void write_scenes(const SceneSource& source, std::int64_t count, const std::string& folder, bool as_tar) {
  PV_CHECK(count > 0, "scenes: a count of {} writes nothing; ask for 1 or more", count);
  make_folders(folder + "/images");
  OutputFile data(folder + "/data.json"), truth(folder + "/truth.jsonl");
  std::unique_ptr<OutputFile> shard;
  if (as_tar) shard = std::make_unique<OutputFile>(folder + "/shard-00000.tar");
  Progress progress("scenes", count);
  constexpr std::int64_t kBatch = 256;
  data.write("[");
  for (std::int64_t begin = 0; begin < count; begin += kBatch) {
    const std::int64_t end = std::min(count, begin + kBatch);
    const std::vector<WrittenSample> samples = make_samples(source, begin, end);
    for (std::int64_t index = begin; index < end; ++index) {
      const WrittenSample& sample = samples[static_cast<std::size_t>(index - begin)];
      const std::string key = key_of(index);
      data.write(fmt::format("{}\n{}", index == 0 ? "" : ",", sample.record.dump()));
      truth.write(sample.truth.dump() + "\n");
      if (!sample.png.empty()) {
        OutputFile picture(folder + "/images/" + key + ".png");
        picture.write(sample.png);
        picture.finish();
      }
      if (!shard) continue;
      Json record = sample.record;
      if (!sample.png.empty()) record["image"] = key + ".png";
      shard->write(tar_member(key + ".json", record.dump()));
      if (!sample.png.empty()) shard->write(tar_member(key + ".png", sample.png));
    }
    progress.update(end);
  }
  data.write("\n]\n");
  progress.finish();
  data.finish();
  truth.finish();
  if (shard) {
    shard->write(end_of_tar());
    shard->finish();
  }
}

}  // namespace pocketvlm
