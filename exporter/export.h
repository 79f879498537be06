#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace pocketvlm {

struct Importance;

/// What was written.
struct ExportedFiles {
  std::string language;  // DIR/language-TYPE.gguf
  std::string mmproj;    // DIR/mmproj-TYPE.gguf
  std::int64_t language_bytes = 0;
  std::int64_t mmproj_bytes = 0;
  std::vector<std::string> llama_cpp_differences;  // what stock llama.cpp would compute otherwise, a sentence each
};

/// Streams a checkpoint folder into two GGUF files, tensor by tensor from the mapped safetensors (an 8B model passes in under
/// 2 GiB). Types and fallbacks per row length as llama.cpp has them (gguf.md sections 4, 5); q4_k_m keeps attn_v and
/// ffn_down of some layers at Q6_K. Both files are written atomically; an existing mmproj of the same type is rewritten.
/// `importance` (importance.h) steers the quantizers of the language model and is noted in its metadata as llama-quantize notes an
/// imatrix; without it blocks are byte-equal to llama-quantize's. `mark` stands before `.gguf` in both names.
ExportedFiles export_gguf(const std::string& checkpoint_folder,
                          const std::string& type,
                          const std::string& mmproj_type,
                          const std::string& folder,
                          const Importance* importance = nullptr,
                          const std::string& mark = "");

/// Of files that the parity gate has not passed (yet).
inline constexpr const char* kUncheckedMark = ".unchecked";

/// Gives files with that mark their names without it, in place of what was there.
void accept_files(ExportedFiles& files);

}  // namespace pocketvlm
