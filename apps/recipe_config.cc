#include "apps/recipe_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/random.h"

namespace pocketvlm {
namespace {

void check_name(const std::string& path, const std::string& name) {
  const bool fine = !name.empty() && name.find_first_of("/\\ ") == std::string::npos && name != "." && name != "..";
  PV_CHECK(fine, "{}: \"{}\" must be usable as a folder name: not empty, no spaces or slashes", path, name);
}

void check_stage_name(const std::string& path, const std::string& wanted, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), wanted) != known.end()) return;
  const auto close = closest_name(wanted, known);
  fail("{}: there is no stage \"{}\"{}", path, wanted,
       close ? fmt::format(", did you mean \"{}\"?", *close) : fmt::format("; stages: {}", fmt::join(known, ", ")));
}

}  // namespace

void RecipeConfig::validate(const std::string& path) const {
  check_name(path + ".name", name);
  PV_CHECK(!stages.empty(), "{}.stages: a recipe needs at least one stage", path);
  std::vector<std::string> known;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::string here = fmt::format("{}.stages[{}]", path, i);
    check_name(here + ".name", stages[i].name);
    PV_CHECK(std::find(known.begin(), known.end(), stages[i].name) == known.end(),
             "{}.name: \"{}\" is the name of an earlier stage; choose another", here, stages[i].name);
    if (!stages[i].init_from.empty() && stages[i].init_from.find('/') == std::string::npos) {
      check_stage_name(here + ".init_from", stages[i].init_from, known);
    }
    known.push_back(stages[i].name);
  }
  if (alignment) {
    check_stage_name(path + ".alignment.policy", alignment->policy, known);
    check_stage_name(path + ".alignment.judge", alignment->judge, known);
  }
  for (const std::string& stage : evaluation.after) check_stage_name(path + ".evaluation.after", stage, known);
  PV_CHECK(!tokenizer.path.empty() || !tokenizer.corpus.empty(),
           "{}.tokenizer: give path (an existing tokenizer.model) or corpus (where to train one)", path);
}

namespace {

/// Gives a source its own stream. Files have no seed: the loader's orders them.
template <typename... Keys>
void mix_seed(SourceConfig& source, Keys... keys) {
  if (source.kind == "scenes") source.seed = mix_keys({static_cast<std::uint64_t>(keys)..., source.seed}) >> 1;
}

}  // namespace

RecipeConfig resolve_recipe(RecipeConfig recipe) {
  const auto scaled = [&](std::int64_t n, std::int64_t least) {
    return std::max(least, static_cast<std::int64_t>(std::llround(static_cast<double>(n) * recipe.scale)));
  };
  std::string previous;
  for (std::size_t i = 0; i < recipe.stages.size(); ++i) {
    StageConfig& stage = recipe.stages[i];
    stage.steps = scaled(stage.steps, 2);
    stage.optimizer.warmup_steps = std::min(stage.optimizer.warmup_steps, stage.steps / 2);
    const std::uint64_t seed = mix_keys({recipe.seed, i, stage.seed});
    stage.seed = seed >> 1;  // configs hold signed 64-bit integers
    stage.data.seed = mix_keys({seed, 1, stage.data.seed}) >> 1;
    for (std::size_t k = 0; k < stage.data.sources.size(); ++k) {
      mix_seed(stage.data.sources[k], seed, 2, k);
    }
    if (stage.init_from.empty()) stage.init_from = previous;
    if (!stage.branch) previous = stage.name;
  }
  recipe.tokenizer.corpus_samples = scaled(recipe.tokenizer.corpus_samples, 2000);
  for (std::size_t k = 0; k < recipe.tokenizer.corpus.size(); ++k) {
    mix_seed(recipe.tokenizer.corpus[k], recipe.seed, 0x746f6b, k);
  }
  if (recipe.alignment) {
    RlaifConfig& alignment = *recipe.alignment;
    alignment.num_prompts = scaled(alignment.num_prompts, 8);
    alignment.seed = mix_keys({recipe.seed, 0x726c616966, alignment.seed}) >> 1;
    mix_seed(alignment.prompts, recipe.seed, 0x70726f6d7074);
  }
  recipe.evaluation.count = scaled(recipe.evaluation.count, 8);
  recipe.scale = 1.0;
  return recipe;
}

}  // namespace pocketvlm
