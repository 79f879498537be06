#pragma once

#include <cstdint>

/// Fused CPU kernels of the transformer, without LibTorch: raw pointers and row ranges, so that callers choose the
/// threads. One body is compiled for AVX-512, AVX2 and the compiler's default instruction set; the table for this
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

/// Rotates `heads` heads of x by position, in place or to `out`; rows are tokens.
struct Rotary {
  int64_t heads;
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

/// One new token per sequence over a shared prefix and an own tail. Items are (sequence, kv_head) pairs: item = sequence *
/// kv_heads + kv_head; sequence = prompt * samples + sample.
struct DecodeAttention {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t samples;          // sequences a prompt
  int64_t prefix_capacity;
  const int64_t* prefix_lengths;  // [prompts]
  int64_t tail;                   // keys in each tail, the new one included
  int64_t tail_capacity;
  const void* q;                  // [sequences, heads, head_dim]
  int64_t q_stride;
  const void *prefix_key, *prefix_value;  // [prompts, kv_heads, prefix_capacity, head_dim]
  const void *tail_key, *tail_value;      // [sequences, kv_heads, tail_capacity, head_dim]
  void* out;                      // [sequences, heads * head_dim]
  float scale;
  Type type;
};

struct Table {
  const char* name;
  void (*norm_forward)(const NormForward&, int64_t row_begin, int64_t row_end);
  void (*norm_backward)(const NormBackward&, int64_t block_begin, int64_t block_end);
  void (*add_branch)(const AddBranch&, int64_t begin, int64_t end);
  void (*scale_to)(const ScaleTo&, int64_t begin, int64_t end);
  void (*swiglu_forward)(const Swiglu&, int64_t row_begin, int64_t row_end);
  void (*swiglu_backward)(const Swiglu&, int64_t row_begin, int64_t row_end);
  void (*rotary)(const Rotary&, int64_t token_begin, int64_t token_end);
  int64_t (*attention_scratch)(const Attention&);  // floats a thread needs
  void (*attention_forward)(const Attention&, int64_t item_begin, int64_t item_end, float* scratch);
  void (*attention_backward)(const Attention&, int64_t item_begin, int64_t item_end, float* scratch);
  void (*log_sum_block)(const LogitBlock&, int64_t row_begin, int64_t row_end);
  void (*logit_gradient_block)(const LogitBlock&, int64_t row_begin, int64_t row_end);
  int64_t (*decode_scratch)(const DecodeAttention&);
  void (*decode_attention)(const DecodeAttention&, int64_t item_begin, int64_t item_end, float* scratch);
};

/// The fastest table this machine can run. POCKETVLM_KERNELS=portable|avx2|avx512 asks for a slower one (tests).
const Table& table();

/// Every table this machine can run, for tests.
int64_t num_tables();
const Table& table_at(int64_t index);

}  // namespace pocketvlm::kernels
