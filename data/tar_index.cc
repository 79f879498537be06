#include "data/tar_index.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kBlock = 512;
constexpr std::uint64_t kLongestExtension =
    1 << 20;  // pax records and long names; real ones are far shorter

/// Header fields of POSIX.1-1988 ustar: offset and width in the 512-byte block.
struct Field {
  std::size_t offset;
  std::size_t bytes;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kChecksum{148, 8}, kPrefix{345, 155};
constexpr std::size_t kType = 156, kMagic = 257;

/// Sizes that a pax record or a long-name member set for the next one.
struct Overrides {
  std::optional<std::string> name;
  std::optional<std::uint64_t> bytes;
};

class TarReader {
 public:
  TarReader(std::span<const std::byte> bytes, const std::string& where)
      : text_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), where_(where) {}

  TarIndex read() {
    refuse_compressed();
    while (true) {
      if (at_ == text_.size()) {
        PV_CHECK(at_ > 0, "{}: the file is empty, not a tar archive", where_);
        index_.has_end_mark = false;
        break;
      }
      if (text_.size() - at_ < kBlock) broken("the archive is cut off inside a header");
      const std::string_view header = text_.substr(at_, kBlock);
      if (header.find_first_not_of('\0') == std::string_view::npos) break;
      check_checksum(header);
      member(header);
    }
    return std::move(index_);
  }

 private:
  [[noreturn]] void broken(const std::string& reason) const {
    fail("{}: byte {}: {}; make the archive again or copy it again", where_, at_, reason);
  }

  void refuse_compressed() const {
    for (const auto& [magic, name] : {std::pair<std::string_view, const char*>{"\x1f\x8b", "gzip"},
                                      {"BZh", "bzip2"},
                                      {"\xfd\x37zXZ", "xz"},
                                      {"\x28\xb5\x2f\xfd", "zstd"}}) {
      PV_CHECK(!text_.starts_with(magic),
               "{}: the archive is compressed ({}); unpack it to a plain .tar",
               where_,
               name);
    }
  }

  void check_checksum(std::string_view header) const {
    std::uint64_t sum = 0;
    std::int64_t signed_sum = 0;  // some old writers summed signed bytes
    for (std::size_t i = 0; i < kBlock; ++i) {
      const bool blank = i >= kChecksum.offset && i < kChecksum.offset + kChecksum.bytes;
      const char c = blank ? ' ' : header[i];
      sum += static_cast<unsigned char>(c);
      signed_sum += static_cast<signed char>(c);
    }
    const std::uint64_t stored = number(header, kChecksum, "checksum");
    if (stored != sum && static_cast<std::int64_t>(stored) != signed_sum) {
      broken(at_ == 0 ? "this is not a tar archive (no header with a right checksum)"
                      : "a header's checksum is wrong");
    }
  }

  /// Octal digits, or GNU's base 256 when the highest bit is set.
  std::uint64_t number(std::string_view header, const Field& field, const char* what) const {
    std::string_view text = header.substr(field.offset, field.bytes);
    std::uint64_t value = 0;
    if ((static_cast<unsigned char>(text.front()) & 0x80) != 0) {
      for (std::size_t i = 0; i < text.size(); ++i) {
        const unsigned byte = static_cast<unsigned char>(text[i]) & (i == 0 ? 0x7fU : 0xffU);
        if (value >> 55 != 0) broken(fmt::format("the {} in a header is out of range", what));
        value = value << 8 | byte;
      }
      return value;
    }
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    std::size_t digits = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '7'; ++digits) {
      value = value << 3 |
              static_cast<std::uint64_t>(text[digits] - '0');  // 12 digits at most: 36 bits
    }
    if (text.substr(digits).find_first_not_of(std::string_view(" \0", 2)) !=
        std::string_view::npos) {
      broken(fmt::format("the {} in a header is not an octal number", what));
    }
    return value;
  }

  static std::string_view until_zero(std::string_view text) {
    return text.substr(0, text.find('\0'));
  }

  static std::string name_of(std::string_view header) {
    std::string name(until_zero(header.substr(kName.offset, kName.bytes)));
    // GNU's own format says "ustar  " and keeps other things where ustar has the prefix.
    if (header.substr(kMagic, 6) == std::string_view("ustar\0", 6)) {
      const std::string_view prefix = until_zero(header.substr(kPrefix.offset, kPrefix.bytes));
      if (!prefix.empty()) name = std::string(prefix) + "/" + name;
    }
    return name;
  }

  void member(std::string_view header) {
    const char type = header[kType];
    const bool is_extension = type == 'x' || type == 'g' || type == 'L' || type == 'K';
    // Links, devices, folders and pipes have no bytes in the archive, whatever their size field
    // says.
    const bool has_no_bytes = type >= '1' && type <= '6';
    std::uint64_t bytes = number(header, kSize, "size");
    if (!is_extension && overrides_.bytes) bytes = *overrides_.bytes;
    if (has_no_bytes) bytes = 0;
    if (type == 'S' || type == 'M') broken("sparse and multi-volume archives are not read");

    const std::uint64_t begin = at_ + kBlock;
    if (bytes > text_.size() - begin) {
      broken(fmt::format("a member of {} bytes goes beyond the end of the archive ({} bytes)",
                         bytes,
                         text_.size()));
    }
    const std::string_view data = text_.substr(begin, bytes);
    if (is_extension) {
      if (bytes > kLongestExtension) broken("an extended header is longer than 1 MiB");
      if (type == 'x') read_pax(data);
      if (type == 'L') overrides_.name = std::string(until_zero(data));
    } else {
      const bool is_file = type == '0' || type == '\0' || type == '7';
      std::string name = overrides_.name ? *overrides_.name : name_of(header);
      // Before ustar a folder was a file whose name ends in a slash.
      if (is_file && !name.ends_with('/')) {
        if (name.empty()) broken("a member has no name");
        index_.members.push_back({std::move(name), begin, bytes});
      }
      overrides_ = {};
    }
    // The last member's padding may be missing; nothing of it is data.
    at_ = std::min<std::uint64_t>(begin + (bytes + kBlock - 1) / kBlock * kBlock, text_.size());
  }

  static std::optional<std::uint64_t> decimal(std::string_view digits) {
    if (digits.empty() || digits.size() > 18) return std::nullopt;
    std::uint64_t value = 0;
    for (const char c : digits) {
      if (c < '0' || c > '9') return std::nullopt;
      value = value * 10 + static_cast<std::uint64_t>(c - '0');
    }
    return value;
  }

  /// Records "LENGTH KEY=VALUE\n", LENGTH counting the whole record.
  void read_pax(std::string_view data) {
    while (!data.empty() && data.front() != '\0') {
      const std::size_t space = data.find(' ');
      const auto length = decimal(data.substr(0, std::min(space, data.size())));
      if (space == std::string_view::npos || !length || *length > data.size() ||
          *length < space + 3 || data[*length - 1] != '\n') {
        broken("a pax record is malformed");
      }
      const std::string_view record = data.substr(space + 1, *length - space - 2);
      const std::size_t equals = record.find('=');
      if (equals == std::string_view::npos) broken("a pax record has no '='");
      const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
      if (key == "path") overrides_.name = std::string(until_zero(value));
      if (key == "size") {
        overrides_.bytes = decimal(value);
        if (!overrides_.bytes) broken("the size in a pax record is not a number");
      }
      if (key.starts_with("GNU.sparse.")) broken("sparse archives are not read");
      data.remove_prefix(*length);
    }
  }

  std::string_view text_;
  const std::string& where_;
  std::uint64_t at_ = 0;
  Overrides overrides_;
  TarIndex index_;
};

}  // namespace

TarIndex read_tar_index(std::span<const std::byte> bytes, const std::string& where) {
  return TarReader(bytes, where).read();
}

}  // namespace pocketvlm
