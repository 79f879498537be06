#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/files.h"
#include "mobile/quants.h"

namespace pocketvlm {

/// Types of metadata values; the numbers are the file format's.
enum class GgufValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

const char* gguf_value_type_name(GgufValueType type);
bool is_gguf_integer(GgufValueType type);
bool is_gguf_float(GgufValueType type);
/// A name or key for error texts: short, and without bytes that a terminal would act on.
std::string gguf_shown(std::string_view text);

/// A list of values of one type. Integers of every width are held as int64 (uint64 above its range
/// is refused), floats as double.
struct GgufArray {
  GgufValueType element_type = GgufValueType::kUint32;
  std::variant<std::vector<std::int64_t>,
               std::vector<double>,
               std::vector<bool>,
               std::vector<std::string>>
      values;
  std::size_t size() const;
};

/// One metadata value with the type that stands in the file.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint32;
  std::variant<std::int64_t, double, bool, std::string, GgufArray> value;
};

/// One tensor: `ne` lists sizes fastest first (row length, rows, ...), the reverse of a PyTorch
/// shape.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t> ne;
  std::uint64_t offset = 0;  // from the start of the data section
  std::span<const std::byte> bytes;

  std::int64_t num_elements() const;
  std::int64_t row_length() const { return ne.empty() ? 1 : ne[0]; }
  std::int64_t num_rows() const { return num_elements() / row_length(); }
};

/// A GGUF v3 file, mapped. The whole file is checked before anything is used: counts and lengths
/// against the bytes that are there, unique keys and names, UTF-8, known types, whole blocks,
/// contiguous offsets, alignment, and a data section of exactly the size that the tensors need.
/// Errors name file, place and cure.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::size_t size() const { return file_.size(); }
  const MappedFile& file() const { return file_; }
  std::uint32_t alignment() const { return alignment_; }

  /// Metadata in file order.
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  bool has(const std::string& key) const { return key_index_.count(key) != 0; }

  /// Typed reading: any integer type satisfies get_int, any float or integer get_float. Throws
  /// Error naming file and key when the key is missing, of another type or out of [low, high].
  std::int64_t get_int(const std::string& key,
                       std::int64_t low = INT64_MIN,
                       std::int64_t high = INT64_MAX) const;
  double get_float(const std::string& key) const;
  bool get_bool(const std::string& key) const;
  const std::string& get_string(const std::string& key) const;
  const GgufArray& get_array(const std::string& key) const;

  /// The same with a default for an absent key; a wrong type is still an Error.
  std::int64_t get_int_or(const std::string& key,
                          std::int64_t fallback,
                          std::int64_t low = INT64_MIN,
                          std::int64_t high = INT64_MAX) const;
  double get_float_or(const std::string& key, double fallback) const;
  bool get_bool_or(const std::string& key, bool fallback) const;
  std::string get_string_or(const std::string& key, const std::string& fallback) const;
  std::vector<double> get_floats(const std::string& key) const;

  /// Tensors in file order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(const std::string& name) const;
  const GgufTensor& tensor(const std::string& name) const;  // Error naming the file when missing
  /// Also demands these sizes.
  const GgufTensor& tensor(const std::string& name, const std::vector<std::int64_t>& ne) const;

  /// Reads every tensor and refuses NaN and infinity (also in block scales). Touches the whole
  /// file.
  void check_finite() const;

 private:
  MappedFile file_;
  std::uint32_t alignment_ = 32;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::map<std::string, std::size_t> key_index_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t> tensor_index_;

  const GgufValue& require(const std::string& key, const char* wanted) const;
};

/// Writes a GGUF v3 file, streaming: metadata in the order it is set, then tensors in the order
/// they are declared. The file appears under its name only when it is complete (written beside it,
/// synced, renamed).
///
///   GgufWriter writer;
///   writer.set_string("general.architecture", "llama");
///   writer.add_tensor("output_norm.weight", GgmlType::kF32, {hidden}, [&](const GgufWriter::Sink&
///   sink) { sink(bytes); }); writer.write(path);
class GgufWriter {
 public:
  /// Takes the next bytes of the tensor being written.
  using Sink = std::function<void(std::span<const std::byte>)>;
  /// Hands all bytes of one tensor to the sink, in as many pieces as it likes.
  using Producer = std::function<void(const Sink&)>;

  explicit GgufWriter(std::uint32_t alignment = 32);

  /// Setting a key again replaces its value and keeps its place.
  void set_uint32(const std::string& key, std::uint32_t value);
  void set_int32(const std::string& key, std::int32_t value);
  void set_uint64(const std::string& key, std::uint64_t value);
  void set_float32(const std::string& key, float value);
  void set_bool(const std::string& key, bool value);
  void set_string(const std::string& key, const std::string& value);
  void set_strings(const std::string& key, std::vector<std::string> values);
  void set_float32s(const std::string& key, const std::vector<float>& values);
  void set_int32s(const std::string& key, const std::vector<std::int32_t>& values);
  void set(const std::string& key, GgufValue value);

  /// Declares a tensor; ne fastest first, 1 to 4 sizes, ne[0] in whole blocks. The producer runs
  /// during write().
  void add_tensor(const std::string& name,
                  GgmlType type,
                  std::vector<std::int64_t> ne,
                  Producer producer);

  /// Bytes the finished file will have.
  std::uint64_t file_size() const;

  /// Writes the file. `on_tensor`, when given, is called before each tensor (progress). Throws
  /// Error when a producer hands over too few or too many bytes; nothing is left under `path` then.
  void write(const std::string& path,
             const std::function<void(const GgufTensor&)>& on_tensor = {}) const;

 private:
  struct Declared {
    GgufTensor tensor;
    Producer producer;
  };
  std::string header() const;

  std::uint32_t alignment_;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::vector<Declared> tensors_;
};

}  // namespace pocketvlm
