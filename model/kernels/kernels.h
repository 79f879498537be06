#pragma once

#include <cstdint>

/// Fused CPU kernels of the transformer, without LibTorch: raw pointers and row ranges, so that callers choose the
/// threads. One body is compiled for AVX-512, AVX2 and the compiler's default instruction set, packed products have a form in AMX tiles; the table for this
/// machine is chosen once. No kernel's result depends on how its rows are split between threads.
namespace pocketvlm::kernels {

enum class Type { kFloat, kBfloat16 };

/// sum = x + scale * branch; y = norm(sum). Rows of `size` elements, contiguous. RMSNorm without bias, else LayerNorm.
struct NormForward {
  int64_t size;
  float eps;
  const void* x;           // x_type
  Type x_type;
  const void* branch;      // `type`, or null
  float scale;             // of the branch
  float* sum;              // written when branch is given
  const float* weight;
  const float* bias;       // null: RMSNorm
  void* y;                 // `type`
  float* mean;             // [rows]; null for RMSNorm
  float* inverse;          // [rows], 1 / standard deviation or 1 / root mean square
  Type type;
};

/// Gradients of NormForward. Rows go in blocks of kNormBlock, each with its own partial sums of the weight's and bias's
/// gradients: the total does not depend on the number of threads.
inline constexpr int64_t kNormBlock = 64;
struct NormBackward {
  int64_t rows;
  int64_t size;
  const void* x;             // the normalised sum, x_type
  Type x_type;
  const float* weight;
  const float* mean;         // null: RMSNorm
  const float* inverse;
  const void* grad_y;        // `type`
  const float* grad_sum;     // through the sum's other uses, or null
  void* grad_x;              // x_type, or null
  void* grad_branch;         // `type`, or null
  float scale;
  float* grad_weight;        // [blocks, size], or null
  float* grad_bias;          // [blocks, size], or null
  Type type;
};

/// out = x + scale * branch.
struct AddBranch {
  const float* x;
  const void* branch;  // `type`
  float scale;
  float* out;
  Type type;
};

/// out = scale * x, from float to `type`.
struct ScaleTo {
  const float* x;
  float scale;
  void* out;
  Type type;
};

/// y = silu(gate) * up; gate_up rows [2 * ffn], gate first.
struct Swiglu {
  int64_t ffn;
  const void* gate_up;
  void* y;             // forward
  const void* grad_y;  // backward
  void* grad_gate_up;
  Type type;
};

/// y = x * sigmoid(linear * x + cubic * x^3), with gradients: GELU's tanh form, and CLIP's quick GELU with cubic = 0.
struct SigmoidGate {
  float linear;
  float cubic;
  const void* x;
  void* y;             // forward
  const void* grad_y;  // backward
  void* grad_x;
  Type type;
};

/// Rotates `heads` heads of x by position, in place or to `out`; rows are tokens.
struct Rotary {
  int64_t heads;
  int64_t passed;       // heads behind them that are copied to `out` as they are; none in place
  int64_t head_dim;
  const void* x;
  int64_t x_stride;     // elements between tokens
  void* out;
  int64_t out_stride;
  const float* cosine;  // [tokens, head_dim / 2]
  const float* sine;
  bool inverse;
  Type type;
};

/// Queries that one panel of the attention kernels holds.
inline constexpr int64_t kQueryPanel = 6;

/// Attention of segments that do not see each other. Items are (segment, kv_head) pairs: item = segment * kv_heads + kv_head.
/// Head h of a token lies at h * head_dim from the token's start. A rotary table, when given, turns queries and keys on the
/// way in and their gradients on the way out.
struct Attention {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  const int64_t* q_begin;   // [segments]
  const int64_t* q_length;
  const int64_t* k_begin;
  const int64_t* k_length;
  const int64_t* q_first;   // [segments], the place among its keys of a segment's first query, whole query panels; or null: 0
  bool causal;
  float scale;
  Type type;
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;  // elements between tokens
  const float *cosine, *sine;            // [tokens, head_dim / 2], or null
  void* out;                             // [tokens, heads * head_dim]
  float* log_sum;                        // [tokens, heads]
  // Backward only.
  const void* grad_out;                  // as out
  void *grad_q, *grad_k, *grad_v;
  int64_t grad_q_stride, grad_k_stride, grad_v_stride;
  int64_t longest_k;                     // of all segments: sizes the scratch
};

/// A block of columns of the output layer: [rows, count] logits of the ids from `first_id`.
struct LogitBlock {
  int64_t count;
  int64_t stride;          // elements between rows
  int64_t first_id;
  const int64_t* targets;  // [rows]
  void* logits;            // backward overwrites them with their gradient
  float* log_sum;          // [rows], of the blocks so far (forward) or of all (backward)
  float* picked;           // [rows], the target's logit, written by the block that holds it
  const float* grad;       // [rows], of the log-probability
  Type type;
};

/// One new token for each of `rows` sequences: its key and value are written behind its tail, and it attends to its prompt's prefix, which
/// sequences share, and to its tail. Sequence = prompt * samples + sample. Items are (row, kv_head) pairs: item = row * kv_heads + kv_head.
struct DecodeAttention {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t samples;          // sequences a prompt
  int64_t prefix_capacity;
  const int64_t* prefix_lengths;  // [prompts]
  const int64_t* sequences;       // [rows]
  const int64_t* tails;           // [prompts * samples], keys in the tail of each, without the new one
  int64_t tail_capacity;
  const void *q, *k, *v;          // [rows, heads or kv_heads, head_dim]
  int64_t q_stride, k_stride, v_stride;   // elements between rows
  const void *prefix_key, *prefix_value;  // [prompts, kv_heads, prefix_capacity, head_dim]
  void *tail_key, *tail_value;            // [prompts * samples, kv_heads, tail_capacity, head_dim]
  void* out;                      // [rows, heads * head_dim]
  float scale;
  Type type;
};

/// e^(x - largest x) of one row and the sum: softmax before its division.
struct ExpRow {
  int64_t count;   // one at least
  const float* x;
  float* weights;  // [count], or null
  float* largest;
  double* total;   // of the weights
};

/// Columns of one panel of a packed weight matrix.
inline constexpr int64_t kPanelColumns = 32;
/// bfloat16 values that the panels of a [columns, depth] matrix take: whole panels, whole pairs.
inline int64_t panel_values(int64_t columns, int64_t depth) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns * ((depth + 1) / 2 * 2);
}

/// Weights in panels of columns, each panel [pairs of depth][column][2], padded with zeros: products with few rows read
/// every weight once, in order.
struct PackPanels {
  int64_t columns;     // out features
  int64_t depth;       // in features
  const void* weight;  // [columns, depth], `type`
  void* panels;        // panel_values() bfloat16
  Type type;
};

/// y = x W^T + bias; sums in float32. A row of y does not depend on how many rows there are.
struct PackedProduct {
  int64_t rows;
  int64_t depth;
  int64_t columns;
  const void* x;      // [rows, depth] bfloat16
  const void* panels;
  const float* bias;  // [columns], or null
  void* y;            // [rows, columns] bfloat16
};

struct Table {
  const char* name;
  void (*norm_forward)(const NormForward&, int64_t row_begin, int64_t row_end);
  void (*norm_backward)(const NormBackward&, int64_t block_begin, int64_t block_end);
  void (*add_branch)(const AddBranch&, int64_t begin, int64_t end);
  void (*scale_to)(const ScaleTo&, int64_t begin, int64_t end);
  void (*swiglu_forward)(const Swiglu&, int64_t row_begin, int64_t row_end);
  void (*swiglu_backward)(const Swiglu&, int64_t row_begin, int64_t row_end);
  void (*sigmoid_gate_forward)(const SigmoidGate&, int64_t begin, int64_t end);
  void (*sigmoid_gate_backward)(const SigmoidGate&, int64_t begin, int64_t end);
  void (*rotary)(const Rotary&, int64_t token_begin, int64_t token_end);
  int64_t (*attention_scratch)(const Attention&);  // floats a thread needs
  void (*attention_forward)(const Attention&, int64_t item_begin, int64_t item_end, float* scratch);
  void (*attention_backward)(const Attention&, int64_t item_begin, int64_t item_end, float* scratch);
  void (*log_sum_block)(const LogitBlock&, int64_t row_begin, int64_t row_end);
  void (*logit_gradient_block)(const LogitBlock&, int64_t row_begin, int64_t row_end);
  int64_t (*decode_scratch)(const DecodeAttention&);
  void (*decode_attention)(const DecodeAttention&, int64_t item_begin, int64_t item_end, float* scratch);
  void (*exp_row)(const ExpRow&);
  void (*pack_panels)(const PackPanels&, int64_t panel_begin, int64_t panel_end);
  void (*packed_product)(const PackedProduct&, int64_t panel_begin, int64_t panel_end);
};

/// The fastest table this machine can run. POCKETVLM_KERNELS=portable|avx2|avx512|avx512bf16 asks for a slower one (tests).
const Table& table();

/// Every table this machine can run, for tests.
int64_t num_tables();
const Table& table_at(int64_t index);

}  // namespace pocketvlm::kernels
