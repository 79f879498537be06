#include "mobile/model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "mobile/chat_template.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kMaxWidth = 1 << 20;

MobileActivation read_activation(const GgufFile& file,
                                 const std::string& key,
                                 MobileActivation fallback) {
  if (!file.has(key)) return fallback;
  const std::string& name = file.get_string(key);
  if (name == "gelu_tanh") return MobileActivation::kGeluTanh;
  if (name == "gelu_erf") return MobileActivation::kGeluErf;
  if (name == "quick_gelu") return MobileActivation::kQuickGelu;
  fail("{}: \"{}\" is \"{}\", but must be gelu_tanh, gelu_erf or quick_gelu",
       file.path(),
       key,
       name);
}

std::string read_choice(const GgufFile& file,
                        const std::string& key,
                        const std::string& fallback,
                        const std::vector<std::string>& choices) {
  std::string value = file.get_string_or(key, fallback);
  PV_CHECK(std::find(choices.begin(), choices.end(), value) != choices.end(),
           "{}: \"{}\" is \"{}\", but must be one of {}",
           file.path(),
           key,
           value,
           fmt::join(choices, ", "));
  return value;
}

void check_architecture(const GgufFile& file, const std::string& wanted, const std::string& cure) {
  const std::string& architecture = file.get_string("general.architecture");
  PV_CHECK(architecture == wanted,
           "{}: this file holds the architecture \"{}\", not \"{}\"; {}",
           file.path(),
           architecture,
           wanted,
           cure);
}

bool has_tensor(const GgufFile& file, const std::string& name) {
  return file.find(name) != nullptr;
}

std::string projector_kind(const GgufFile& mmproj) {
  return read_choice(mmproj, "clip.projector_type", "", {"resampler", "mlp", "ldp", "ldpv2"});
}

std::int64_t integer_root(const GgufFile& file, std::int64_t rows, const std::string& name) {
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(rows))));
  PV_CHECK(side >= 1 && side * side == rows,
           "{}: the tensor \"{}\" has {} positions, which is no square",
           file.path(),
           name,
           rows);
  return side;
}

// A config of ours stored as JSON text in one of the files; the language file speaks first.
template <typename Config>
bool read_stored_config(const GgufFile& language,
                        const GgufFile* mmproj,
                        const std::string& key,
                        Config& config) {
  for (const GgufFile* file : {&language, mmproj}) {
    if (file == nullptr || !file->has(key)) continue;
    const std::string where = file->path() + ": " + key;
    config = read_config<Config>(parse_json(file->get_string(key), where), where);
    return true;
  }
  return false;
}

// Visual places need some id; its embedding is never read. Vocabularies without "<unk>" lend
// another piece.
std::string filler_piece(const GgufFile& language) {
  const std::string usual = PromptConfig().filler;
  if (!language.has("tokenizer.ggml.tokens")) return usual;
  const auto* pieces =
      std::get_if<std::vector<std::string>>(&language.get_array("tokenizer.ggml.tokens").values);
  PV_CHECK(pieces != nullptr && !pieces->empty(),
           "{}: tokenizer.ggml.tokens must be a list of strings",
           language.path());
  if (std::find(pieces->begin(), pieces->end(), usual) != pieces->end()) return usual;
  const auto last = static_cast<std::int64_t>(pieces->size()) - 1;
  return (*pieces)[static_cast<std::size_t>(
      language.get_int_or("tokenizer.ggml.bos_token_id", 0, 0, last))];
}

}  // namespace

MobileLanguageParams read_language_params(const GgufFile& file) {
  MobileLanguageParams params;
  params.architecture = file.get_string("general.architecture");
  const std::string a = params.architecture;
  PV_CHECK(a != "clip",
           "{}: this is an mmproj file (vision); give it with --mmproj and the language file with "
           "--model",
           file.path());
  PV_CHECK(a == "llama" || a == "minicpm" || a == "qwen2",
           "{}: the architecture \"{}\" is not supported; llama, minicpm and qwen2 are",
           file.path(),
           a);
  params.hidden = file.get_int(a + ".embedding_length", 1, kMaxWidth);
  params.num_layers = file.get_int(a + ".block_count", 1, 1000);
  params.ffn = file.get_int(a + ".feed_forward_length", 1, kMaxWidth * 4);
  params.num_heads = file.get_int(a + ".attention.head_count", 1, 1024);
  params.num_kv_heads = file.get_int_or(a + ".attention.head_count_kv", params.num_heads, 1, 1024);
  PV_CHECK(params.num_heads % params.num_kv_heads == 0,
           "{}: {} query heads cannot share {} key heads",
           file.path(),
           params.num_heads,
           params.num_kv_heads);
  if (file.has(a + ".attention.key_length")) {
    params.head_dim = file.get_int(a + ".attention.key_length", 2, 4096);
    PV_CHECK(file.get_int_or(a + ".attention.value_length", params.head_dim) == params.head_dim,
             "{}: keys and values of different width are not supported",
             file.path());
  } else {
    PV_CHECK(params.hidden % params.num_heads == 0,
             "{}: embedding_length {} is not a multiple of {} heads",
             file.path(),
             params.hidden,
             params.num_heads);
    params.head_dim = params.hidden / params.num_heads;
  }
  PV_CHECK(params.head_dim % 2 == 0, "{}: the head width {} is odd", file.path(), params.head_dim);
  PV_CHECK(file.get_int_or(a + ".rope.dimension_count", params.head_dim) == params.head_dim,
           "{}: rotary embedding over a part of the head is not supported",
           file.path());
  params.max_positions = file.get_int(a + ".context_length", 1, std::int64_t{1} << 32);
  params.norm_eps = static_cast<float>(file.get_float(a + ".attention.layer_norm_rms_epsilon"));
  PV_CHECK(
      params.norm_eps >= 0.0F, "{}: the norm epsilon {} is negative", file.path(), params.norm_eps);
  params.rope_theta = file.get_float_or(a + ".rope.freq_base", 10000.0);
  PV_CHECK(
      params.rope_theta >= 1.0, "{}: rope.freq_base {} is below 1", file.path(), params.rope_theta);
  const std::string scaling =
      read_choice(file, a + ".rope.scaling.type", "none", {"none", "linear"});
  if (scaling == "linear") params.rope_scaling = file.get_float(a + ".rope.scaling.factor");
  PV_CHECK(params.rope_scaling > 0.0,
           "{}: rope.scaling.factor {} is not positive",
           file.path(),
           params.rope_scaling);
  params.rope_pairs = a != "qwen2";
  const GgufTensor& embeddings = file.tensor("token_embd.weight");
  PV_CHECK(embeddings.ne.size() == 2 && embeddings.ne[0] == params.hidden,
           "{}: token_embd.weight has rows of {} values, but embedding_length is {}",
           file.path(),
           embeddings.ne[0],
           params.hidden);
  params.vocab = embeddings.ne[1];
  PV_CHECK(file.get_int_or(a + ".vocab_size", params.vocab) == params.vocab,
           "{}: vocab_size and token_embd.weight ({} rows) disagree",
           file.path(),
           params.vocab);
  params.tied_embeddings = !has_tensor(file, "output.weight");
  if (a == "minicpm") {
    params.scale_embeddings = static_cast<float>(file.get_float_or(a + ".embedding_scale", 12.0));
    params.scale_residual = static_cast<float>(file.get_float_or(
        a + ".residual_scale", 1.4 / std::sqrt(static_cast<double>(params.num_layers))));
    params.scale_logits = static_cast<float>(
        file.get_float_or(a + ".logit_scale", static_cast<double>(params.hidden) / 256.0));
    PV_CHECK(params.scale_logits != 0.0F, "{}: minicpm.logit_scale is 0", file.path());
  }
  return params;
}

MobileVisionParams read_vision_params(const GgufFile& file) {
  check_architecture(
      file, "clip", "give the language file with --model and the mmproj file with --mmproj");
  MobileVisionParams params;
  params.hidden = file.get_int("clip.vision.embedding_length", 1, kMaxWidth);
  params.num_layers = file.get_int("clip.vision.block_count", 1, 1000);
  params.num_heads = file.get_int("clip.vision.attention.head_count", 1, 1024);
  params.ffn = file.get_int("clip.vision.feed_forward_length", 1, kMaxWidth * 4);
  params.patch_size = file.get_int("clip.vision.patch_size", 1, 256);
  params.image_size = file.get_int("clip.vision.image_size", 1, 8192);
  params.norm_eps = static_cast<float>(file.get_float("clip.vision.attention.layer_norm_epsilon"));
  PV_CHECK(params.hidden % params.num_heads == 0,
           "{}: vision width {} is not a multiple of {} heads",
           file.path(),
           params.hidden,
           params.num_heads);
  MobileActivation stock = MobileActivation::kQuickGelu;
  if (file.get_bool_or("clip.use_gelu", false))
    stock = MobileActivation::kGeluTanh;
  else if (file.get_bool_or("clip.use_silu", false))
    stock = MobileActivation::kSilu;
  params.activation = read_activation(file, "pocketvlm.vision.activation", stock);
  params.class_token = has_tensor(file, "v.class_embd");
  params.pre_norm = has_tensor(file, "v.pre_ln.weight");
  params.final_norm = has_tensor(file, "v.post_ln.weight");
  const bool resampler = projector_kind(file) == "resampler";
  params.positions = read_choice(file,
                                 "pocketvlm.vision.positions",
                                 resampler ? "bucketed" : "fixed",
                                 {"bucketed", "strips", "interpolated", "fixed"});
  if (has_tensor(file, kOwnPositionTable)) params.position_table = kOwnPositionTable;
  const GgufTensor& table = file.tensor(params.position_table);
  PV_CHECK(table.ne.size() == 2 && table.ne[0] == params.hidden,
           "{}: {} has rows of {} values, but the vision width is {}",
           file.path(),
           table.name,
           table.ne[0],
           params.hidden);
  params.position_side =
      integer_root(file, table.ne[1] - (params.class_token ? 1 : 0), table.name);
  return params;
}

MobileProjectorParams read_projector_params(const GgufFile& file) {
  MobileProjectorParams params;
  params.kind = projector_kind(file);
  params.norm_eps = static_cast<float>(
      file.get_float_or("pocketvlm.projector.norm_epsilon",
                        file.get_float("clip.vision.attention.layer_norm_epsilon")));
  params.activation =
      read_activation(file, "pocketvlm.projector.activation", MobileActivation::kGeluTanh);
  if (params.kind == "resampler") {
    const GgufTensor& query = file.tensor("resampler.query");
    PV_CHECK(query.ne.size() == 2, "{}: resampler.query must have two dimensions", file.path());
    params.hidden = query.ne[0];
    params.num_queries = query.ne[1];
    const std::int64_t stated = file.get_int_or("clip.minicpmv_query_num", 0, 0, 65536);
    PV_CHECK(stated == 0 || stated == params.num_queries,
             "{}: clip.minicpmv_query_num is {}, but resampler.query has {} rows",
             file.path(),
             stated,
             params.num_queries);
    params.num_heads = file.get_int_or(
        "pocketvlm.projector.heads", std::max<std::int64_t>(1, params.hidden / 128), 1, 1024);
    PV_CHECK(params.hidden % params.num_heads == 0 && params.hidden % 4 == 0,
             "{}: projector width {} does not suit {} heads and 2-D positions",
             file.path(),
             params.hidden,
             params.num_heads);
    params.positions = read_choice(
        file, "pocketvlm.projector.positions", "key", {"key", "key_and_query", "interpolated"});
    if (params.positions != "key") integer_root(file, params.num_queries, "resampler.query");
    return params;
  }
  // The other three give one token a patch, or one for each 2 x 2 patches of the fixed grid.
  const std::string last = params.kind == "mlp"   ? "mm.2.weight"
                           : params.kind == "ldp" ? "mm.model.mlp.3.weight"
                                                  : "mm.model.mlp.2.weight";
  const GgufTensor& weight = file.tensor(last);
  PV_CHECK(weight.ne.size() == 2, "{}: {} must have two dimensions", file.path(), last);
  params.hidden = weight.ne[1];
  const std::int64_t side = file.get_int("clip.vision.image_size", 1, 8192) /
                            file.get_int("clip.vision.patch_size", 1, 256);
  const std::int64_t halved = params.kind == "ldp" ? (side + 1) / 2 : side / 2;
  params.num_queries = params.kind == "mlp" ? side * side : halved * halved;
  PV_CHECK(params.num_queries >= 1,
           "{}: the image of {} patches a side is too small for {}",
           file.path(),
           side,
           params.kind);
  return params;
}

ImageConfig read_image_config(const GgufFile& language, const GgufFile* mmproj) {
  ImageConfig config;
  if (read_stored_config(language, mmproj, "pocketvlm.image_config", config) || mmproj == nullptr)
    return config;
  config.patch_size = mmproj->get_int("clip.vision.patch_size", 1, 256);
  config.image_size = mmproj->get_int("clip.vision.image_size", 1, 8192);
  config.scale_resolution = config.image_size;
  config.mode = projector_kind(*mmproj) == "resampler" ? "slices" : "pad_square";
  config.mean = mmproj->get_floats("clip.vision.image_mean");
  config.std = mmproj->get_floats("clip.vision.image_std");
  config.validate(mmproj->path());
  return config;
}

PromptConfig read_prompt_config(const GgufFile& language, const GgufFile* mmproj) {
  PromptConfig config;
  if (read_stored_config(language, mmproj, "pocketvlm.prompt_config", config)) return config;
  const std::string stored = language.get_string_or("tokenizer.chat_template", "");
  const auto mentions = [&](const char* mark) { return stored.find(mark) != std::string::npos; };
  const std::string& architecture = language.get_string("general.architecture");
  if (mentions("<|im_start|>"))
    config.chat_template = "chatml";
  else if (mentions("<|start_header_id|>"))
    config.chat_template = "llama3";
  else if (mentions("<AI>") || architecture == "minicpm")
    config.chat_template = "minicpm";
  else if (architecture == "qwen2")
    config.chat_template = "chatml";
  else if (language.get_string_or("tokenizer.ggml.pre", "") == "llama-bpe")
    config.chat_template = "llama3";
  else
    config.chat_template = "vicuna_v1";
  if (config.chat_template == "chatml") config.default_system = default_system_of(stored);
  config.image_layout = "bare";
  config.filler = filler_piece(language);
  if (mmproj == nullptr) return config;
  const MobileProjectorParams projector = read_projector_params(*mmproj);
  config.num_queries = projector.num_queries;
  if (projector.kind == "resampler") {
    const std::int64_t version = mmproj->get_int_or("clip.minicpmv_version", 2);
    config.image_layout = version <= 2 ? "minicpmv-2.0" : "minicpmv-2.6";
  }
  return config;
}

}  // namespace pocketvlm
