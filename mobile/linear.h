#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mobile/gguf.h"
#include "mobile/input_squares.h"
#include "mobile/kernels.h"
#include "mobile/thread_pool.h"

namespace pocketvlm {

/// Bytes of a weight matrix that one thread takes at a time. Results do not depend on them.
struct PieceSizes {
  std::int64_t stream = 512 * 1024;  // single tokens: the weights stream through once
  std::int64_t batch = 512 * 1024;  // many tokens: a piece is reused from the second-level cache
};

/// Told the residual stream behind each block, [rows, hidden]: "v.blk.N" of the vision encoder, "blk.N" of the decoder.
using BlockWatcher = std::function<void(const std::string& block, std::span<const float> x)>;

/// Threads and inner loops: what every part of the runtime computes with.
struct Compute {
  ThreadPool& pool;
  const Kernels& kernels;
  PieceSizes pieces = {};
  // Vision: attention, and products with weights in the file, in bfloat16 where the processor has such products.
  bool bf16_attention = false;
  bool bf16_products = false;
  // Decoder: where what its matrices read is added up, or nullptr.
  InputSquares* squares = nullptr;
  const BlockWatcher* watcher = nullptr;  // or nullptr
};

struct FreeAligned {
  void operator()(void* pointer) const { std::free(pointer); }
};

/// What matrix products read of their input.
enum class InputForm { kFloats, kEightBits, kPrompt };

/// Input rows of one or several matrix products; other forms than floats are made once, when a product first
/// needs them.
class Activations {
 public:
  /// values  [tokens, columns], one after the other; must outlive this
  Activations(const Compute& compute,
              const float* values,
              std::int64_t tokens,
              std::int64_t columns);
  /// Without values: set_columns brings them, and only this form of them is kept.
  Activations(const Compute& compute, std::int64_t tokens, std::int64_t columns, InputForm form);
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;

  /// From now on these values; forms of them are made again, in the same memory.
  void read(const float* values, std::int64_t columns);
  /// The same for values that set_columns brings.
  void clear();
  /// Columns [first, first + count) from `values` [tokens, count]; whole blocks of 32 but for floats.
  /// Thread-safe for different columns.
  void set_columns(std::int64_t first, std::int64_t count, const float* values);

  const MatmulInput& floats() const { return input_; }
  const MatmulInput& quantized();
  const PromptInput& prompt();
  const Int8Input& int8();
  std::int64_t tokens() const { return input_.tokens; }
  /// What set_columns keeps.
  InputForm form() const { return form_; }

 private:
  void make_room();
  void make_prompt_room();
  QuantizedRow quantized_row(std::int64_t token, std::int64_t column);

  const Compute& compute_;
  MatmulInput input_;
  InputForm form_ = InputForm::kFloats;
  std::vector<float> own_values_;
  std::vector<std::int8_t> quants_;
  std::vector<float> scales_;
  std::vector<float> sums16_;
  std::vector<float> sums32_;
  PromptInput prompt_;
  std::unique_ptr<void, FreeAligned> tiles_;
  std::int64_t tiles_bytes_ = 0;
  Int8Input int8_;
};

/// A weight matrix in the mapped file, used in place, and its bias.
class MobileLinear {
 public:
  MobileLinear() = default;
  /// `name`.weight [in, out], and `name`.bias [out] where `with_bias`. Throws Error when missing or
  /// of other sizes.
  MobileLinear(const GgufFile& file,
               const std::string& name,
               std::int64_t in,
               std::int64_t out,
               bool with_bias);
  /// A tensor under its full name, of any shape that holds out rows of in values (convolutions).
  static MobileLinear from_tensor(const GgufFile& file,
                                  const std::string& name,
                                  std::int64_t in,
                                  std::int64_t out);

  /// y [tokens, out] = x W^T + bias, y_stride floats from row to row.
  void forward(const Compute& compute, Activations& x, float* y, std::int64_t y_stride) const;
  /// The same on a plain buffer.
  std::vector<float> forward(const Compute& compute, const float* x, std::int64_t tokens) const;

  /// Rows [begin, end) alone, for callers that share out pieces themselves: whole groups of
  /// kRowGroup, but for the last. `prepare` comes first, outside of the loop over the threads.
  ///   y  [tokens, end - begin], y_stride floats from row to row
  void prepare(const Compute& compute, Activations& x) const;
  void forward_rows(const Compute& compute,
                    Activations& x,
                    std::int64_t begin,
                    std::int64_t end,
                    float* y,
                    std::int64_t y_stride) const;
  /// What this product reads of so many tokens; not for eight bits by use_int8_panels.
  InputForm input_form(const Compute& compute, std::int64_t tokens) const;
  /// Rows that one thread takes at a time.
  std::int64_t rows_per_piece(const Compute& compute, std::int64_t tokens) const;
  static constexpr std::int64_t kRowGroup = 32;  // two panels

  /// The same for several matrices that read one input, in one loop over the threads.
  struct Output {
    const MobileLinear* linear;
    float* y;  // [tokens, out]
  };
  static void forward_all(const Compute& compute,
                          Activations& x,
                          std::initializer_list<Output> outputs);

  /// From now on the weights are read from these panels (packed_weights.h).
  void use_panels(const std::byte* panels) { panels_ = panels; }
  /// The same for panels of eight bits made of this matrix: inputs are rounded to eight bits, too.
  void use_int8_panels(const std::byte* panels) { int8_panels_ = panels; }

  /// Products read the tensor in the file, not panels made of it.
  bool reads_file() const { return panels_ == nullptr && int8_panels_ == nullptr; }

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }
  GgmlType type() const { return type_; }
  const std::byte* row(std::int64_t index) const;

 private:
  const std::byte* data_ = nullptr;
  GgmlType type_ = GgmlType::kF32;
  std::int64_t in_ = 0;
  std::int64_t out_ = 0;
  std::int64_t row_bytes_ = 0;
  const std::byte* panels_ = nullptr;
  const std::byte* int8_panels_ = nullptr;
  std::vector<float> bias_;
};

/// A matrix of a model and the name of its tensor.
struct NamedLinear {
  std::string tensor;
  MobileLinear* linear;
};

/// A 1-D tensor (norm weight, bias) as floats. Throws Error when missing or not of `size` values.
std::vector<float> read_vector(const GgufFile& file, const std::string& name, std::int64_t size);

/// Any tensor, dequantized: [rows, row length]. For small tables.
std::vector<float> read_floats(const GgufFile& file, const std::string& name);

/// LayerNorm or, without bias, RMSNorm weights.
struct MobileNorm {
  std::vector<float> weight;
  std::vector<float> bias;  // empty: RMSNorm
  float eps = 0.0F;

  MobileNorm() = default;
  MobileNorm(
      const GgufFile& file, const std::string& name, std::int64_t size, float eps, bool with_bias);
  /// x, y [tokens, size]; y may be x.
  void forward(const Compute& compute, const float* x, std::int64_t tokens, float* y) const;
};

}  // namespace pocketvlm
