#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "mobile/gguf.h"

namespace pocketvlm {
namespace {

std::uint64_t padded(std::uint64_t bytes, std::uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <typename T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void append_string(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  out.append(text);
}

void append_integer(std::string& out, GgufValueType type, std::int64_t value) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
      return append(out, static_cast<std::uint8_t>(value));
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return append(out, static_cast<std::uint16_t>(value));
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
      return append(out, static_cast<std::uint32_t>(value));
    default:
      return append(out, value);
  }
}

void append_float(std::string& out, GgufValueType type, double value) {
  if (type == GgufValueType::kFloat32)
    append(out, static_cast<float>(value));
  else
    append(out, value);
}

struct ValueBytes {
  std::string& out;
  GgufValueType type;

  void operator()(std::int64_t value) const { append_integer(out, type, value); }
  void operator()(double value) const { append_float(out, type, value); }
  void operator()(bool value) const { append(out, static_cast<std::uint8_t>(value)); }
  void operator()(const std::string& value) const { append_string(out, value); }
  void operator()(const GgufArray& array) const {
    append(out, static_cast<std::uint32_t>(array.element_type));
    append(out, static_cast<std::uint64_t>(array.size()));
    const ValueBytes element{out, array.element_type};
    std::visit(
        [&](const auto& values) {
          for (const auto& value : values) {
            using Stored = typename std::remove_cvref_t<decltype(values)>::value_type;
            element(static_cast<const Stored&>(value));
          }
        },
        array.values);
  }
};

// The file under its temporary name; gone unless committed.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path)
      : path_(path), temporary_(path + ".tmp" + std::to_string(::getpid())) {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    if (!folder.empty()) make_folders(folder.string());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    PV_CHECK(descriptor_ >= 0, "{}: cannot be written: {}", temporary_, std::strerror(errno));
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(const std::byte* bytes, std::size_t count) {
    while (count > 0) {
      const ssize_t n = ::write(descriptor_, bytes, count);
      if (n < 0 && errno == EINTR) continue;
      PV_CHECK(n >= 0, "{}: writing failed: {}", path_, std::strerror(errno));
      bytes += n;
      count -= static_cast<std::size_t>(n);
    }
  }

  void zeros(std::uint64_t count) {
    static constexpr std::byte kZeros[4096] = {};
    while (count > 0) {
      const std::size_t now = std::min<std::uint64_t>(count, sizeof(kZeros));
      write(kZeros, now);
      count -= now;
    }
  }

  void commit() {
    PV_CHECK(::fsync(descriptor_) == 0, "{}: writing failed: {}", path_, std::strerror(errno));
    ::close(std::exchange(descriptor_, -1));
    PV_CHECK(::rename(temporary_.c_str(), path_.c_str()) == 0,
             "{}: cannot be replaced: {}",
             path_,
             std::strerror(errno));
    committed_ = true;
  }

 private:
  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

GgufValue integer(GgufValueType type, std::int64_t value) { return {type, value}; }

}  // namespace

GgufWriter::GgufWriter(std::uint32_t alignment) : alignment_(alignment) {
  PV_CHECK(alignment >= 4 && (alignment & (alignment - 1)) == 0,
           "GGUF alignment {} is not a power of two from 4 on",
           alignment);
  if (alignment != 32) set_uint32("general.alignment", alignment);
}

void GgufWriter::set(const std::string& key, GgufValue value) {
  PV_CHECK(!key.empty() && key.size() <= 65535, "GGUF key \"{}\" must have 1 to 65535 bytes", key);
  for (auto& [name, old] : metadata_) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  metadata_.emplace_back(key, std::move(value));
}

void GgufWriter::set_uint32(const std::string& key, std::uint32_t value) {
  set(key, integer(GgufValueType::kUint32, value));
}

void GgufWriter::set_int32(const std::string& key, std::int32_t value) {
  set(key, integer(GgufValueType::kInt32, value));
}

void GgufWriter::set_uint64(const std::string& key, std::uint64_t value) {
  set(key, integer(GgufValueType::kUint64, static_cast<std::int64_t>(value)));
}

void GgufWriter::set_float32(const std::string& key, float value) {
  set(key, {GgufValueType::kFloat32, static_cast<double>(value)});
}

void GgufWriter::set_bool(const std::string& key, bool value) {
  set(key, {GgufValueType::kBool, value});
}

void GgufWriter::set_string(const std::string& key, const std::string& value) {
  set(key, {GgufValueType::kString, value});
}

void GgufWriter::set_strings(const std::string& key, std::vector<std::string> values) {
  set(key, {GgufValueType::kArray, GgufArray{GgufValueType::kString, std::move(values)}});
}

void GgufWriter::set_float32s(const std::string& key, const std::vector<float>& values) {
  set(key,
      {GgufValueType::kArray,
       GgufArray{GgufValueType::kFloat32, std::vector<double>(values.begin(), values.end())}});
}

void GgufWriter::set_int32s(const std::string& key, const std::vector<std::int32_t>& values) {
  set(key,
      {GgufValueType::kArray,
       GgufArray{GgufValueType::kInt32, std::vector<std::int64_t>(values.begin(), values.end())}});
}

void GgufWriter::add_tensor(const std::string& name,
                            GgmlType type,
                            std::vector<std::int64_t> ne,
                            Producer producer) {
  PV_CHECK(
      !name.empty() && name.size() <= 63, "GGUF tensor name \"{}\" must have 1 to 63 bytes", name);
  PV_CHECK(!ne.empty() && ne.size() <= 4,
           "GGUF tensor \"{}\" has {} dimensions; 1 to 4 are possible",
           name,
           ne.size());
  for (const std::int64_t size : ne)
    PV_CHECK(size >= 1, "GGUF tensor \"{}\" has a size of {}", name, size);
  for (const Declared& other : tensors_) {
    PV_CHECK(other.tensor.name != name, "GGUF tensor \"{}\" is declared twice", name);
  }
  Declared declared;
  declared.tensor.name = name;
  declared.tensor.type = type;
  declared.tensor.ne = std::move(ne);
  declared.producer = std::move(producer);
  row_bytes(type, declared.tensor.row_length());  // whole blocks, or an Error now
  if (!tensors_.empty()) {
    const GgufTensor& last = tensors_.back().tensor;
    const auto bytes =
        static_cast<std::uint64_t>(row_bytes(last.type, last.row_length()) * last.num_rows());
    declared.tensor.offset = last.offset + padded(bytes, alignment_);
  }
  tensors_.push_back(std::move(declared));
}

std::string GgufWriter::header() const {
  std::string out = "GGUF";
  append(out, std::uint32_t{3});
  append(out, static_cast<std::int64_t>(tensors_.size()));
  append(out, static_cast<std::int64_t>(metadata_.size()));
  for (const auto& [key, value] : metadata_) {
    append_string(out, key);
    append(out, static_cast<std::uint32_t>(value.type));
    std::visit(ValueBytes{out, value.type}, value.value);
  }
  for (const Declared& declared : tensors_) {
    const GgufTensor& tensor = declared.tensor;
    append_string(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.ne.size()));
    for (const std::int64_t size : tensor.ne) append(out, size);
    append(out, static_cast<std::uint32_t>(tensor.type));
    append(out, tensor.offset);
  }
  out.resize(padded(out.size(), alignment_), '\0');
  return out;
}

std::uint64_t GgufWriter::file_size() const {
  std::uint64_t size = header().size();
  for (const Declared& declared : tensors_) {
    const GgufTensor& tensor = declared.tensor;
    size += padded(
        static_cast<std::uint64_t>(row_bytes(tensor.type, tensor.row_length()) * tensor.num_rows()),
        alignment_);
  }
  return size;
}

void GgufWriter::write(const std::string& path,
                       const std::function<void(const GgufTensor&)>& on_tensor) const {
  OutputFile file(path);
  const std::string head = header();
  file.write(reinterpret_cast<const std::byte*>(head.data()), head.size());
  for (const Declared& declared : tensors_) {
    const GgufTensor& tensor = declared.tensor;
    if (on_tensor) on_tensor(tensor);
    const auto expected =
        static_cast<std::uint64_t>(row_bytes(tensor.type, tensor.row_length()) * tensor.num_rows());
    std::uint64_t written = 0;
    declared.producer([&](std::span<const std::byte> bytes) {
      PV_CHECK(bytes.size() <= expected - written,
               "{}: tensor \"{}\" got more than its {} bytes",
               path,
               tensor.name,
               expected);
      file.write(bytes.data(), bytes.size());
      written += bytes.size();
    });
    PV_CHECK(written == expected,
             "{}: tensor \"{}\" got {} of its {} bytes",
             path,
             tensor.name,
             written,
             expected);
    file.zeros(padded(expected, alignment_) - expected);
  }
  file.commit();
}

}  // namespace pocketvlm
