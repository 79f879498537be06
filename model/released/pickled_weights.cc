#include "model/released/pickled_weights.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// More than any state dictionary needs.
constexpr std::size_t kMaxObjects = std::size_t{1} << 20;
constexpr int kMaxDimensions = 16;

struct Value;
using Ref = Value*;  // into Unpickler::values_: a pickle may name what it built before, also inside itself

struct None {};
struct Mark {};
struct Tuple {
  std::vector<Ref> items;
};
struct Dictionary {
  std::vector<std::pair<Ref, Ref>> items;
};
/// What a file may name: never called, only told apart.
struct Global {
  std::string name;  // "torch FloatStorage"
};
struct Storage {
  std::string dtype;
  std::string key;
};
/// A tensor as a pickle describes it, checked: every element lies in `storage`.
struct Strided {
  std::string dtype;
  std::vector<std::int64_t> shape, strides;  // strides in elements
  std::span<const std::byte> storage;        // from the tensor's first element on
  std::int64_t count = 1;                    // elements of the tensor
};

struct Value {
  std::variant<None, Mark, bool, std::int64_t, std::string, Tuple, Dictionary, Global, Storage, Strided> is;
};

bool is_contiguous(const Strided& tensor) {
  std::int64_t step = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0; step *= tensor.shape[i]) {
    if (tensor.shape[i] > 1 && tensor.strides[i] != step) return false;
  }
  return true;
}

/// The elements of a tensor, row-major, into a file of their own that ends with this process: mapped like the tensors that need no
/// copy, so that its memory can be given back the same way.
MappedFile contiguous_copy(const Strided& tensor) {
  const std::size_t size = dtype_bytes(tensor.dtype);
  std::string path = (std::filesystem::temp_directory_path() / "pocketvlm-XXXXXX").string();
  const int descriptor = ::mkstemp(path.data());
  PV_CHECK(descriptor >= 0, "{}: cannot be made: {}; set TMPDIR to a folder with room", path, std::strerror(errno));
  ::close(descriptor);
  try {
    std::ofstream out(path, std::ios::binary);
    std::vector<std::int64_t> place(tensor.shape.size(), 0);
    std::int64_t element = 0;
    for (std::int64_t i = 0; i < tensor.count; ++i) {
      out.write(reinterpret_cast<const char*>(tensor.storage.data()) + static_cast<std::size_t>(element) * size,
                static_cast<std::streamsize>(size));
      for (std::size_t axis = place.size(); axis-- > 0;) {
        element += tensor.strides[axis];
        if (++place[axis] < tensor.shape[axis]) break;
        element -= tensor.strides[axis] * tensor.shape[axis];
        place[axis] = 0;
      }
    }
    out.close();
    PV_CHECK(out.good(), "{}: cannot be written; is the disk full? TMPDIR may name a folder with more room", path);
    MappedFile mapped(path);
    std::filesystem::remove(path);
    return mapped;
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    throw;
  }
}

/// The dtype of a storage class, or empty for anything else that a file names.
std::string storage_dtype(const std::string& global) {
  static const std::map<std::string, std::string> kDtypes = {
      {"torch FloatStorage", "F32"},  {"torch HalfStorage", "F16"}, {"torch BFloat16Storage", "BF16"}, {"torch DoubleStorage", "F64"},
      {"torch LongStorage", "I64"},   {"torch IntStorage", "I32"},  {"torch ByteStorage", "U8"},       {"torch BoolStorage", "BOOL"}};
  const auto found = kDtypes.find(global);
  return found == kDtypes.end() ? std::string() : found->second;
}

constexpr const char* kRebuildTensor = "torch._utils _rebuild_tensor_v2";
constexpr const char* kRebuildParameter = "torch._utils _rebuild_parameter";
constexpr const char* kOrderedDict = "collections OrderedDict";

bool is_known(const std::string& global) {
  return global == kRebuildTensor || global == kRebuildParameter || global == kOrderedDict || !storage_dtype(global).empty();
}

/// Runs the words of one pickle (protocol 2, as torch.save writes it).
class Unpickler {
 public:
  Unpickler(const ZipFile& zip, std::string folder, std::span<const std::byte> program)
      : zip_(zip), folder_(std::move(folder)), program_(program) {}

  Ref run() {
    while (true) {
      const auto word = static_cast<unsigned char>(take(1)[0]);
      if (word == '.') return pop();
      step(word);
      PV_CHECK(++steps_ <= kMaxObjects * 8, "{}: the pickle never ends", where());
    }
  }

  std::string where() const { return zip_.path() + ": data.pkl"; }

 private:
  std::string_view take(std::size_t bytes) {
    PV_CHECK(bytes <= program_.size() - at_, "{}: ends in the middle of a word at byte {}; fetch the file again", where(), at_);
    const std::string_view taken(reinterpret_cast<const char*>(program_.data()) + at_, bytes);
    at_ += bytes;
    return taken;
  }
  std::uint64_t number(std::size_t bytes) {
    const std::string_view raw = take(bytes);
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(raw[i]);
    return value;
  }
  std::string line() {
    const auto* begin = reinterpret_cast<const char*>(program_.data()) + at_;
    const void* end = std::memchr(begin, '\n', program_.size() - at_);
    PV_CHECK(end != nullptr, "{}: ends in the middle of a name; fetch the file again", where());
    const std::string text(take(static_cast<std::size_t>(static_cast<const char*>(end) - begin)));
    take(1);
    return text;
  }

  template <typename T>
  void push(T value) {
    PV_CHECK(values_.size() < kMaxObjects, "{}: holds more objects than a dictionary of tensors", where());
    values_.push_back(Value{std::move(value)});
    stack_.push_back(&values_.back());
  }
  Ref pop() {
    PV_CHECK(!stack_.empty(), "{}: takes a value that nothing put there; fetch the file again", where());
    Ref top = stack_.back();
    stack_.pop_back();
    return top;
  }
  template <typename T>
  T& as(const Ref& value, const char* what) {
    T* found = std::get_if<T>(&value->is);
    PV_CHECK(found != nullptr, "{}: near byte {}: expected {}; this is no plain dictionary of tensors, save model.state_dict()", where(), at_, what);
    return *found;
  }
  std::vector<Ref> since_mark() {
    std::vector<Ref> items;
    while (true) {
      Ref value = pop();
      if (std::holds_alternative<Mark>(value->is)) break;
      items.push_back(value);
    }
    return {items.rbegin(), items.rend()};
  }
  void push_tuple(std::size_t count) {
    Tuple tuple;
    for (std::size_t i = 0; i < count; ++i) tuple.items.insert(tuple.items.begin(), pop());
    push(std::move(tuple));
  }
  void remember(std::uint64_t place) {
    PV_CHECK(!stack_.empty(), "{}: remembers a value that is not there; fetch the file again", where());
    memo_[place] = stack_.back();
  }
  void recall(std::uint64_t place) {
    const auto found = memo_.find(place);
    PV_CHECK(found != memo_.end(), "{}: recalls value {} that it never made; fetch the file again", where(), place);
    stack_.push_back(found->second);
  }

  void step(unsigned char word) {
    switch (word) {
      case 0x80: take(1); return;  // protocol
      case '}': return push(Dictionary{});
      case ')': return push(Tuple{});
      case ']': return push(Tuple{});  // a list
      case '(': return push(Mark{});
      case 'N': return push(None{});
      case 0x88: return push(true);
      case 0x89: return push(false);
      case 'K': return push(static_cast<std::int64_t>(number(1)));
      case 'M': return push(static_cast<std::int64_t>(number(2)));
      case 'J': return push(static_cast<std::int64_t>(static_cast<std::int32_t>(number(4))));
      case 0x8a: return push_long();
      case 'X': return push_text(number(4));
      case 0x8c: return push_text(number(1));
      case 'G': take(8); return push(None{});  // a floating-point number: nothing that is read needs one
      case 'q': return remember(number(1));
      case 'r': return remember(number(4));
      case 'h': return recall(number(1));
      case 'j': return recall(number(4));
      case 't': return push(Tuple{since_mark()});
      case 0x85: return push_tuple(1);
      case 0x86: return push_tuple(2);
      case 0x87: return push_tuple(3);
      case 'a': { const Ref item = pop(); append({item}); return; }
      case 'e': return append(since_mark());
      case 's': { Ref value = pop(), key = pop(); set_items({key, value}); return; }
      case 'u': return set_items(since_mark());
      case 'c': { std::string module = line(); return name_global(module + " " + line()); }
      case 'Q': return load_storage();
      case 'R': return reduce();
      case 'b': pop(); return;  // attributes of a dictionary (_metadata) and hooks: not needed
      default:
        fail("{}: byte {} is the pickle word 0x{:02x}, which no file of plain tensors has; refused, save model.state_dict() as safetensors",
             where(), at_ - 1, word);
    }
  }

  void push_text(std::uint64_t bytes) { push(std::string(take(bytes))); }
  void push_long() {
    const std::uint64_t bytes = number(1);
    PV_CHECK(bytes <= 8, "{}: an integer of {} bytes is out of range", where(), bytes);
    std::uint64_t value = number(bytes);
    // Two's complement of the given length.
    if (bytes > 0 && bytes < 8 && (value >> (8 * bytes - 1) & 1) != 0) value |= ~std::uint64_t{0} << (8 * bytes);
    push(static_cast<std::int64_t>(value));
  }
  void append(const std::vector<Ref>& items) {
    PV_CHECK(!stack_.empty(), "{}: appends to nothing; fetch the file again", where());
    auto& list = as<Tuple>(stack_.back(), "a list").items;
    list.insert(list.end(), items.begin(), items.end());
  }
  void set_items(const std::vector<Ref>& items) {
    PV_CHECK(!stack_.empty() && items.size() % 2 == 0, "{}: a dictionary has a key without a value; fetch the file again", where());
    auto& dictionary = as<Dictionary>(stack_.back(), "a dictionary");
    for (std::size_t i = 0; i < items.size(); i += 2) dictionary.items.emplace_back(items[i], items[i + 1]);
  }
  void name_global(std::string name) {
    PV_CHECK(is_known(name),
             "{}: asks for {}, which is not needed to hold tensors; refused (nothing was run). If you trust where the file comes from, "
             "load it in Python and save it as safetensors",
             where(),
             name);
    push(Global{std::move(name)});
  }

  /// ("storage", class, key, device, elements)
  void load_storage() {
    const Ref top = pop();
    const Tuple& id = as<Tuple>(top, "a storage");
    PV_CHECK(id.items.size() == 5, "{}: a storage is described by {} values, not 5", where(), id.items.size());
    const std::string& kind = as<Global>(id.items[1], "the class of a storage").name;
    const std::string dtype = storage_dtype(kind);
    PV_CHECK(!dtype.empty(), "{}: {} is no class of storages that can be read", where(), kind);
    push(Storage{dtype, as<std::string>(id.items[2], "the key of a storage")});
  }

  void reduce() {
    const Ref arguments = pop(), function = pop();
    const std::string& name = as<Global>(function, "a name that the reader knows").name;
    const std::vector<Ref>& values = as<Tuple>(arguments, "a tuple").items;
    if (name == kOrderedDict) {
      PV_CHECK(values.empty(), "{}: an OrderedDict with contents in its making is not supported", where());
      return push(Dictionary{});
    }
    if (name == kRebuildParameter) {
      PV_CHECK(!values.empty(), "{}: a parameter without its tensor", where());
      stack_.push_back(values[0]);
      return;
    }
    PV_CHECK(name == kRebuildTensor, "{}: {} cannot stand for a tensor", where(), name);
    push(rebuild(values));
  }

  std::vector<std::int64_t> integers(const Ref& tuple) {
    std::vector<std::int64_t> values;
    for (const Ref& item : as<Tuple>(tuple, "a shape").items) {
      values.push_back(as<std::int64_t>(item, "an integer"));
      PV_CHECK(values.back() >= 0, "{}: a tensor has the size or stride {}", where(), values.back());
    }
    PV_CHECK(values.size() <= static_cast<std::size_t>(kMaxDimensions), "{}: a tensor has {} dimensions", where(), values.size());
    return values;
  }

  /// (storage, offset, shape, strides, ...)
  Strided rebuild(const std::vector<Ref>& values) {
    PV_CHECK(values.size() >= 4, "{}: a tensor is described by {} values, not by 4 or more", where(), values.size());
    const Storage& storage = as<Storage>(values[0], "a storage");
    const std::int64_t offset = as<std::int64_t>(values[1], "an offset");
    Strided tensor;
    tensor.dtype = storage.dtype;
    tensor.shape = integers(values[2]);
    tensor.strides = integers(values[3]);
    const std::string entry = folder_ + "data/" + storage.key;
    const auto found = zip_.entries().find(entry);
    PV_CHECK(found != zip_.entries().end(), "{}: the storage {} is not in the archive; fetch the file again", zip_.path(), entry);
    const auto size = static_cast<std::int64_t>(dtype_bytes(tensor.dtype));
    const std::int64_t elements = static_cast<std::int64_t>(found->second.size()) / size;
    PV_CHECK(tensor.strides.size() == tensor.shape.size(),
             "{}: a tensor has {} sizes and {} strides",
             where(),
             tensor.shape.size(),
             tensor.strides.size());
    const bool empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
    std::int64_t reach = empty ? 0 : 1;  // from the first element to behind the last
    for (std::size_t i = 0; i < tensor.shape.size() && !empty; ++i) {
      const std::int64_t length = tensor.shape[i], stride = tensor.strides[i];
      PV_CHECK(tensor.count <= elements / length,
               "{}: a tensor is larger than its storage {} of {} elements; fetch the file again",
               zip_.path(),
               entry,
               elements);
      tensor.count *= length;
      if (length == 1) continue;
      PV_CHECK(stride > 0, "{}: a tensor of {} repeats its elements (stride 0); save it with .contiguous()", zip_.path(), entry);
      PV_CHECK(stride <= (elements - reach) / (length - 1),
               "{}: a tensor with the stride {} reaches beyond its storage {} of {} elements; fetch the file again",
               zip_.path(),
               stride,
               entry,
               elements);
      reach += stride * (length - 1);
    }
    if (empty) tensor.count = 0;
    PV_CHECK(offset >= 0 && offset <= elements - reach,
             "{}: a tensor of {} elements from {} on reaches beyond its storage {} of {}; fetch the file again",
             zip_.path(),
             tensor.count,
             offset,
             entry,
             elements);
    tensor.storage = found->second.subspan(static_cast<std::size_t>(offset * size));
    return tensor;
  }

  const ZipFile& zip_;
  std::string folder_;  // of the entries inside the archive, with its slash
  std::span<const std::byte> program_;
  std::size_t at_ = 0, steps_ = 0;
  std::deque<Value> values_;  // all that was built
  std::vector<Ref> stack_;
  std::map<std::uint64_t, Ref> memo_;
};

/// The entry that holds the program, by its name inside the archive's one folder.
std::string program_entry(const ZipFile& zip) {
  constexpr std::string_view kProgram = "data.pkl";
  for (const auto& [name, bytes] : zip.entries()) {
    if (name.ends_with(kProgram) && name.find('/') == name.size() - kProgram.size() - 1) return name;
  }
  fail("{}: has no data.pkl; only what torch.save wrote can be read", zip.path());
}

void check_byte_order(const ZipFile& zip, const std::string& folder) {
  const auto found = zip.entries().find(folder + "byteorder");
  if (found == zip.entries().end()) return;
  const std::string_view order(reinterpret_cast<const char*>(found->second.data()), found->second.size());
  PV_CHECK(order == "little", "{}: was written on a machine of the byte order \"{}\"; only little is read", zip.path(), order.substr(0, 16));
}

}  // namespace

PickledWeights::PickledWeights(const std::string& path) : zip_(path) {
  const std::string entry = program_entry(zip_);
  const std::string folder = entry.substr(0, entry.rfind('/') + 1);
  check_byte_order(zip_, folder);
  Unpickler unpickler(zip_, folder, zip_.entries().at(entry));
  const Ref result = unpickler.run();
  const auto* dictionary = std::get_if<Dictionary>(&result->is);
  PV_CHECK(dictionary != nullptr, "{}: holds no dictionary of tensors; save model.state_dict()", path);
  std::int64_t copied = 0;  // bytes
  for (const auto& [key, value] : dictionary->items) {
    const auto* name = std::get_if<std::string>(&key->is);
    const auto* tensor = std::get_if<Strided>(&value->is);
    PV_CHECK(name != nullptr && tensor != nullptr, "{}: holds something else than tensors under names{}; save model.state_dict()", path,
             name == nullptr ? "" : " (" + name->substr(0, 200) + ")");
    const std::size_t bytes = static_cast<std::size_t>(tensor->count) * dtype_bytes(tensor->dtype);
    TensorView view{tensor->dtype, tensor->shape, tensor->storage.first(std::min(bytes, tensor->storage.size()))};
    if (!is_contiguous(*tensor) && bytes > 0) {
      copied += static_cast<std::int64_t>(bytes);
      // Tensors may share a storage, but a file whose tensors are many times its size is no checkpoint.
      PV_CHECK(copied <= 2 * static_cast<std::int64_t>(zip_.bytes()), "{}: its tensors are more than twice as large as the file; save it again", path);
      copies_.push_back(contiguous_copy(*tensor));
      view.bytes = {copies_.back().data(), copies_.back().size()};
    }
    PV_CHECK(tensors_.emplace(*name, std::move(view)).second, "{}: two tensors are called {}", path, *name);
  }
}

}  // namespace pocketvlm
