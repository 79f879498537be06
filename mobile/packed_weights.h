#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "mobile/gguf.h"
#include "mobile/thread_pool.h"

namespace pocketvlm {

/// The quantized matrices of a model in panels, which the fastest kernels read. Packing a model
/// takes as long as reading it twice, so the panels are kept in a file beside it and mapped from
/// then on: memory holds one copy of the weights, and those pages can be dropped and read again.
class PackedWeights {
 public:
  enum class Keep {
    kFile,    // beside the model, written on first use; in memory where that is impossible
    kMemory,  // packed again by each process
  };

  enum class Form {
    kExact,  // the same numbers in another order: types and row lengths that can_pack() accepts
    kInt8,   // rounded to eight bits (PackedInt8): any type that can be computed with
  };

  PackedWeights() = default;
  /// Packs `matrices` of `file`, or maps what an earlier run packed, here or on another device. The
  /// pages of the file that were read are released. `folder`: see path_of().
  PackedWeights(const GgufFile& file,
                std::span<const GgufTensor* const> matrices,
                Form form,
                Keep keep,
                ThreadPool& pool,
                const std::string& folder = "");

  /// The panels of one of the matrices.
  const std::byte* panels(const GgufTensor& matrix) const { return panels_.at(matrix.name); }
  /// Drops the pages; they are read again when touched. Nothing where they are in memory alone.
  void release() const { mapped_.release(0, mapped_.size()); }
  /// Mapped from a file, not memory of this process.
  bool from_file() const { return mapped_.size() > 0; }

  /// The file that is mapped; "" where there is none.
  const std::string& path() const { return mapped_.path(); }

  /// Where the panels of a model are kept: in `folder`, or beside the model where that is empty.
  static std::string path_of(const std::string& model_path, const std::string& folder = "");

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  struct Piece {
    const GgufTensor* matrix;
    std::size_t offset;
    std::size_t bytes;
  };
  bool map(const std::string& path, std::uint64_t key);
  bool write(const GgufFile& file, const std::string& path, std::uint64_t key, ThreadPool& pool);
  void pack_into_memory(const GgufFile& file, ThreadPool& pool);
  void point_to(const std::byte* data);

  Form form_ = Form::kExact;
  std::vector<Piece> pieces_;
  std::size_t bytes_ = 0;
  MappedFile mapped_;
  std::vector<Line> memory_;
  std::map<std::string, const std::byte*> panels_;
};

}  // namespace pocketvlm
