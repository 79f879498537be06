#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "exporter/export_config.h"
#include "rlaif/rlaif_config.h"
#include "trainer/evaluation_config.h"
#include "trainer/stage_config.h"

namespace pocketvlm {

struct TokenizerRecipe {
  std::string path;
  TokenizerTrainingConfig training;
  std::vector<SourceConfig> corpus;
  int64_t corpus_samples = 20000;
  void visit_fields(auto&& field) {
    field("path", path, "an existing tokenizer.model; empty: train one on the corpus");
    field("training", training, "sentencepiece BPE with byte fallback");
    field("corpus", corpus, "where its sentences come from");
    field("corpus_samples", corpus_samples, "samples read", in_range(1, 1e9));
  }
};

struct EvaluationRecipe {
  SourceConfig source;             // held-out pictures
  std::string folder;              // or a folder of `data scenes`
  int64_t count = 200;
  EvaluationConfig settings;
  std::vector<std::string> after;  // stages after which the figures are measured
  int64_t gallery = 8;
  void visit_fields(auto&& field) {
    field("source", source, "held-out scenes; their seed differs from every training seed");
    field("folder", folder, "instead of source: a folder made by `data scenes`");
    field("count", count, "pictures", in_range(1, 1e9));
    field("settings", settings, "how it is measured");
    field("after", after, "names of the stages after which figures are measured (the alignment always is)");
    field("gallery", gallery, "pictures whose answers are shown after every stage and on the phone", in_range(0, 1000));
  }
};

/// A whole recipe: from an untrained model to files for the phone, and a report.
struct RecipeConfig {
  std::string name;
  uint64_t seed = 1;
  std::string model;
  TokenizerRecipe tokenizer;
  std::vector<StageConfig> stages;
  std::optional<RlaifConfig> alignment;
  std::optional<ExportConfig> exports;
  EvaluationRecipe evaluation;
  double scale = 1.0;
  std::string run_folder = "runs";

  void visit_fields(auto&& field) {
    field("name", name, "results go to <run_folder>/<name>", required());
    field("seed", seed, "every random stream of the recipe hangs on it", in_range(0, 1e15));
    field("model", model, "preset name or config file", required());
    field("tokenizer", tokenizer, "vocabulary");
    field("stages", stages, "in order; each continues from the one before unless it says otherwise", required());
    field("alignment", alignment, "RLAIF-V round after the last stage; null: none");
    field("exports", exports, "GGUF files and the parity gate; null: none");
    field("evaluation", evaluation, "held-out figures and the gallery");
    field("scale", scale, "factor of all steps and counts: 0.1 walks the whole way in a tenth of the time", in_range(0.001, 1000));
    field("run_folder", run_folder, "where runs are kept");
  }
  void validate(const std::string& path) const;
};

/// The recipe as it will be run: `scale` applied to steps and counts, its seed mixed into every data stream, `init_from`
/// resolved to stage names.
RecipeConfig resolve_recipe(RecipeConfig recipe);

}  // namespace pocketvlm
