#include "apps/engine_commands.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <fmt/ranges.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>

#include "apps/bench.h"
#include "apps/export_command.h"
#include "apps/import_gguf.h"
#include "apps/inspect_forward.h"
#include "apps/recipe.h"
#include "apps/rewrite_command.h"
#include "apps/rlaif_commands.h"
#include "apps/video_chat.h"
#include "base/files.h"
#include "base/log.h"
#include "data/preprocess/tokenizer_json.h"
#include "model/adapter.h"
#include "model/generation.h"
#include "model/initialization.h"
#include "model/released/weight_files.h"
#include "trainer/evaluation.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

void use_threads(std::int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

void recipe(const CommandLine& line, Communicator& ranks) {
  auto config = load_config<RecipeConfig>(line.file, line.overrides);
  if (!line.run_name.empty()) config.name = line.run_name;
  config.validate(line.file);
  run_recipe(config, line.resume, line.changed, ranks);
}

/// Results of a single stage or loop go to runs/<name>; an existing one is continued only when asked to.
std::string claim_run_folder(const CommandLine& line, const std::string& name) {
  const std::string folder = "runs/" + (line.run_name.empty() ? name : line.run_name);
  PV_CHECK(line.resume || !fs::exists(folder), "{}: exists; continue it with --resume, or choose another name with --run NAME", folder);
  return folder;
}

void train(const CommandLine& line, Communicator& ranks) {
  const auto config = load_config<StageConfig>(line.file, line.overrides);
  PV_CHECK(!config.init_from.empty(), "{}.init_from: a single stage starts from a checkpoint folder; name one", line.file);
  const std::string folder = claim_run_folder(line, config.name);
  ranks.barrier();  // all have looked before one writes
  LoadedModel model = load_stage_model(config, config.init_from);
  run_stage(config, model, (fs::path(config.init_from) / "tokenizer.model").string(), folder, {}, &ranks, line.changed);
}

void generate(const CommandLine& line) {
  PV_CHECK(!line.greedy || line.temperature == 0.0, "--greedy and --temperature {} contradict each other; give one", line.temperature);
  use_threads(line.threads);
  const torch::Dtype dtype = line.dtype.empty() ? stored_dtype(line.checkpoint)
                             : line.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  LoadedModel model = load_model(line.checkpoint, dtype);
  const ComputeDtype guard(dtype);
  Chat chat;
  chat.turns.push_back({"user", line.prompt});
  chat.images = prompt_pictures(line, model.config);
  model.encoder = std::make_unique<PromptEncoder>(*model.tokenizer, model.config.prompt, model.config.image);
  SamplingConfig sampling;
  sampling.temperature = line.temperature;
  sampling.top_p = line.top_p;
  sampling.top_k = line.top_k;
  sampling.max_new_tokens = line.max_new_tokens;
  sampling.num_samples = line.num_samples;
  sampling.seed = line.seed;
  const auto begin = std::chrono::steady_clock::now();
  const auto answers = generate(model.model, *model.encoder, model.encoder->encode(chat, true), sampling);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Json texts = Json::array(), ids = Json::array();
  for (const Generation& answer : answers) {
    texts.push_back(answer.text);
    ids.push_back(answer.ids);
    if (!line.json) fmt::print("{}\n", answer.text);
  }
  if (line.json) print_json({{"texts", texts}, {"ids", ids}, {"seconds", seconds}});
}

/// The folder appears when it is whole; the model never stands in memory.
void init(const CommandLine& line) {
  const ModelConfig config = load_model_config(line.file);
  const fs::path given(line.tokenizer);
  const std::string vocabulary = (fs::is_directory(given) ? given / "tokenizer.model" : given).string();
  const Tokenizer tokenizer = Tokenizer::load(vocabulary);
  check_tokenizer(tokenizer, config, vocabulary);
  NewFolder written(line.out, "");
  const fs::path root(written.path());
  write_weights(root.string(), random_tensors(config, line.seed, line.dtype == "bf16" ? "BF16" : "F32"));
  const bool as_it_is = !vocabulary.ends_with(".json");
  write_file_atomic((root / "tokenizer.model").string(),
                    as_it_is ? read_file(vocabulary) : gguf_vocabulary_bytes(tokenizer.vocabulary()));
  write_checkpoint_config(config, root.string());
  written.commit();
  const std::int64_t parameters = count_parameters(config).total();
  if (line.json) return print_json({{"folder", line.out}, {"parameters", parameters}, {"peak_rss_mib", peak_rss_mib()}});
  fmt::print("{}: {} random parameters\n", line.out, parameters);
}

void eval(const CommandLine& line, Communicator& ranks) {
  use_threads(line.threads);
  LoadedModel model = load_model(line.checkpoint);
  const std::vector<EvalItem> items = eval_items(line.data);
  EvaluationConfig settings;
  if (!line.instruction.empty()) settings.prompt = line.instruction;
  const Json figures = evaluate(model, items, vocabulary_of_items(items), settings, &ranks).to_json();
  if (!ranks.is_first()) return;
  if (line.json) return print_json(figures);
  fmt::print("{}\n", figures.dump(2));
}

void merge(const CommandLine& line) {
  const MergedAdapter merged = merge_adapter(line.checkpoint, line.adapter, line.out);
  if (line.json) return print_json({{"folder", line.out}, {"layers", merged.layers}, {"replaced", merged.replaced}, {"peak_rss_mib", peak_rss_mib()}});
  fmt::print("{}: updates folded into {} weights, {} tensors replaced\n", line.out, merged.layers, merged.replaced);
}

}  // namespace

void run_engine_command(const CommandLine& line, Communicator& ranks) {
  static const std::set<std::string> shared = {
      "run", "train", "eval", "rlaif", "rlaif sample", "rlaif split", "rlaif judge", "rlaif pairs", "rlaif train", "rlaif eval"};
  PV_CHECK(ranks.size() == 1 || shared.count(line.command) != 0,
           "`pocketvlm {}` is the work of one process, and {} were started; several work on: {}",
           line.command,
           ranks.size(),
           fmt::join(shared, ", "));
  if (line.command == "run") recipe(line, ranks);
  else if (line.command == "train") train(line, ranks);
  else if (line.command == "bench") bench(line);
  else if (line.command.starts_with("rlaif")) rlaif(line, ranks);
  else if (line.command == "generate") generate(line);
  else if (line.command == "data rewrite") data_rewrite(line);
  else if (line.command == "init") init(line);
  else if (line.command == "eval") eval(line, ranks);
  else if (line.command == "export") export_checkpoint(line);
  else if (line.command == "inspect forward") inspect_forward(line);
  else if (line.command == "import") import_gguf(line);
  else if (line.command == "merge-adapter") merge(line);
  else fail("pocketvlm-engine: unknown command \"{}\"", line.command);
}

}  // namespace pocketvlm
