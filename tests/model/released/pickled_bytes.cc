#include "tests/model/released/pickled_bytes.h"

namespace pocketvlm {
namespace {

std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  return text;
}

std::string text(const std::string& value) { return "X" + number(value.size(), 4) + value; }

std::string integer(std::int64_t value) { return std::string("\x8a\x08", 2) + number(static_cast<std::uint64_t>(value), 8); }

std::string tuple(const std::vector<std::int64_t>& values) {
  std::string program = "(";
  for (const std::int64_t value : values) program += integer(value);
  return program + "t";
}

}  // namespace

std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string file, directory;
  for (const auto& [name, bytes] : entries) {
    const std::string sizes = number(0, 4) + number(bytes.size(), 4) + number(bytes.size(), 4) + number(name.size(), 2);
    const std::string begin = number(0, 2) + number(0, 2) + number(0, 4);  // flags, method, time
    directory += "PK\x01\x02" + number(20, 2) + number(20, 2) + begin + sizes + number(0, 2) + number(0, 2) + number(0, 2) + number(0, 2) +
                 number(0, 4) + number(file.size(), 4) + name;
    file += "PK\x03\x04" + number(20, 2) + begin + sizes + number(0, 2) + name + bytes;
  }
  return file + directory + "PK\x05\x06" + number(0, 4) + number(entries.size(), 2) + number(entries.size(), 2) +
         number(directory.size(), 4) + number(file.size(), 4) + number(0, 2);
}

std::string pickled_tensor(const std::string& storage_class,
                           const std::string& key,
                           std::int64_t elements,
                           std::int64_t offset,
                           const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + storage_class + "\n" + text(key) + text("cpu") +
         integer(elements) + "tQ" + integer(offset) + tuple(shape) + tuple(strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}

std::string pickled_dictionary(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string program = std::string("\x80\x02", 2) + "}(";
  for (const auto& [name, value] : items) program += text(name) + value;
  return program + "u.";
}

}  // namespace pocketvlm
