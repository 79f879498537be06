#include "mobile/gguf.h"

#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace pocketvlm {
namespace {

static_assert(std::endian::native == std::endian::little,
              "GGUF is read in place: little-endian machines only");

constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kMaxNameLength = 63;
constexpr std::uint64_t kMaxKeyLength = 65535;
constexpr std::uint64_t kMaxDimensions = 4;

// First byte of ill-formed UTF-8, or npos. Overlong forms, surrogates and values above U+10FFFF are
// ill-formed.
std::size_t invalid_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80) {
      ++i;
      continue;
    }
    int extra = 0;
    std::uint32_t code = 0;
    std::uint32_t smallest = 0;
    if (byte >= 0xC2 && byte <= 0xDF) {
      extra = 1;
      code = byte & 0x1FU;
      smallest = 0x80;
    } else if ((byte & 0xF0U) == 0xE0U) {
      extra = 2;
      code = byte & 0x0FU;
      smallest = 0x800;
    } else if (byte >= 0xF0 && byte <= 0xF4) {
      extra = 3;
      code = byte & 0x07U;
      smallest = 0x10000;
    } else {
      return i;
    }
    if (i + static_cast<std::size_t>(extra) >= text.size()) return i;
    for (int k = 1; k <= extra; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if ((next & 0xC0U) != 0x80U) return i;
      code = code << 6 | (next & 0x3FU);
    }
    if (code < smallest || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return i;
    i += static_cast<std::size_t>(extra) + 1;
  }
  return std::string_view::npos;
}

std::int64_t value_bytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
      return 8;  // at least: the length
    case GgufValueType::kArray:
      return 12;
  }
  return 0;
}

// Walks the header, refusing to step past the end of the file.
class Cursor {
 public:
  Cursor(const MappedFile& file) : file_(file) {}

  std::size_t offset() const { return offset_; }
  std::uint64_t remaining() const { return file_.size() - offset_; }

  template <typename T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string text(const std::string& what, std::uint64_t max_length) {
    const auto length = number<std::uint64_t>(what + " length");
    PV_CHECK(
        length <= remaining(),
        "{}: byte {}: {} claims {} bytes, but only {} follow; the file is truncated or damaged",
        path(),
        offset_,
        what,
        length,
        remaining());
    PV_CHECK(length <= max_length,
             "{}: byte {}: {} has {} bytes, more than the {} allowed",
             path(),
             offset_,
             what,
             length,
             max_length);
    const std::size_t start = offset_;
    const auto* bytes = reinterpret_cast<const char*>(take(length, what));
    std::string value(bytes, length);
    const std::size_t bad = invalid_utf8(value);
    PV_CHECK(
        bad == std::string::npos, "{}: byte {}: {} is not valid UTF-8", path(), start + bad, what);
    return value;
  }

  const std::string& path() const { return file_.path(); }

 private:
  const std::byte* take(std::uint64_t bytes, const std::string& what) {
    PV_CHECK(bytes <= remaining(),
             "{}: byte {}: the file ends inside {}; it is truncated, copy it again",
             path(),
             offset_,
             what);
    const std::byte* at = file_.data() + offset_;
    offset_ += bytes;
    return at;
  }

  const MappedFile& file_;
  std::size_t offset_ = 0;
};

GgufValueType read_type(Cursor& in, const std::string& what) {
  const auto type = in.number<std::uint32_t>(what + " type");
  PV_CHECK(type <= static_cast<std::uint32_t>(GgufValueType::kFloat64),
           "{}: byte {}: {} has the unknown value type {}",
           in.path(),
           in.offset() - 4,
           what,
           type);
  return static_cast<GgufValueType>(type);
}

std::int64_t read_integer(Cursor& in, GgufValueType type, const std::string& what) {
  switch (type) {
    case GgufValueType::kUint8:
      return in.number<std::uint8_t>(what);
    case GgufValueType::kInt8:
      return in.number<std::int8_t>(what);
    case GgufValueType::kUint16:
      return in.number<std::uint16_t>(what);
    case GgufValueType::kInt16:
      return in.number<std::int16_t>(what);
    case GgufValueType::kUint32:
      return in.number<std::uint32_t>(what);
    case GgufValueType::kInt32:
      return in.number<std::int32_t>(what);
    case GgufValueType::kInt64:
      return in.number<std::int64_t>(what);
    default: {
      const auto value = in.number<std::uint64_t>(what);
      PV_CHECK(value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()),
               "{}: byte {}: {} is {}, above the largest integer handled here",
               in.path(),
               in.offset() - 8,
               what,
               value);
      return static_cast<std::int64_t>(value);
    }
  }
}

double read_float(Cursor& in, GgufValueType type, const std::string& what) {
  return type == GgufValueType::kFloat32 ? static_cast<double>(in.number<float>(what))
                                         : in.number<double>(what);
}

bool read_bool(Cursor& in, const std::string& what) {
  const auto byte = in.number<std::uint8_t>(what);
  PV_CHECK(byte <= 1,
           "{}: byte {}: {} is {}, but a boolean is 0 or 1",
           in.path(),
           in.offset() - 1,
           what,
           byte);
  return byte == 1;
}

GgufArray read_array(Cursor& in, const std::string& what) {
  GgufArray array;
  array.element_type = read_type(in, what + " element");
  PV_CHECK(array.element_type != GgufValueType::kArray,
           "{}: byte {}: {} is a list of lists, which no model needs",
           in.path(),
           in.offset() - 4,
           what);
  const auto count = in.number<std::uint64_t>(what + " count");
  PV_CHECK(
      count <= in.remaining() / static_cast<std::uint64_t>(value_bytes(array.element_type)),
      "{}: byte {}: {} claims {} elements, more than the file can hold; it is truncated or damaged",
      in.path(),
      in.offset() - 8,
      what,
      count);
  if (array.element_type == GgufValueType::kString) {
    std::vector<std::string> values;
    values.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) values.push_back(in.text(what, in.remaining()));
    array.values = std::move(values);
  } else if (array.element_type == GgufValueType::kBool) {
    std::vector<bool> values(count);
    for (std::uint64_t i = 0; i < count; ++i) values[i] = read_bool(in, what);
    array.values = std::move(values);
  } else if (is_gguf_float(array.element_type)) {
    std::vector<double> values(count);
    for (double& value : values) value = read_float(in, array.element_type, what);
    array.values = std::move(values);
  } else {
    std::vector<std::int64_t> values(count);
    for (std::int64_t& value : values) value = read_integer(in, array.element_type, what);
    array.values = std::move(values);
  }
  return array;
}

GgufValue read_value(Cursor& in, const std::string& what) {
  GgufValue value;
  value.type = read_type(in, what);
  if (value.type == GgufValueType::kString)
    value.value = in.text(what, in.remaining());
  else if (value.type == GgufValueType::kArray)
    value.value = read_array(in, what);
  else if (value.type == GgufValueType::kBool)
    value.value = read_bool(in, what);
  else if (is_gguf_float(value.type))
    value.value = read_float(in, value.type, what);
  else
    value.value = read_integer(in, value.type, what);
  return value;
}

GgufTensor read_tensor_info(Cursor& in, std::uint64_t index) {
  GgufTensor tensor;
  const std::string place = fmt::format("tensor {}", index);
  tensor.name = in.text(place + " name", kMaxNameLength);
  PV_CHECK(!tensor.name.empty(), "{}: {} has no name", in.path(), place);
  const std::string what = fmt::format("tensor \"{}\"", gguf_shown(tensor.name));
  const auto dimensions = in.number<std::uint32_t>(what);
  PV_CHECK(dimensions >= 1 && dimensions <= kMaxDimensions,
           "{}: {} has {} dimensions; 1 to {} are possible",
           in.path(),
           what,
           dimensions,
           kMaxDimensions);
  std::int64_t elements = 1;
  for (std::uint32_t d = 0; d < dimensions; ++d) {
    const auto size = in.number<std::int64_t>(what);
    PV_CHECK(size >= 1, "{}: {} has the size {} in dimension {}", in.path(), what, size, d);
    PV_CHECK(size <= std::numeric_limits<std::int64_t>::max() / 16 / elements,
             "{}: {} has more elements than any file can hold",
             in.path(),
             what);
    elements *= size;
    tensor.ne.push_back(size);
  }
  const auto type = in.number<std::uint32_t>(what);
  const GgmlTypeInfo* info = find_type_info(type);
  PV_CHECK(
      info != nullptr,
      "{}: {} has the unknown type number {}; convert the model to f16, q8_0, q4_0 or a K type",
      in.path(),
      what,
      type);
  PV_CHECK(tensor.ne[0] % info->block == 0,
           "{}: {} has rows of {} values, not whole {} blocks of {}",
           in.path(),
           what,
           tensor.ne[0],
           info->name,
           info->block);
  tensor.type = info->type;
  tensor.offset = in.number<std::uint64_t>(what);
  return tensor;
}

std::uint64_t padded(std::uint64_t bytes, std::uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

// Names and keys in error texts: short, and without bytes that a terminal would act on.
std::string gguf_shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7F)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  if (text.size() > 80) out += "...";
  return out;
}

bool is_gguf_integer(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
      return true;
    default:
      return false;
  }
}

bool is_gguf_float(GgufValueType type) {
  return type == GgufValueType::kFloat32 || type == GgufValueType::kFloat64;
}

const char* gguf_value_type_name(GgufValueType type) {
  static constexpr const char* kNames[] = {
      "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "list", "u64", "i64", "f64"};
  const auto index = static_cast<std::size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

std::size_t GgufArray::size() const {
  return std::visit([](const auto& list) { return list.size(); }, values);
}

std::int64_t GgufTensor::num_elements() const {
  std::int64_t elements = 1;
  for (const std::int64_t size : ne) elements *= size;
  return elements;
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Cursor in(file_);
  PV_CHECK(file_.size() >= 24, "{}: {} bytes are too few for a GGUF file", path, file_.size());
  const auto magic = in.number<std::uint32_t>("magic");
  PV_CHECK(magic == 0x46554747U, "{}: not a GGUF file (it does not start with \"GGUF\")", path);
  const auto version = in.number<std::uint32_t>("version");
  PV_CHECK(version == kVersion,
           "{}: GGUF version {} is not supported, version {} is; convert the file again with a "
           "current tool{}",
           path,
           version,
           kVersion,
           version == 0x03000000U ? " (this one is big-endian)" : "");
  const auto num_tensors = in.number<std::int64_t>("tensor count");
  const auto num_values = in.number<std::int64_t>("metadata count");
  // A tensor needs 8 + 1 + 4 + 8 + 4 + 8 bytes at least, a key 8 + 1 + 4 + 1.
  PV_CHECK(num_tensors >= 0 && static_cast<std::uint64_t>(num_tensors) <= in.remaining() / 33,
           "{}: claims {} tensors, more than the file can hold; it is truncated or damaged",
           path,
           num_tensors);
  PV_CHECK(num_values >= 0 && static_cast<std::uint64_t>(num_values) <= in.remaining() / 14,
           "{}: claims {} metadata values, more than the file can hold; it is truncated or damaged",
           path,
           num_values);
  for (std::int64_t i = 0; i < num_values; ++i) {
    std::string key = in.text(fmt::format("metadata key {}", i), kMaxKeyLength);
    PV_CHECK(!key.empty(), "{}: metadata key {} is empty", path, i);
    GgufValue value = read_value(in, fmt::format("metadata \"{}\"", gguf_shown(key)));
    PV_CHECK(key_index_.emplace(key, metadata_.size()).second,
             "{}: the metadata key \"{}\" appears twice",
             path,
             gguf_shown(key));
    metadata_.emplace_back(std::move(key), std::move(value));
  }
  if (has("general.alignment")) {
    const std::int64_t alignment = get_int("general.alignment", 1, 1 << 20);
    PV_CHECK(std::has_single_bit(static_cast<std::uint64_t>(alignment)) && alignment % 4 == 0,
             "{}: general.alignment is {}, but must be a power of two and at least 4",
             path,
             alignment);
    alignment_ = static_cast<std::uint32_t>(alignment);
  }
  for (std::int64_t i = 0; i < num_tensors; ++i) {
    tensors_.push_back(read_tensor_info(in, static_cast<std::uint64_t>(i)));
    PV_CHECK(tensor_index_.emplace(tensors_.back().name, tensors_.size() - 1).second,
             "{}: the tensor \"{}\" appears twice",
             path,
             gguf_shown(tensors_.back().name));
  }
  const std::uint64_t data_start = padded(in.offset(), alignment_);
  std::uint64_t expected = 0;
  for (GgufTensor& tensor : tensors_) {
    PV_CHECK(tensor.offset == expected,
             "{}: tensor \"{}\" lies at offset {} of the data, expected {}; tensors must follow "
             "each other without "
             "gap or overlap",
             path,
             gguf_shown(tensor.name),
             tensor.offset,
             expected);
    const auto bytes = static_cast<std::uint64_t>(row_bytes(tensor.type, tensor.row_length())) *
                       static_cast<std::uint64_t>(tensor.num_rows());
    PV_CHECK(data_start <= file_.size() && expected <= file_.size() - data_start &&
                 bytes <= file_.size() - data_start - expected,
             "{}: the file ends inside tensor \"{}\" ({} bytes are missing); it is truncated, copy "
             "it again",
             path,
             gguf_shown(tensor.name),
             data_start + expected + bytes - file_.size());
    tensor.bytes = {file_.data() + data_start + expected, bytes};
    expected += padded(bytes, alignment_);
  }
  // The last tensor's padding may be absent, as some writers leave it out; anything longer is not
  // ours to guess.
  PV_CHECK(file_.size() <= std::max<std::uint64_t>(data_start + expected, in.offset()),
           "{}: {} bytes follow the last tensor; the file is damaged or was joined from parts",
           path,
           file_.size() - (data_start + expected));
}

}  // namespace pocketvlm
