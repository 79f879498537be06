#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace pocketvlm {

/// One tensor of a safetensors file: its bytes stay in the mapped file.
struct TensorView {
  std::string dtype;                // "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F64" ...
  std::vector<std::int64_t> shape;  // row-major
  std::span<const std::byte> bytes;
};

/// Bytes of one element of a safetensors dtype. Throws Error for an unknown name.
std::size_t dtype_bytes(const std::string& dtype);

/// A safetensors file, mapped. The header is checked whole before anything is used: names unique,
/// offsets inside the file and without overlap or holes, sizes equal to dtype times shape.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }

  /// Throws Error naming the file when the tensor is missing.
  const TensorView& at(const std::string& name) const;

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// All tensors of a Hugging Face-style folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names (which may not point outside the folder).
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::string& folder);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
};

/// A tensor to be written; `bytes` is called when its turn comes, so that large models stream.
struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::function<std::span<const std::byte>()> bytes;
};

/// Writes one safetensors file atomically, in the given order.
void write_safetensors(const std::string& path,
                       const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace pocketvlm
