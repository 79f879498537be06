#include "apps/import_gguf.h"

#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "exporter/gguf_language.h"
#include "model/checkpoint.h"
#include "model/initialization.h"
#include "model/released/weight_files.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultVision = "quickstart";

bool has_all(const Tokenizer& tokenizer, std::initializer_list<const char*> pieces) {
  for (const char* piece : pieces) {
    if (!tokenizer.find(piece)) return false;
  }
  return true;
}

/// A chat template and image layout that the vocabulary has the pieces for. The filler only holds the places of visual tokens, so
/// any piece does.
void fit_prompt(PromptConfig& prompt, const Tokenizer& tokenizer) {
  if (has_all(tokenizer, {"<|im_start|>", "<|im_end|>"})) prompt.chat_template = "chatml";
  else if (has_all(tokenizer, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})) prompt.chat_template = "llama3";
  else prompt.chat_template = "vicuna_v1";
  if (!has_all(tokenizer, {"<image>", "</image>", "<slice>", "</slice>"})) prompt.image_layout = "bare";
  if (!has_all(tokenizer, {"<image_id>", "</image_id>"}) || prompt.image_layout != "minicpmv-2.6") prompt.use_image_id = false;
  if (tokenizer.find(prompt.filler)) return;
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  const std::int32_t id = std::max({vocabulary.unk_id, vocabulary.bos_id, 0});
  prompt.filler = vocabulary.pieces[static_cast<std::size_t>(id)];
}

}  // namespace

void import_gguf(const CommandLine& line) {
  const GgufFile file(line.file);
  ModelConfig config = load_model_config(line.model.empty() ? kDefaultVision : line.model);
  config.family = fs::path(line.file).stem().string();
  config.language = read_gguf_language(file);
  if (!line.allow_nonfinite) file.check_finite();

  NewFolder written(line.out, "");
  const fs::path root(written.path());
  const std::string vocabulary = (root / "tokenizer.model").string();
  write_gguf_vocabulary(file, vocabulary);
  fit_prompt(config.prompt, Tokenizer::load(vocabulary));
  config = read_config<ModelConfig>(config_to_json(config), line.file + " (as our config)");

  std::vector<TensorToWrite> tensors = random_tensors(config, line.seed, "F32");
  std::erase_if(tensors, [](const TensorToWrite& tensor) { return tensor.name.starts_with("language."); });
  for (TensorToWrite& tensor : gguf_language_tensors(file, config.language)) tensors.push_back(std::move(tensor));
  write_weights(written.path(), tensors);
  write_checkpoint_config(config, root.string());
  written.commit();
  if (line.json) {
    const Json report = {{"family", config.family}, {"folder", line.out}, {"tensors", tensors.size()}, {"peak_rss_mib", peak_rss_mib()}};
    std::fputs((report.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
  } else {
    fmt::print("{}: language model of {}, vision side with random weights\n", line.out, line.file);
  }
}

}  // namespace pocketvlm
