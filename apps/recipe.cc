#include "apps/recipe.h"

#include <torch/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <thread>

#include "base/files.h"
#include "base/log.h"
#include "base/random.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "exporter/importance.h"
#include "exporter/parity.h"
#include "exporter/tensor_types.h"
#include "mobile/session.h"
#include "model/generation.h"
#include "rlaif/loop.h"
#include "trainer/evaluation.h"
#include "trainer/report/report.h"
#include "trainer/same_config.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// Held-out pictures come from a stream that no training stage can reach, whatever its seed.
constexpr std::uint64_t kHeldOutStream = 0x68656c646f7574;
constexpr std::uint64_t kGalleryStream = 0x67616c6c657279;
constexpr std::uint64_t kImportanceStream = 0x696d706f7274;
constexpr std::uint64_t kParityStream = 0x706172697479;

class Recipe {
 public:
  Recipe(const RecipeConfig& config, bool resume, bool changed, Communicator& ranks)
      : ranks_(ranks),
        changed_(changed),
        config_(resolve_recipe(config)),
        folder_(fs::path(config_.run_folder) / config_.name),
        stages_(config_.stages) {
    on_first([&] { claim_folder(resume); });
  }

  void run() {
    const auto begin = std::chrono::steady_clock::now();
    on_first([&] { train_tokenizer_once(); });
    for (std::size_t i = 0; i < stages_.size(); ++i) run_one_stage(i);
    align();
    on_first([&] {
      export_all();
      add_seconds(begin);
      finish();
    });
  }

 private:
  /// What one process does while the others wait; what it wrote is there for them afterwards. An error ends the job.
  void on_first(const std::function<void()>& work) {
    if (ranks_.is_first()) work();
    ranks_.barrier();
  }

  /// Whether rank 0 finds the file: nobody is to see what another writes in the meantime.
  bool all_find(const fs::path& path) { return ranks_.gather_texts(fs::exists(path) ? "yes" : "no").front() == "yes"; }

  fs::path stage_folder(std::size_t i) const {
    return folder_ / "stages" / fmt::format("{:02}-{}", i + 1, stages_[i].name);
  }

  fs::path checkpoint_of(const std::string& stage) const {
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i].name == stage) return stage_folder(i) / "checkpoint";
    }
    return stage;  // a folder outside the recipe
  }

  std::string tokenizer_path() const { return (folder_ / "tokenizer" / "tokenizer.model").string(); }

  /// A recipe without what may be another when it is continued.
  static Json deciding(Json recipe, bool changed) {
    for (Json& stage : recipe["stages"]) stage = deciding_fields(stage, changed);
    return recipe;
  }

  /// A run's folder belongs to one config: continuing with another one would mix results.
  void claim_folder(bool resume) {
    const fs::path path = folder_ / "config.json";
    const Json wanted = config_to_json(config_);
    if (!fs::exists(path)) {
      make_folders(folder_.string());
      write_json(path.string(), wanted);
      return;
    }
    PV_CHECK(resume, "{}: this run exists; continue it with --resume, or choose another name with --run NAME", folder_.string());
    const Json before = read_json(path.string());
    const Json difference = Json::diff(deciding(before, changed_), deciding(wanted, changed_));
    const bool changeable = deciding(before, true) == deciding(wanted, true);
    PV_CHECK(difference.empty(), "{}: the run was started with another value at {}; {}choose another name with --run NAME",
             path.string(), difference.empty() ? "" : difference[0]["path"].get<std::string>(),
             changeable ? "to go on with the new one, add --changed, else " : "");
    if (before != wanted) write_json(path.string(), wanted);
  }

  void train_tokenizer_once() {
    if (fs::exists(tokenizer_path())) return;
    if (!config_.tokenizer.path.empty()) {
      write_file_atomic(tokenizer_path(), read_file(config_.tokenizer.path));
      return;
    }
    spdlog::info("tokenizer: training {} pieces on {} samples", config_.tokenizer.training.vocab_size,
                 config_.tokenizer.corpus_samples);
    std::vector<std::unique_ptr<SampleSource>> sources;
    for (const SourceConfig& source : config_.tokenizer.corpus) sources.push_back(open_source(source));
    std::int64_t next = 0;
    std::size_t turn = 0;
    Sample sample;
    const auto next_sentence = [&](std::string& sentence) {
      while (turn >= sample.chat.turns.size()) {
        if (next >= config_.tokenizer.corpus_samples) return false;
        const SampleSource& source = *sources[static_cast<std::size_t>(next) % sources.size()];
        sample = source.at(next / static_cast<std::int64_t>(sources.size()) % source.size());
        ++next;
        turn = 0;
      }
      sentence = sample.chat.turns[turn++].content;
      return true;
    };
    train_tokenizer(config_.tokenizer.training, next_sentence, tokenizer_path());
  }

  /// A model with random weights, its vocabulary that of the trained tokenizer.
  LoadedModel new_model() const {
    LoadedModel loaded;
    loaded.config = load_model_config(config_.model);
    loaded.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(tokenizer_path()));
    loaded.config.language.vocab = loaded.tokenizer->size();
    loaded.model = VisionLanguageModel(loaded.config, mix_keys({config_.seed, 0x696e6974}));
    loaded.encoder = std::make_unique<PromptEncoder>(*loaded.tokenizer, loaded.config.prompt, loaded.config.image);
    return loaded;
  }

  void run_one_stage(std::size_t i) {
    const StageConfig& stage = stages_[i];
    const fs::path folder = stage_folder(i);
    const std::string result = (folder / "result.json").string();
    if (all_find(result)) {
      check_same_config(stage, folder.string(), StageResult::from_json(read_json(result), result).packs_per_step, ranks_.size());
    } else {
      if (ranks_.is_first()) spdlog::info("stage {}/{}: {} ({} steps)", i + 1, stages_.size(), stage.name, stage.steps);
      LoadedModel model = stage.init_from.empty() ? new_model() : load_stage_model(stage, checkpoint_of(stage.init_from).string());
      run_stage(stage, model, tokenizer_path(), folder.string(), {}, &ranks_, changed_);
    }
    const std::string checkpoint = (folder / "checkpoint").string();
    if (stage.objective == "language" && has_pictures(stage)) {
      on_first([&] { answer_gallery(stage.name, checkpoint, &stage.input); });
    }
    if (std::find(config_.evaluation.after.begin(), config_.evaluation.after.end(), stage.name) !=
        config_.evaluation.after.end()) {
      measure(stage.name, checkpoint);
    }
  }

  static bool has_pictures(const StageConfig& stage) {
    return std::any_of(stage.data.sources.begin(), stage.data.sources.end(), [](const SourceConfig& source) {
      if (source.kind == "text") return false;
      return source.kind != "scenes" || std::any_of(source.scenes.tasks.begin(), source.scenes.tasks.end(), [](const auto& task) {
               return task.first != "text" && task.second > 0;
             });
    });
  }

  std::vector<EvalItem> held_out(std::uint64_t stream, std::int64_t count) const {
    if (!config_.evaluation.folder.empty()) {
      std::vector<EvalItem> items = eval_items(config_.evaluation.folder);
      if (static_cast<std::int64_t>(items.size()) > count) items.resize(static_cast<std::size_t>(count));
      return items;
    }
    const SourceConfig& source = config_.evaluation.source;
    return eval_items(SceneSource(source.scenes, mix_keys({stream, source.seed})), count);
  }

  Chat question_about(const EvalItem& item) const {
    Chat chat;
    chat.turns.push_back({"user", config_.evaluation.settings.prompt});
    chat.images.push_back(item.image);
    return chat;
  }

  const std::vector<EvalItem>& gallery() {
    if (gallery_.empty() && config_.evaluation.gallery > 0) {
      gallery_ = held_out(kGalleryStream, config_.evaluation.gallery);
      for (const EvalItem& item : gallery_) {
        const fs::path path = folder_ / "gallery" / "images" / (item.id + ".png");
        if (!fs::exists(path)) write_file_atomic(path.string(), encode_png(item.image));
      }
    }
    return gallery_;
  }

  /// Answers of one checkpoint to the gallery; `input` are the settings its stage was trained with.
  void answer_gallery(const std::string& name, const std::string& checkpoint, const StageInput* input) {
    const fs::path path = folder_ / "gallery" / (name + ".json");
    if (fs::exists(path) || gallery().empty()) return;
    LoadedModel model = load_model(checkpoint);
    const StageInput none;
    const PromptEncoder encoder(*model.tokenizer, stage_prompt(input ? *input : none, model.config.prompt),
                                stage_image(input ? *input : none, model.config.image));
    std::vector<EncodedChat> prompts;
    for (const EvalItem& item : gallery()) prompts.push_back(encoder.encode(question_about(item), true));
    SamplingConfig sampling;
    sampling.max_new_tokens = config_.evaluation.settings.max_new_tokens;
    Json answers = Json::array();
    const std::vector<Generation> texts = generate_batch(model.model, encoder, prompts, sampling);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      answers.push_back({{"id", gallery()[i].id}, {"objects", gallery()[i].objects}, {"answer", texts[i].text}});
    }
    write_json(path.string(), answers);
  }

  void measure(const std::string& name, const std::string& checkpoint) {
    const fs::path path = folder_ / "evaluation" / (name + ".json");
    if (all_find(path)) return;
    if (ranks_.is_first()) spdlog::info("evaluation after {}: {} held-out pictures", name, config_.evaluation.count);
    LoadedModel model = load_model(checkpoint);
    const std::vector<EvalItem> items = held_out(kHeldOutStream, config_.evaluation.count);
    const ObjectVocabulary vocabulary = config_.evaluation.folder.empty()
                                            ? scene_vocabulary(config_.evaluation.source.scenes)
                                            : vocabulary_of_items(items);
    const Evaluation figures = evaluate(model, items, vocabulary, config_.evaluation.settings, &ranks_);
    if (!ranks_.is_first()) return;
    spdlog::info("after {}: recall {:.3f}, CHAIR_i {:.3f}, POPE {:.3f} / {:.3f} / {:.3f}", name, figures.object_recall, figures.chair_i,
                 figures.pope_random.accuracy, figures.pope_popular.accuracy, figures.pope_adversarial.accuracy);
    write_json(path.string(), figures.to_json());
  }

  void align() {
    if (!config_.alignment) return;
    const RlaifConfig& alignment = *config_.alignment;
    const fs::path folder = folder_ / "alignment";
    if (!all_find(folder / "result.json")) {
      if (ranks_.is_first()) spdlog::info("alignment: {} prompts x {} answers", alignment.num_prompts, alignment.rollout.samples);
      run_rlaif(alignment, checkpoint_of(alignment.policy).string(), checkpoint_of(alignment.judge).string(), folder.string(), {}, &ranks_);
    }
    on_first([&] { answer_gallery("aligned", (folder / "checkpoint").string(), nullptr); });
    measure("aligned", (folder / "checkpoint").string());
  }

  std::string final_checkpoint() const {
    if (config_.alignment) return (folder_ / "alignment" / "checkpoint").string();
    std::string last = stages_.back().name;
    for (const StageConfig& stage : stages_) {
      if (!stage.branch) last = stage.name;
    }
    return checkpoint_of(last).string();
  }

  void export_all() {
    if (!config_.exports) return;
    const fs::path folder = folder_ / "export";
    std::optional<LoadedModel> trainer;
    std::optional<Importance> importance;
    for (const std::string& type : config_.exports->types) {
      const fs::path report = folder / ("parity-" + type + ".json");
      if (fs::exists(report)) continue;
      spdlog::info("export: {}", type);
      const bool weighted = config_.exports->importance_prompts > 0 && uses_importance(type);
      if (weighted && !importance) {
        importance = measure_importance(final_checkpoint(), {"held-out pictures", chats_of(importance_prompts()), ""}, folder.string());
      }
      const bool gate = config_.exports->parity_prompts > 0;
      ExportedFiles files = export_gguf(final_checkpoint(), type, config_.exports->mmproj_type, folder.string(),
                                        weighted ? &*importance : nullptr, gate ? kUncheckedMark : "");
      Json result = {{"type", type}, {"language_bytes", files.language_bytes}, {"mmproj_bytes", files.mmproj_bytes}};
      result["importance"] = weighted ? importance->to_json() : Json(nullptr);
      if (gate) {
        if (!trainer) trainer = load_model(final_checkpoint());
        result["parity"] = check_parity(*trainer, files, type, parity_prompts(), *config_.exports);
        if (!result["parity"]["passed"].get<bool>()) {
          write_json((folder / ("refused-" + type + ".json")).string(), result);
          throw CheckFailed(fmt::format("{}: phone and trainer differ beyond the bounds: {}; figures in {}", files.language,
                                        explain_failure(result["parity"]), (folder / ("refused-" + type + ".json")).string()));
        }
        accept_files(files);
      }
      result["phone"] = answer_on_phone(type, files);
      write_json(report.string(), result);
    }
  }

  /// None of the gate's.
  std::vector<ParityPrompt> importance_prompts() const {
    const std::int64_t gate = config_.exports->parity_prompts;
    const std::vector<EvalItem> items = held_out(kImportanceStream, gate + config_.exports->importance_prompts);
    PV_CHECK(static_cast<std::int64_t>(items.size()) > gate,
             "exports.importance_prompts: {} has {} pictures, and the parity gate takes {} of them", config_.evaluation.folder, items.size(),
             gate);
    std::vector<ParityPrompt> prompts;
    for (std::size_t i = static_cast<std::size_t>(gate); i < items.size(); ++i) prompts.push_back({question_about(items[i])});
    return prompts;
  }

  std::vector<ParityPrompt> parity_prompts() const {
    std::vector<ParityPrompt> prompts;
    for (const EvalItem& item : held_out(kParityStream, config_.exports->parity_prompts)) {
      prompts.push_back({question_about(item)});
    }
    return prompts;
  }

  /// The gallery on the phone runtime, with its speeds.
  Json answer_on_phone(const std::string& type, const ExportedFiles& files) {
    SessionOptions options;
    options.packed = "memory";  // nothing is left beside the exported files
    Session session(files.language, files.mmproj, options);
    MobileSampling sampling;
    sampling.max_new_tokens = config_.evaluation.settings.max_new_tokens;
    Json answers = Json::array();
    ChatTimings sum;
    for (const EvalItem& item : gallery()) {
      const ChatAnswer answer = session.chat(question_about(item), sampling);
      answers.push_back({{"id", item.id}, {"objects", item.objects}, {"answer", answer.text}});
      sum.load_ms = answer.timings.load_ms;
      sum.vision_ms += answer.timings.vision_ms;
      sum.slices += answer.timings.slices;
      sum.prompt_tokens += answer.timings.prompt_tokens;
      sum.prefill_ms += answer.timings.prefill_ms;
      sum.generated_tokens += answer.timings.generated_tokens;
      sum.decode_ms += answer.timings.decode_ms;
    }
    write_json((folder_ / "gallery" / ("phone-" + type + ".json")).string(), answers);
    const auto per = [](double amount, double whole) { return whole > 0 ? amount / whole : 0.0; };
    return {{"kernels", session.kernels()},
            {"threads", session.threads()},
            {"load_ms", sum.load_ms},
            {"vision_ms_per_slice", per(sum.vision_ms, static_cast<double>(sum.slices))},
            {"prefill_tps", per(static_cast<double>(sum.prompt_tokens) * 1000, sum.prefill_ms)},
            {"decode_tps", per(static_cast<double>(sum.generated_tokens) * 1000, sum.decode_ms)}};
  }

  /// Wall time of the run, added up over interruptions.
  void add_seconds(std::chrono::steady_clock::time_point begin) {
    const fs::path path = folder_ / "seconds.json";
    const double before = fs::exists(path) ? read_json(path.string())["seconds"].get<double>() : 0.0;
    seconds_ = before + std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    write_json(path.string(), {{"seconds", seconds_}});
  }

  void finish() {
    std::vector<Json> stages;
    Json summary = {{"name", config_.name}, {"seed", config_.seed}, {"seconds", seconds_}, {"peak_rss_mib", peak_rss_mib()}};
    summary["threads"] = std::thread::hardware_concurrency();
    const LoadedModel model = load_model(final_checkpoint());
    const ParameterCounts counts = count_parameters(model.config);
    summary["parameters"] = {{"vision_encoder", counts.vision_encoder}, {"projector", counts.projector},
                             {"language", counts.language}, {"total", counts.total()}};
    summary["stages"] = Json::array();
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      summary["stages"].push_back(read_json((stage_folder(i) / "result.json").string()));
    }
    summary["evaluation"] = Json::object();
    std::vector<std::string> measured = config_.evaluation.after;
    if (config_.alignment) measured.push_back("aligned");
    for (const std::string& name : measured) {
      summary["evaluation"][name] = read_json((folder_ / "evaluation" / (name + ".json")).string());
    }
    if (config_.alignment) summary["alignment"] = read_json((folder_ / "alignment" / "result.json").string());
    if (config_.exports) {
      summary["exports"] = Json::array();
      for (const std::string& type : config_.exports->types) {
        summary["exports"].push_back(read_json((folder_ / "export" / ("parity-" + type + ".json")).string()));
      }
    }
    write_json((folder_ / "summary.json").string(), summary);
    write_report(folder_.string());
    spdlog::info("done in {:.0f} s; look at {}", seconds_, (folder_ / "report.html").string());
  }

  Communicator& ranks_;
  bool changed_;
  RecipeConfig config_;
  fs::path folder_;
  std::vector<StageConfig> stages_;
  std::vector<EvalItem> gallery_;
  double seconds_ = 0;
};

}  // namespace

void run_recipe(const RecipeConfig& recipe, bool resume, bool changed, Communicator& ranks) {
  Recipe(recipe, resume, changed, ranks).run();
}

}  // namespace pocketvlm
