#include "exporter/export.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/config.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "data/preprocess/gguf_vocabulary.h"
#include "data/preprocess/sentencepiece_bpe.h"
#include "data/preprocess/tokenizer.h"
#include "exporter/chat_templates.h"
#include "exporter/importance.h"
#include "exporter/stock_vision.h"
#include "exporter/tensor_types.h"
#include "mobile/gguf.h"
#include "mobile/positions.h"
#include "model/config.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, TensorView>;

/// Elements converted and quantized in one go by all threads; bounds the memory of an export.
constexpr std::int64_t kChunkElements = std::int64_t{1} << 22;

/// Element i of a tensor as float32.
void read_floats(const TensorView& tensor, std::int64_t begin, std::int64_t count, float* out) {
  const std::byte* bytes = tensor.bytes.data() + begin * static_cast<std::int64_t>(dtype_bytes(tensor.dtype));
  if (tensor.dtype == "F32") {
    std::memcpy(out, bytes, static_cast<std::size_t>(count) * 4);
    return;
  }
  const auto* words = reinterpret_cast<const std::uint16_t*>(bytes);
  const bool half = tensor.dtype == "F16";
  PV_CHECK(half || tensor.dtype == "BF16", "export: weights of dtype {} are not supported; save them as F32, F16 or BF16", tensor.dtype);
  for (std::int64_t i = 0; i < count; ++i) out[i] = half ? half_to_float(words[i]) : bfloat16_to_float(words[i]);
}

/// How rows of the source become rows of the file.
struct RowSource {
  const TensorView* tensor = nullptr;
  std::int64_t row_length = 0;
  std::int64_t num_rows = 0;
  float factor = 1.0F;
  std::int64_t permuted_heads = 0;  // > 0: rotary halves become pairs inside each head (gguf.md 2)
  bool transposed = false;          // the file's row is the source's column
  const float* importance = nullptr;  // [row_length]

  std::int64_t source_row(std::int64_t row) const {
    if (permuted_heads == 0) return row;
    const std::int64_t head_dim = num_rows / permuted_heads;
    const std::int64_t head = row / head_dim, place = row % head_dim;
    return head * head_dim + (place % 2) * (head_dim / 2) + place / 2;
  }

  void read(std::int64_t row, float* out) const {
    if (transposed) {
      for (std::int64_t i = 0; i < row_length; ++i) read_floats(*tensor, i * num_rows + row, 1, out + i);
    } else {
      read_floats(*tensor, source_row(row) * row_length, row_length, out);
    }
    if (factor != 1.0F) {
      for (std::int64_t i = 0; i < row_length; ++i) out[i] *= factor;
    }
  }
};

/// Tells the system that mapped bytes will not be read again, so that an export needs no more memory than a piece of one tensor.
void drop_pages(const std::byte* begin, std::int64_t bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const std::uintptr_t last = (reinterpret_cast<std::uintptr_t>(begin) + static_cast<std::uintptr_t>(bytes)) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

/// Quantizes rows in parallel and hands them on in order.
void write_rows(const RowSource& source, GgmlType type, const GgufWriter::Sink& sink) {
  const std::int64_t bytes_per_row = row_bytes(type, source.row_length);
  const std::int64_t rows_per_chunk = std::max<std::int64_t>(1, kChunkElements / source.row_length);
  const auto num_threads = static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::byte> chunk;
  for (std::int64_t begin = 0; begin < source.num_rows; begin += rows_per_chunk) {
    const std::int64_t rows = std::min(rows_per_chunk, source.num_rows - begin);
    chunk.resize(static_cast<std::size_t>(rows * bytes_per_row));
    const auto work = [&](std::int64_t first, std::int64_t last) {
      std::vector<float> row(static_cast<std::size_t>(source.row_length));
      for (std::int64_t r = first; r < last; ++r) {
        source.read(begin + r, row.data());
        quantize_row(type, row.data(), source.row_length, chunk.data() + r * bytes_per_row, source.importance);
      }
    };
    if (rows * source.row_length < (1 << 16) || num_threads == 1) {
      work(0, rows);
    } else {
      std::vector<std::jthread> threads;
      for (std::int64_t t = 0; t < num_threads; ++t) {
        threads.emplace_back(work, rows * t / num_threads, rows * (t + 1) / num_threads);
      }
    }
    sink(chunk);
    if (!source.transposed) {
      const std::int64_t row = source.row_length * static_cast<std::int64_t>(dtype_bytes(source.tensor->dtype));
      drop_pages(source.tensor->bytes.data() + begin * row, rows * row);
    }
  }
}

/// How a tensor is laid out in the file, beside its name.
struct TensorForm {
  std::vector<std::int64_t> ne;  // empty: the reversed shape of the source
  float factor = 1.0F;
  std::int64_t permuted_heads = 0;
  bool transposed = false;
};

/// One GGUF file in the making: finds source tensors by name and declares them under GGUF's names.
class FileBuilder {
 public:
  FileBuilder(const Tensors& tensors, std::string where, const Importance* importance = nullptr)
      : tensors_(tensors), where_(std::move(where)), importance_(importance) {}

  GgufWriter& writer() { return writer_; }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  void add(const std::string& target, const std::string& name, GgmlType type, TensorForm form = {}) {
    const auto found = tensors_.find(name);
    PV_CHECK(found != tensors_.end(), "{}: the tensor {} is missing", where_, name);
    const TensorView& view = found->second;
    std::vector<std::int64_t> ne = form.ne;
    if (ne.empty()) ne.assign(view.shape.rbegin(), view.shape.rend());
    if (form.transposed) std::swap(ne[0], ne[1]);
    std::int64_t elements = 1;
    for (const std::int64_t n : ne) elements *= n;
    PV_CHECK(elements * static_cast<std::int64_t>(dtype_bytes(view.dtype)) == static_cast<std::int64_t>(view.bytes.size()),
             "{}: the tensor {} does not have the size that config.json says", where_, name);
    const float* importance = importance_ != nullptr ? importance_->find(target, ne[0]) : nullptr;
    const RowSource source{&view, ne[0], elements / ne[0], form.factor, form.permuted_heads, form.transposed, importance};
    writer_.add_tensor(target, type, ne, [source, type](const GgufWriter::Sink& sink) { write_rows(source, type, sink); });
  }

  /// `.weight` with its matrix type and, where the source has one, `.bias` in F32.
  void add_linear(const std::string& target, const std::string& name, GgmlType type, TensorForm form = {}) {
    const GgmlType stored = fitting_type(type, row_length(name + ".weight"));
    add(target + ".weight", name + ".weight", stored, form);
    if (has(name + ".bias")) {
      form.ne.clear();
      form.transposed = false;
      add(target + ".bias", name + ".bias", GgmlType::kF32, form);
    }
  }

  void add_norm(const std::string& target, const std::string& name) {
    add(target + ".weight", name + ".weight", GgmlType::kF32);
    if (has(name + ".bias")) add(target + ".bias", name + ".bias", GgmlType::kF32);
  }

  /// A tensor of values that are computed: [rows, ne[0]], rows one after the other.
  void add_values(const std::string& target, GgmlType type, const std::vector<std::int64_t>& ne, std::vector<float> values) {
    writer_.add_tensor(target, type, ne, [type, length = ne[0], values = std::move(values)](const GgufWriter::Sink& sink) {
      std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(type, length)));
      for (std::size_t begin = 0; begin < values.size(); begin += static_cast<std::size_t>(length)) {
        quantize_row(type, &values[begin], length, row.data());
        sink(row);
      }
    });
  }

  /// A whole tensor of the checkpoint as float32.
  std::vector<float> floats(const std::string& name) const {
    const auto found = tensors_.find(name);
    PV_CHECK(found != tensors_.end(), "{}: the tensor {} is missing", where_, name);
    std::vector<float> values(found->second.bytes.size() / dtype_bytes(found->second.dtype));
    read_floats(found->second, 0, static_cast<std::int64_t>(values.size()), values.data());
    return values;
  }

  std::int64_t row_length(const std::string& name) const {
    const auto found = tensors_.find(name);
    PV_CHECK(found != tensors_.end() && !found->second.shape.empty(), "{}: the tensor {} is missing", where_, name);
    return found->second.shape.back();
  }

 private:
  const Tensors& tensors_;
  std::string where_;
  const Importance* importance_;
  GgufWriter writer_;
};

std::uint32_t u32(std::int64_t value) { return static_cast<std::uint32_t>(value); }

void set_shared_configs(GgufWriter& writer, const ModelConfig& config) {
  writer.set_string("pocketvlm.image_config", config_to_json(config.image).dump());
  writer.set_string("pocketvlm.prompt_config", config_to_json(config.prompt).dump());
}

/// llama.cpp's name for the graph that computes this decoder.
std::string architecture(const LanguageConfig& language, const std::string& where) {
  const bool scaled = language.scale_embeddings != 1.0 || language.scale_residual != 1.0 || language.scale_logits != 1.0;
  PV_CHECK(!(language.qkv_bias && scaled), "{}: no GGUF architecture has both qkv_bias and MiniCPM's scales", where);
  if (language.qkv_bias) return "qwen2";
  return scaled ? "minicpm" : "llama";
}

/// Whether every chat begins with a special piece, so that sentencepiece's prefix is never written.
bool begins_with_special(const Vocabulary& vocabulary, const PromptConfig& prompt) {
  if (prompt.chat_template == "chatml" || prompt.chat_template == "llama3") return true;
  if (prompt.chat_template != "minicpm" || !prompt.default_system.empty()) return false;
  const auto marker = std::find(vocabulary.pieces.begin(), vocabulary.pieces.end(), "<\xe7\x94\xa8\xe6\x88\xb7>");
  if (marker == vocabulary.pieces.end()) return false;
  const TokenType type = vocabulary.types[static_cast<std::size_t>(marker - vocabulary.pieces.begin())];
  return type == TokenType::kUserDefined || type == TokenType::kControl;
}

void set_tokenizer(GgufWriter& writer, const Vocabulary& vocabulary, const ModelConfig& config, const std::string& where) {
  const auto size = static_cast<std::size_t>(config.language.vocab);
  PV_CHECK(vocabulary.pieces.size() <= size, "{}: the tokenizer has {} pieces, the embedding only {} rows", where,
           vocabulary.pieces.size(), size);
  std::vector<std::string> pieces = vocabulary.pieces;
  std::vector<float> scores = vocabulary.scores;
  std::vector<std::int32_t> types;
  for (const TokenType type : vocabulary.types) {
    std::string& piece = pieces[types.size()];
    types.push_back(static_cast<std::int32_t>(type));
    if (type != TokenType::kUserDefined || vocabulary.model != "llama") continue;
    // GGUF spells user-defined pieces with real spaces.
    for (std::size_t at = piece.find(kSpaceMark); at != piece.npos; at = piece.find(kSpaceMark)) piece.replace(at, kSpaceMark.size(), " ");
  }
  while (pieces.size() < size) {  // rows of the embedding that no piece uses
    pieces.push_back(fmt::format("[PAD{}]", pieces.size()));
    types.push_back(static_cast<std::int32_t>(TokenType::kUnused));
    if (!scores.empty()) scores.push_back(-10000.0F);
  }
  writer.set_string("tokenizer.ggml.model", vocabulary.model);
  writer.set_string("tokenizer.ggml.pre", vocabulary.pre.empty() ? "default" : vocabulary.pre);
  writer.set_strings("tokenizer.ggml.tokens", std::move(pieces));
  if (!scores.empty()) writer.set_float32s("tokenizer.ggml.scores", scores);
  writer.set_int32s("tokenizer.ggml.token_type", types);
  if (!vocabulary.merges.empty()) writer.set_strings("tokenizer.ggml.merges", vocabulary.merges);
  const auto set_id = [&](const char* key, std::int32_t id) {
    if (id >= 0) writer.set_uint32(key, static_cast<std::uint32_t>(id));
  };
  set_id("tokenizer.ggml.bos_token_id", vocabulary.bos_id);
  set_id("tokenizer.ggml.eos_token_id", vocabulary.eos_id);
  set_id("tokenizer.ggml.unknown_token_id", vocabulary.unk_id);
  set_id("tokenizer.ggml.padding_token_id", vocabulary.pad_id);
  writer.set_bool("tokenizer.ggml.add_bos_token", config.prompt.chat_template != "chatml");
  writer.set_bool("tokenizer.ggml.add_eos_token", false);
  if (vocabulary.model == "llama") {
    writer.set_bool("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix && !begins_with_special(vocabulary, config.prompt));
    writer.set_bool(kGgufSpacePrefixKey, vocabulary.add_space_prefix);
  }
  if (vocabulary.model == "gpt2") writer.set_bool(kGgufNfcKey, vocabulary.nfc);
  if (vocabulary.model == "gpt2") writer.set_bool(kGgufWholeWordsKey, vocabulary.whole_words);
  const std::string jinja = chat_template_jinja(config.prompt);
  if (!jinja.empty()) writer.set_string("tokenizer.chat_template", jinja);
}

void build_language(FileBuilder& file, const ModelConfig& config, const Vocabulary& vocabulary, const std::string& type, const std::string& where) {
  const LanguageConfig& language = config.language;
  const std::string arch = architecture(language, where);
  GgufWriter& writer = file.writer();
  writer.set_string("general.architecture", arch);
  writer.set_string("general.type", "model");
  writer.set_string("general.name", config.family);
  writer.set_uint32("general.file_type", file_type_number(type));
  writer.set_uint32("general.quantization_version", 2);
  const auto key = [&](const char* name) { return arch + "." + name; };
  writer.set_uint32(key("context_length"), u32(language.max_positions));
  writer.set_uint32(key("embedding_length"), u32(language.hidden));
  writer.set_uint32(key("block_count"), u32(language.num_layers));
  writer.set_uint32(key("feed_forward_length"), u32(language.ffn));
  writer.set_uint32(key("attention.head_count"), u32(language.num_heads));
  writer.set_uint32(key("attention.head_count_kv"), u32(language.num_kv_heads));
  writer.set_float32(key("attention.layer_norm_rms_epsilon"), static_cast<float>(language.norm_eps));
  writer.set_float32(key("rope.freq_base"), static_cast<float>(language.rope_theta));
  writer.set_uint32(key("rope.dimension_count"), u32(language.head_dim));
  if (language.head_dim * language.num_heads != language.hidden) {
    writer.set_uint32(key("attention.key_length"), u32(language.head_dim));
    writer.set_uint32(key("attention.value_length"), u32(language.head_dim));
  }
  if (language.rope_scaling != 1.0) {
    writer.set_string(key("rope.scaling.type"), "linear");
    writer.set_float32(key("rope.scaling.factor"), static_cast<float>(language.rope_scaling));
  }
  writer.set_uint32(key("vocab_size"), u32(language.vocab));
  if (arch == "minicpm") {  // absent keys would mean MiniCPM-2B's values
    writer.set_float32(key("embedding_scale"), static_cast<float>(language.scale_embeddings));
    writer.set_float32(key("residual_scale"), static_cast<float>(language.scale_residual));
    writer.set_float32(key("logit_scale"), static_cast<float>(language.scale_logits));
  }
  set_tokenizer(writer, vocabulary, config, where);
  set_shared_configs(writer, config);

  const TypePlan plan(type, language.num_layers);
  const auto matrix = [&](const std::string& target, const std::string& source, MatrixRole role, std::int64_t layer, std::int64_t heads) {
    TensorForm form;
    form.permuted_heads = heads;
    file.add_linear(target, source, plan.type_of(role, layer), form);
  };
  matrix("token_embd", "language.embed_tokens", language.tied_embeddings ? MatrixRole::kOutput : MatrixRole::kEmbedding, 0, 0);
  file.add_norm("output_norm", "language.norm");
  if (!language.tied_embeddings) matrix("output", "language.lm_head", MatrixRole::kOutput, 0, 0);
  const bool pairs = arch != "qwen2";
  for (std::int64_t i = 0; i < language.num_layers; ++i) {
    const std::string to = fmt::format("blk.{}.", i), from = fmt::format("language.layers.{}.", i);
    file.add_norm(to + "attn_norm", from + "input_norm");
    matrix(to + "attn_q", from + "self_attn.q_proj", MatrixRole::kOther, i, pairs ? language.num_heads : 0);
    matrix(to + "attn_k", from + "self_attn.k_proj", MatrixRole::kOther, i, pairs ? language.num_kv_heads : 0);
    matrix(to + "attn_v", from + "self_attn.v_proj", MatrixRole::kAttentionValue, i, 0);
    matrix(to + "attn_output", from + "self_attn.o_proj", MatrixRole::kOther, i, 0);
    file.add_norm(to + "ffn_norm", from + "post_attention_norm");
    matrix(to + "ffn_gate", from + "mlp.gate_proj", MatrixRole::kOther, i, 0);
    matrix(to + "ffn_up", from + "mlp.up_proj", MatrixRole::kOther, i, 0);
    matrix(to + "ffn_down", from + "mlp.down_proj", MatrixRole::kFeedForwardDown, i, 0);
  }
}

/// Positions of the queries are worked into the weights, for libmtmd and the phone alike.
bool has_stock_queries(const ModelConfig& config) {
  return config.projector.kind == "resampler" && config.projector.positions == "key_and_query" &&
         2 * config.projector.num_queries <= config.language.hidden;
}

void set_vision_metadata(GgufWriter& writer, const ModelConfig& config, const std::string& type) {
  const VisionConfig& vision = config.vision;
  writer.set_string("general.architecture", "clip");
  writer.set_string("general.type", "mmproj");
  writer.set_string("general.name", config.family);
  writer.set_uint32("general.file_type", file_type_number(type));
  writer.set_bool("clip.has_vision_encoder", true);
  writer.set_string("clip.projector_type", config.projector.kind);
  const std::int64_t image_size = config.image.mode == "slices" ? config.image.scale_resolution : config.image.image_size;
  writer.set_uint32("clip.vision.image_size", u32(image_size));
  writer.set_uint32("clip.vision.patch_size", u32(config.image.patch_size));
  writer.set_uint32("clip.vision.embedding_length", u32(vision.hidden));
  writer.set_uint32("clip.vision.feed_forward_length", u32(vision.ffn));
  writer.set_uint32("clip.vision.block_count", u32(vision.num_layers));
  writer.set_uint32("clip.vision.projection_dim", u32(config.language.hidden));
  writer.set_uint32("clip.vision.attention.head_count", u32(vision.num_heads));
  writer.set_float32("clip.vision.attention.layer_norm_epsilon", static_cast<float>(vision.norm_eps));
  const auto floats = [](const std::vector<double>& values) { return std::vector<float>(values.begin(), values.end()); };
  writer.set_float32s("clip.vision.image_mean", floats(config.image.mean));
  writer.set_float32s("clip.vision.image_std", floats(config.image.std));
  writer.set_bool("clip.use_gelu", vision.activation != "quick_gelu");
  if (config.projector.kind == "resampler") {
    // 2 and 3 differ by the token layout alone; the query count is always written.
    writer.set_int32("clip.minicpmv_version", config.prompt.image_layout == "minicpmv-2.6" ? 3 : 2);
    writer.set_uint32("clip.minicpmv_query_num", u32(config.projector.num_queries));
  } else {
    // Without it the graph stops one block early, at the last but one of those in the file.
    writer.set_int32s("clip.vision.feature_layer", {static_cast<std::int32_t>(vision.num_layers)});
  }
  const bool strips = vision.strip_quirk && config.compat == "released";
  writer.set_string("pocketvlm.vision.positions", strips ? "strips" : vision.positions);
  writer.set_string("pocketvlm.vision.activation", vision.activation);
  writer.set_string("pocketvlm.projector.positions", has_stock_queries(config) ? "key" : config.projector.positions);
  writer.set_string("pocketvlm.projector.activation", "gelu_erf");
  writer.set_uint32("pocketvlm.projector.heads", u32(config.projector.num_heads));
  writer.set_float32("pocketvlm.projector.norm_epsilon", static_cast<float>(config.projector.norm_eps));
  set_shared_configs(writer, config);
}

/// The table that libmtmd reads, beside the model's own.
void add_stock_positions(FileBuilder& file, const ModelConfig& config) {
  const std::int64_t hidden = config.vision.hidden, nominal = config.image.scale_resolution / config.image.patch_size;
  std::int64_t side = config.vision.position_side;
  std::vector<float> table = file.floats("vision_encoder.position_embedding");
  if (config.vision.class_token) table.erase(table.begin(), table.begin() + hidden);
  if (config.vision.positions == "interpolated") {
    table = resample_positions_antialiased(table, side, hidden, nominal, nominal);
    side = nominal;
  }
  file.add_values("v.position_embd.weight", GgmlType::kF32, {hidden, kStockPositionSide * kStockPositionSide},
                  stock_position_table(table, side, hidden, nominal));
}

void add_vision_tensors(FileBuilder& file, const ModelConfig& config, GgmlType type) {
  const std::int64_t patch = config.image.patch_size;
  // The convolution kernel is never quantized, as in llama.cpp.
  const GgmlType kernel = type == GgmlType::kF32 ? GgmlType::kF32 : GgmlType::kF16;
  file.add("v.patch_embd.weight", "vision_encoder.patch_embedding.weight", kernel,
           {{patch, patch, 3, config.vision.hidden}, 1.0F, 0, false});
  if (config.vision.patch_bias) file.add("v.patch_embd.bias", "vision_encoder.patch_embedding.bias", GgmlType::kF32);
  if (config.vision.class_token) {
    file.add("v.class_embd", "vision_encoder.class_embedding", GgmlType::kF32, {{config.vision.hidden}, 1.0F, 0, false});
  }
  if (needs_stock_positions(config)) {
    file.add("pocketvlm.position_embd.weight", "vision_encoder.position_embedding", GgmlType::kF32);
    add_stock_positions(file, config);
  } else {
    file.add("v.position_embd.weight", "vision_encoder.position_embedding", GgmlType::kF32);
  }
  if (config.vision.pre_norm) file.add_norm("v.pre_ln", "vision_encoder.pre_norm");
  for (std::int64_t i = 0; i < config.vision.num_layers; ++i) {
    const std::string to = fmt::format("v.blk.{}.", i), from = fmt::format("vision_encoder.blocks.{}.", i);
    file.add_norm(to + "ln1", from + "norm1");
    file.add_linear(to + "attn_q", from + "attn.q_proj", type);
    file.add_linear(to + "attn_k", from + "attn.k_proj", type);
    file.add_linear(to + "attn_v", from + "attn.v_proj", type);
    file.add_linear(to + "attn_out", from + "attn.out_proj", type);
    file.add_norm(to + "ln2", from + "norm2");
    file.add_linear(to + "ffn_up", from + "mlp.fc1", type);
    file.add_linear(to + "ffn_down", from + "mlp.fc2", type);
  }
  if (config.vision.final_norm) file.add_norm("v.post_ln", "vision_encoder.final_norm");
}

void add_stock_queries(FileBuilder& file, const ModelConfig& config, GgmlType type) {
  const std::int64_t hidden = config.language.hidden, queries = config.projector.num_queries;
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(queries))));
  PV_CHECK(side * side == queries, "export: {} queries with positions are no square", queries);
  const StockQueries own{file.floats("projector.query"), file.floats("projector.norm_q.weight"), file.floats("projector.norm_q.bias"),
                         file.floats("projector.attn.q_proj.weight"), file.floats("projector.attn.q_proj.bias")};
  // A release stores these positions rounded to its type, and its weights were trained with them so.
  const char* stored = "projector.query_positions";
  StockQueries stock = stock_queries(own, file.has(stored) ? file.floats(stored) : sincos_table(side, side, hidden), config.projector.norm_eps);
  file.add_values("resampler.query", GgmlType::kF32, {hidden, queries}, std::move(stock.query));
  file.add_values("resampler.ln_q.weight", GgmlType::kF32, {hidden}, std::move(stock.norm_weight));
  file.add_values("resampler.ln_q.bias", GgmlType::kF32, {hidden}, std::move(stock.norm_bias));
  file.add_values("resampler.attn.q.weight", fitting_type(type, hidden), {hidden, hidden}, std::move(stock.weight));
  file.add_values("resampler.attn.q.bias", GgmlType::kF32, {hidden}, std::move(stock.bias));
}

void add_resampler_tensors(FileBuilder& file, const ModelConfig& config, GgmlType type) {
  if (has_stock_queries(config)) {
    add_stock_queries(file, config, type);
  } else {
    file.add("resampler.query", "projector.query", GgmlType::kF32);
    file.add_norm("resampler.ln_q", "projector.norm_q");
    file.add_linear("resampler.attn.q", "projector.attn.q_proj", type);
  }
  file.add_linear("resampler.kv", "projector.kv_proj", type);
  for (const char* part : {"k", "v", "out"}) {
    file.add_linear(fmt::format("resampler.attn.{}", part), fmt::format("projector.attn.{}_proj", part), type);
  }
  file.add_norm("resampler.ln_kv", "projector.norm_kv");
  file.add_norm("resampler.ln_post", "projector.norm_post");
  TensorForm form;
  form.transposed = true;  // the model computes x @ proj
  // llama.cpp multiplies visual embeddings by the embedding scale as well; the models do not.
  form.factor = static_cast<float>(1.0 / config.language.scale_embeddings);
  file.add("resampler.proj.weight", "projector.proj", fitting_type(type, config.language.hidden), form);
  // A release stores the positions of its queries rounded to its type, and its weights were trained with them so.
  if (file.has("projector.query_positions") && !has_stock_queries(config)) file.add(kQueryPositionsTensor, "projector.query_positions", GgmlType::kF32);
  // llama.cpp demands this table but computes positions itself; so do we.
  const std::int64_t side = kStockPositionSide, hidden = config.language.hidden;
  file.writer().add_tensor("resampler.pos_embed_k", GgmlType::kF16, {hidden, side * side}, [side, hidden](const GgufWriter::Sink& sink) {
    std::vector<std::uint16_t> row(static_cast<std::size_t>(hidden));
    for (std::int64_t place = 0; place < side * side; ++place) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        const std::int64_t quarter = hidden / 4;
        const double position = static_cast<double>(i < hidden / 2 ? place % side : place / side);
        const double angle = position * std::pow(10000.0, -static_cast<double>(i % quarter) / static_cast<double>(quarter));
        row[static_cast<std::size_t>(i)] = float_to_half(static_cast<float>(i / quarter % 2 == 0 ? std::sin(angle) : std::cos(angle)));
      }
      sink(std::as_bytes(std::span(row)));
    }
  });
}

void add_mobile_projector_tensors(FileBuilder& file, const ModelConfig& config, GgmlType type) {
  const std::int64_t hidden = config.language.hidden;
  const GgmlType kernel = type == GgmlType::kF32 ? GgmlType::kF32 : GgmlType::kF16;
  const TensorForm depthwise{{3, 3, 1, hidden}, 1.0F, 0, false};
  if (config.projector.kind == "mlp") {
    file.add_linear("mm.0", "projector.mlp.0", type);
    file.add_linear("mm.2", "projector.mlp.2", type);
  } else if (config.projector.kind == "ldpv2") {
    file.add_linear("mm.model.mlp.0", "projector.mlp.0", type);
    file.add_linear("mm.model.mlp.2", "projector.mlp.2", type);
    file.add("mm.model.peg.0.weight", "projector.peg.weight", kernel, depthwise);
    file.add("mm.model.peg.0.bias", "projector.peg.bias", GgmlType::kF32);
  } else {
    file.add_linear("mm.model.mlp.1", "projector.mlp.0", type);
    file.add_linear("mm.model.mlp.3", "projector.mlp.2", type);
    for (int i = 0; i < 2; ++i) {
      const std::string to = fmt::format("mm.model.mb_block.{}.block.", i + 1), from = fmt::format("projector.blocks.{}.", i);
      file.add(to + "0.0.weight", from + "depthwise.weight", kernel, depthwise);
      file.add_norm(to + "0.1", from + "norm1");
      file.add(to + "1.fc1.weight", from + "se.fc1.weight", fitting_type(type, hidden), {{hidden, hidden / 4}, 1.0F, 0, false});
      file.add(to + "1.fc1.bias", from + "se.fc1.bias", GgmlType::kF32);
      file.add(to + "1.fc2.weight", from + "se.fc2.weight", fitting_type(type, hidden / 4), {{hidden / 4, hidden}, 1.0F, 0, false});
      file.add(to + "1.fc2.bias", from + "se.fc2.bias", GgmlType::kF32);
      file.add(to + "2.0.weight", from + "pointwise.weight", fitting_type(type, hidden), {{hidden, hidden}, 1.0F, 0, false});
      file.add_norm(to + "2.1", from + "norm2");
    }
  }
}

Vocabulary read_vocabulary(const fs::path& checkpoint) {
  return Tokenizer::load((checkpoint / "tokenizer.model").string()).vocabulary();
}

}  // namespace

ExportedFiles export_gguf(const std::string& checkpoint_folder,
                          const std::string& type,
                          const std::string& mmproj_type,
                          const std::string& folder,
                          const Importance* importance,
                          const std::string& mark) {
  const fs::path checkpoint(checkpoint_folder);
  const std::string config_path = (checkpoint / "config.json").string();
  const Json json = read_json(config_path);
  PV_CHECK(json.is_object() && json.contains("model"), "{}: no \"model\" in it; is this a checkpoint of pocketvlm?", config_path);
  const auto config = read_config<ModelConfig>(json["model"], config_path + ": model");
  PV_CHECK(config.projector.kind == "resampler" || config.language.scale_embeddings == 1.0,
           "{}: projector.kind {} with scale_embeddings {} has no GGUF form", config_path, config.projector.kind,
           config.language.scale_embeddings);
  const SafetensorsFolder weights(checkpoint_folder);
  make_folders(folder);

  ExportedFiles files;
  files.language = (fs::path(folder) / ("language-" + type + mark + ".gguf")).string();
  files.mmproj = (fs::path(folder) / ("mmproj-" + mmproj_type + mark + ".gguf")).string();
  FileBuilder language(weights.tensors(), checkpoint_folder, importance);
  const Vocabulary vocabulary = read_vocabulary(checkpoint);
  build_language(language, config, vocabulary, type, config_path);
  if (importance != nullptr) {
    language.writer().set_string("quantize.imatrix.dataset", importance->dataset);
    language.writer().set_uint32("quantize.imatrix.entries_count", static_cast<std::uint32_t>(importance->columns.size()));
    language.writer().set_uint32("quantize.imatrix.chunks_count", static_cast<std::uint32_t>(importance->prompts));
  }
  language.writer().write(files.language);
  FileBuilder mmproj(weights.tensors(), checkpoint_folder);
  set_vision_metadata(mmproj.writer(), config, mmproj_type);
  const GgmlType matrix = TypePlan(mmproj_type, config.vision.num_layers).base();
  add_vision_tensors(mmproj, config, matrix);
  if (config.projector.kind == "resampler") {
    add_resampler_tensors(mmproj, config, matrix);
  } else {
    add_mobile_projector_tensors(mmproj, config, matrix);
  }
  mmproj.writer().write(files.mmproj);
  files.language_bytes = static_cast<std::int64_t>(fs::file_size(files.language));
  files.mmproj_bytes = static_cast<std::int64_t>(fs::file_size(files.mmproj));
  files.llama_cpp_differences = llama_cpp_differences(config);
  if (vocabulary.model == "llama" && vocabulary.add_space_prefix && config.prompt.image_layout != "bare" &&
      !begins_with_special(vocabulary, config.prompt)) {
    files.llama_cpp_differences.push_back("a space is read after every special token, so also after a picture");
  }
  return files;
}

void accept_files(ExportedFiles& files) {
  for (std::string* path : {&files.language, &files.mmproj}) {
    const std::size_t at = path->rfind(std::string(kUncheckedMark) + ".gguf");
    PV_CHECK(at != path->npos, "{}: was checked before", *path);
    const std::string name = path->substr(0, at) + ".gguf";
    fs::rename(*path, name);
    *path = name;
  }
}

}  // namespace pocketvlm
