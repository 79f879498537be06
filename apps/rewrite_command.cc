#include "apps/rewrite_command.h"

#include <cstdio>

#include "apps/server_answers.h"
#include "base/files.h"
#include "model/checkpoint.h"
#include "model/generation.h"
#include "trainer/thread_count.h"

namespace pocketvlm {
namespace {

/// Greedy answers of a checkpoint; a group is one batch, so that a group's answers do not depend on others.
PromptAnswerer checkpoint_answers(LoadedModel& model, torch::Dtype dtype, std::int64_t max_new_tokens) {
  return [&model, dtype, max_new_tokens](const std::vector<std::string>& prompts) {
    const ComputeDtype guard(dtype);
    std::vector<EncodedChat> encoded;
    for (const std::string& prompt : prompts) {
      Chat chat;
      chat.turns.push_back({"user", prompt});
      encoded.push_back(model.encoder->encode(chat, true));
    }
    SamplingConfig sampling;
    sampling.max_new_tokens = max_new_tokens;
    std::vector<ModelReply> replies;
    for (Generation& answer : generate_batch(model.model, *model.encoder, encoded, sampling)) {
      replies.push_back({std::move(answer.text), answer.stopped ? "" : "not finished"});
    }
    return replies;
  };
}

Json rewrite_by_checkpoint(CaptionRewriting wanted, const CommandLine& line) {
  const ThreadCount threads(line.threads);
  const torch::Dtype dtype = line.dtype.empty() ? stored_dtype(line.checkpoint) : line.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  LoadedModel model = load_model(line.checkpoint, dtype);
  wanted.model = fmt::format("{} {} {}", weights_hash(*model.model, {"*"}), config_to_json(model.config).dump(), line.max_new_tokens);
  return rewrite_captions(wanted, checkpoint_answers(model, dtype, line.max_new_tokens));
}

Json rewrite_by_server(CaptionRewriting wanted, const CommandLine& line) {
  ServerConfig config;
  config.model = line.model;
  config.api_key_variable = line.api_key_variable;
  config.timeout_s = line.timeout_s;
  config.attempts = line.attempts;
  config.concurrency = line.concurrency;
  ChatClient client(line.server, config);
  wanted.model = fmt::format("{} {}", line.model, line.max_new_tokens);
  wanted.group = 4 * line.concurrency;  // so much is asked again at most after a kill
  Json report = rewrite_captions(wanted, server_answers(client, line.max_new_tokens));
  report["traffic"] = client.traffic().to_json();
  return report;
}

}  // namespace

void data_rewrite(const CommandLine& line) {
  PV_CHECK(line.checkpoint.empty() != line.server.empty(), "data rewrite: give either --checkpoint or --server");
  PV_CHECK(line.server.empty() == line.model.empty(), "data rewrite: --server and --model (the name that the server knows) belong together");
  CaptionRewriting wanted;
  wanted.data = line.file;
  wanted.out = line.out;
  wanted.keep_original = line.keep_original;
  wanted.resume = line.resume;
  if (!line.template_file.empty()) wanted.prompt_template = read_file(line.template_file);
  const Json report = line.server.empty() ? rewrite_by_checkpoint(wanted, line) : rewrite_by_server(wanted, line);
  if (line.json) {
    std::fputs((report.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
    return;
  }
  fmt::print("{}: {} of {} captions rewritten into {} questions, {} failed, {} kept as they were; report: {}.report.json\n",
             line.out, report["rewritten"].dump(), report["captions"].dump(), report["pairs"].dump(), report["failed"].dump(),
             report["kept_original"].dump(), line.out);
  for (const auto& [reason, count] : report["reasons"].items()) fmt::print("  {:>8}  {}\n", count.get<std::int64_t>(), reason);
}

}  // namespace pocketvlm
