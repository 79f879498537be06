#pragma once

#include <string>
#include <vector>

#include "base/safetensors.h"
#include "mobile/gguf.h"
#include "model/config.h"

/// The way back from GGUF: language models of arch `llama` as our tensors. LibTorch-free.
namespace pocketvlm {

/// The decoder that the metadata describe. Throws Error naming file and key for another arch, for RoPE scaling other than linear,
/// and for values that contradict each other.
LanguageConfig read_gguf_language(const GgufFile& file);

/// The tensors under our names (language.*), float32, streamed: each is dequantized when its turn comes and forgotten after. The
/// order of query and key rows that GGUF keeps for its interleaved RoPE is undone (rotary halves are (i, i + head_dim / 2) here).
/// Tensors that are missing, of other sizes, of unsupported types, or that this arch does not have are Errors naming them. `file`
/// must outlive the result.
std::vector<TensorToWrite> gguf_language_tensors(const GgufFile& file, const LanguageConfig& config);

/// Writes the vocabulary alone (the tokenizer's metadata, no tensors), in a form that Tokenizer::load reads.
void write_gguf_vocabulary(const GgufFile& file, const std::string& path);

}  // namespace pocketvlm
