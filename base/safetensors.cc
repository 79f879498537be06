#include "base/safetensors.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100u << 20;  // the limit of the reference library

std::uint64_t element_count(const std::vector<std::int64_t>& shape, const std::string& where) {
  std::uint64_t count = 1;
  for (const std::int64_t n : shape) {
    PV_CHECK(!__builtin_mul_overflow(count, static_cast<std::uint64_t>(n), &count),
             "{}: the shape is too large",
             where);
  }
  return count;
}

struct Range {
  std::uint64_t begin;
  std::uint64_t end;
  std::string name;
};

TensorView read_entry(const Json& entry, const std::string& where, Range& range) {
  PV_CHECK(entry.is_object(), "{}: not an object", where);
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    PV_CHECK(entry.contains(key), "{}: \"{}\" is missing", where, key);
  }
  PV_CHECK(entry["dtype"].is_string(), "{}: dtype is not a string", where);
  TensorView view;
  view.dtype = entry["dtype"].get<std::string>();
  const std::size_t width = dtype_bytes(view.dtype);
  PV_CHECK(entry["shape"].is_array(), "{}: shape is not a list", where);
  for (const Json& n : entry["shape"]) {
    PV_CHECK(n.is_number_unsigned(), "{}: shape must hold whole numbers", where);
    PV_CHECK(n.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()},
             "{}: the shape is too large",
             where);
    view.shape.push_back(n.get<std::int64_t>());
  }
  const Json& offsets = entry["data_offsets"];
  PV_CHECK(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
               offsets[1].is_number_unsigned(),
           "{}: data_offsets must be two whole numbers",
           where);
  range.begin = offsets[0].get<std::uint64_t>();
  range.end = offsets[1].get<std::uint64_t>();
  std::uint64_t bytes = 0;
  PV_CHECK(!__builtin_mul_overflow(element_count(view.shape, where), std::uint64_t{width}, &bytes),
           "{}: the shape is too large",
           where);
  PV_CHECK(range.begin <= range.end && range.end - range.begin == bytes,
           "{}: data_offsets span {} bytes, but shape and dtype need {}",
           where,
           static_cast<std::int64_t>(range.end - range.begin),
           bytes);
  return view;
}

}  // namespace

std::size_t dtype_bytes(const std::string& dtype) {
  static const std::map<std::string, std::size_t> kBytes = {
      {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I16", 2},
      {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"U16", 2}, {"U32", 4}, {"U64", 8},
      {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = kBytes.find(dtype);
  PV_CHECK(found != kBytes.end(), "safetensors: unknown dtype \"{}\"", dtype);
  return found->second;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  PV_CHECK(file_.size() >= 8, "{}: {} bytes is too short for safetensors", path, file_.size());
  const std::string_view start(reinterpret_cast<const char*>(file_.data()),
                               std::min<std::size_t>(file_.size(), 48));
  PV_CHECK(start.substr(0, 23) != "version https://git-lfs",
           "{}: is a Git LFS pointer, not the weights; run `git lfs pull`",
           path);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file_.data(), 8);
  PV_CHECK(header_bytes <= kMaxHeaderBytes && header_bytes <= file_.size() - 8,
           "{}: the header claims {} bytes, the file has {}; it is damaged or not safetensors",
           path,
           header_bytes,
           file_.size());
  const Json header = parse_json(
      {reinterpret_cast<const char*>(file_.data()) + 8, header_bytes}, path + ": header");
  PV_CHECK(header.is_object(), "{}: the header is not an object", path);

  const std::uint64_t data_bytes = file_.size() - 8 - header_bytes;
  const std::byte* data = file_.data() + 8 + header_bytes;
  std::vector<Range> ranges;
  for (auto item = header.begin(); item != header.end(); ++item) {
    if (item.key() == "__metadata__") {
      PV_CHECK(item->is_object(), "{}: __metadata__ is not an object", path);
      for (auto entry = item->begin(); entry != item->end(); ++entry) {
        PV_CHECK(entry->is_string(), "{}: __metadata__.{} is not a string", path, entry.key());
        metadata_[entry.key()] = entry->get<std::string>();
      }
      continue;
    }
    const std::string where = fmt::format("{}: tensor {}", path, item.key());
    Range range{0, 0, item.key()};
    TensorView view = read_entry(*item, where, range);
    PV_CHECK(range.end <= data_bytes,
             "{}: ends at byte {}, but the data has {}; the file is truncated",
             where,
             range.end,
             data_bytes);
    view.bytes = {data + range.begin, range.end - range.begin};
    tensors_.emplace(item.key(), std::move(view));
    ranges.push_back(std::move(range));
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t expected = 0;
  for (const Range& range : ranges) {
    PV_CHECK(range.begin == expected,
             "{}: tensor {} starts at byte {}, expected {}: tensors overlap or leave a hole",
             path,
             range.name,
             range.begin,
             expected);
    expected = range.end;
  }
  PV_CHECK(expected == data_bytes,
           "{}: {} bytes of data, but the tensors need {}",
           path,
           data_bytes,
           expected);
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  PV_CHECK(found != tensors_.end(), "{}: no tensor named {}", path(), name);
  return found->second;
}

SafetensorsFolder::SafetensorsFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path root(folder);
  const std::string index_path = (root / "model.safetensors.index.json").string();
  std::set<std::string> names;
  std::map<std::string, std::string> expected;  // tensor -> shard
  if (fs::exists(index_path)) {
    const Json index = read_json(index_path);
    PV_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
             "{}: no weight_map object",
             index_path);
    for (auto item = index["weight_map"].begin(); item != index["weight_map"].end(); ++item) {
      PV_CHECK(item->is_string(), "{}: weight_map.{} is not a file name", index_path, item.key());
      const auto file = item->get<std::string>();
      PV_CHECK(!file.empty() && file.find('/') == std::string::npos && file != "..",
               "{}: weight_map.{} = \"{}\" points outside the folder",
               index_path,
               item.key(),
               file);
      names.insert(file);
      expected[item.key()] = file;
    }
  } else {
    PV_CHECK(fs::exists(root / "model.safetensors"),
             "{}: holds neither model.safetensors nor model.safetensors.index.json",
             folder);
    names.insert("model.safetensors");
  }
  for (const std::string& name : names) {
    files_.emplace_back((root / name).string());
    for (const auto& [tensor, view] : files_.back().tensors()) {
      PV_CHECK(tensors_.emplace(tensor, view).second,
               "{}: tensor {} is in more than one shard",
               folder,
               tensor);
      const auto stated = expected.find(tensor);
      PV_CHECK(stated == expected.end() || stated->second == name,
               "{}: weight_map.{} says {}, but the tensor is in {}; take index and shards from the same download",
               index_path,
               tensor,
               stated->second,
               name);
    }
  }
  for (const auto& [tensor, file] : expected) {
    PV_CHECK(tensors_.count(tensor) != 0,
             "{}: {} lacks the tensor {}; take index and shards from the same download",
             index_path,
             file,
             tensor);
  }
}

void write_safetensors(const std::string& path,
                       const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  for (const TensorToWrite& tensor : tensors) {
    PV_CHECK(!header.contains(tensor.name), "{}: tensor {} is written twice", path, tensor.name);
    const std::uint64_t bytes =
        element_count(tensor.shape, path + ": tensor " + tensor.name) * dtype_bytes(tensor.dtype);
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
    sizes.push_back(bytes);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts aligned

  const std::filesystem::path target(path);
  if (target.has_parent_path()) make_folders(target.parent_path().string());
  const std::string temporary = path + ".tmp" + std::to_string(::getpid());
  try {
    std::ofstream out(temporary, std::ios::binary);
    PV_CHECK(out.good(), "{}: cannot be written: {}", temporary, std::strerror(errno));
    const std::uint64_t header_bytes = text.size();
    out.write(reinterpret_cast<const char*>(&header_bytes), 8);
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto bytes = tensors[i].bytes();
      PV_CHECK(bytes.size() == sizes[i],
               "{}: tensor {} has {} bytes, its shape needs {}",
               path,
               tensors[i].name,
               bytes.size(),
               sizes[i]);
      out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    out.flush();
    PV_CHECK(out.good(), "{}: writing failed: {}", path, std::strerror(errno));
  } catch (...) {
    std::filesystem::remove(temporary);
    throw;
  }
  std::filesystem::rename(temporary, target);
}

}  // namespace pocketvlm
