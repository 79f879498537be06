#include "exporter/gguf_language.h"

#include <algorithm>
#include <memory>
#include <set>

#include "base/error.h"

namespace pocketvlm {
namespace {

using Shape = std::vector<std::int64_t>;

/// Row of the file that holds row `row` of ours: inside a head, GGUF has the two rotary halves interleaved.
std::int64_t permuted_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, place = row % head_dim, half = head_dim / 2;
  return head * head_dim + 2 * (place % half) + place / half;
}

/// Collects tensors of one file; a buffer is shared, because only one tensor is read at a time.
class Collector {
 public:
  explicit Collector(const GgufFile& file) : file_(file) {}

  /// `head_dim` > 0: rows are in GGUF's rotary order.
  void add(const std::string& from, const std::string& to, const Shape& shape, std::int64_t head_dim = 0) {
    const GgufTensor& tensor = file_.tensor(from, Shape(shape.rbegin(), shape.rend()));
    PV_CHECK(is_supported_type(tensor.type),
             "{}: tensor {} is of type {}, which cannot be read; convert the file to q8_0 or f16",
             file_.path(),
             from,
             type_info(tensor.type).name);
    used_.insert(from);
    const auto read = [&tensor, head_dim, buffer = buffer_] {
      const std::int64_t columns = tensor.row_length(), rows = tensor.num_rows(), bytes = row_bytes(tensor.type, columns);
      buffer->resize(static_cast<std::size_t>(rows * columns));
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t source = head_dim > 0 ? permuted_row(r, head_dim) : r;
        dequantize_row(tensor.type, tensor.bytes.data() + source * bytes, columns, buffer->data() + r * columns);
      }
      return std::as_bytes(std::span(*buffer));
    };
    tensors.push_back({"language." + to, "F32", shape, read});
  }

  void check_nothing_left() const {
    for (const GgufTensor& tensor : file_.tensors()) {
      PV_CHECK(used_.count(tensor.name) != 0,
               "{}: tensor {} is no part of a plain LLaMA; this variant of the architecture is not supported",
               file_.path(),
               gguf_shown(tensor.name));
    }
  }

  std::vector<TensorToWrite> tensors;

 private:
  const GgufFile& file_;
  std::shared_ptr<std::vector<float>> buffer_ = std::make_shared<std::vector<float>>();
  std::set<std::string> used_;
};

double read_rope_scaling(const GgufFile& file) {
  const std::string kind = file.get_string_or("llama.rope.scaling.type", "none");
  if (kind == "none") return 1.0;
  PV_CHECK(kind == "linear",
           "{}: llama.rope.scaling.type \"{}\" is not supported; only \"linear\" is",
           file.path(),
           gguf_shown(kind));
  return file.get_float("llama.rope.scaling.factor");
}

}  // namespace

LanguageConfig read_gguf_language(const GgufFile& file) {
  const std::string& arch = file.get_string("general.architecture");
  PV_CHECK(arch == "llama",
           "{}: general.architecture \"{}\" is not supported; only \"llama\" is",
           file.path(),
           gguf_shown(arch));
  constexpr std::int64_t kMax = std::int64_t{1} << 20;
  LanguageConfig config;
  config.vocab = static_cast<std::int64_t>(file.get_array("tokenizer.ggml.tokens").size());
  config.hidden = file.get_int("llama.embedding_length", 1, kMax);
  config.num_layers = file.get_int("llama.block_count", 1, 1000);
  config.num_heads = file.get_int("llama.attention.head_count", 1, 1024);
  config.num_kv_heads = file.get_int_or("llama.attention.head_count_kv", config.num_heads, 1, 1024);
  const std::int64_t rotary = file.get_int_or("llama.rope.dimension_count", std::max<std::int64_t>(1, config.hidden / config.num_heads), 1, 1024);
  config.head_dim = file.get_int_or("llama.attention.key_length", rotary, 1, 1024);
  PV_CHECK(rotary == config.head_dim,
           "{}: llama.rope.dimension_count {} differs from the head's {}; partly rotated heads are not supported",
           file.path(),
           rotary,
           config.head_dim);
  config.ffn = file.get_int("llama.feed_forward_length", 1, kMax * 4);
  config.norm_eps = file.get_float("llama.attention.layer_norm_rms_epsilon");
  config.rope_theta = file.get_float_or("llama.rope.freq_base", 10000.0);
  config.rope_scaling = read_rope_scaling(file);
  config.max_positions = file.get_int("llama.context_length", 8, 1 << 24);
  config.tied_embeddings = file.find("output.weight") == nullptr;
  return config;
}

std::vector<TensorToWrite> gguf_language_tensors(const GgufFile& file, const LanguageConfig& config) {
  const std::int64_t hidden = config.hidden, ffn = config.ffn;
  const std::int64_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  Collector collector(file);
  collector.add("token_embd.weight", "embed_tokens.weight", {config.vocab, hidden});
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const std::string from = fmt::format("blk.{}.", i), to = fmt::format("layers.{}.", i);
    collector.add(from + "attn_norm.weight", to + "input_norm.weight", {hidden});
    collector.add(from + "attn_q.weight", to + "self_attn.q_proj.weight", {q, hidden}, config.head_dim);
    collector.add(from + "attn_k.weight", to + "self_attn.k_proj.weight", {kv, hidden}, config.head_dim);
    collector.add(from + "attn_v.weight", to + "self_attn.v_proj.weight", {kv, hidden});
    collector.add(from + "attn_output.weight", to + "self_attn.o_proj.weight", {hidden, q});
    collector.add(from + "ffn_norm.weight", to + "post_attention_norm.weight", {hidden});
    collector.add(from + "ffn_gate.weight", to + "mlp.gate_proj.weight", {ffn, hidden});
    collector.add(from + "ffn_up.weight", to + "mlp.up_proj.weight", {ffn, hidden});
    collector.add(from + "ffn_down.weight", to + "mlp.down_proj.weight", {hidden, ffn});
  }
  collector.add("output_norm.weight", "norm.weight", {hidden});
  if (!config.tied_embeddings) collector.add("output.weight", "lm_head.weight", {config.vocab, hidden});
  collector.check_nothing_left();
  return std::move(collector.tensors);
}

void write_gguf_vocabulary(const GgufFile& file, const std::string& path) {
  GgufWriter writer;
  writer.set_string("general.architecture", file.get_string("general.architecture"));
  for (const auto& [key, value] : file.metadata()) {
    if (key.starts_with("tokenizer.")) writer.set(key, value);
  }
  writer.write(path);
}

}  // namespace pocketvlm
