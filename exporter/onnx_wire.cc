#include "exporter/onnx_wire.h"

#include <cstring>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr int kVarint = 0, kEightBytes = 1, kLengthAndBytes = 2, kFourBytes = 5;

}  // namespace

void WireWriter::varint(std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>((value & 0x7F) | 0x80));
  text_.push_back(static_cast<char>(value));
}

void WireWriter::number(int field, std::int64_t value) {
  varint(static_cast<std::uint64_t>(field) << 3 | kVarint);
  varint(static_cast<std::uint64_t>(value));
}

void WireWriter::float32(int field, float value) {
  varint(static_cast<std::uint64_t>(field) << 3 | kFourBytes);
  char bytes[4];
  std::memcpy(bytes, &value, 4);
  text_.append(bytes, 4);
}

void WireWriter::bytes(int field, std::string_view value) {
  head(field, value.size());
  text_.append(value);
}

void WireWriter::head(int field, std::uint64_t length) {
  varint(static_cast<std::uint64_t>(field) << 3 | kLengthAndBytes);
  varint(length);
}

std::uint64_t WireReader::varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    PV_CHECK(at_ < bytes_.size(), "{}: ends within a number; the file is damaged, export it again", where_);
    const auto byte = static_cast<std::uint64_t>(bytes_[at_++]);
    value |= (byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  fail("{}: a number of more than 64 bits; the file is damaged, export it again", where_);
}

bool WireReader::next() {
  if (at_ == bytes_.size()) return false;
  const std::uint64_t head = varint();
  field_ = static_cast<int>(head >> 3);
  kind_ = static_cast<int>(head & 7);
  if (kind_ == kVarint) {
    value_ = varint();
    return true;
  }
  PV_CHECK(kind_ == kLengthAndBytes || kind_ == kFourBytes || kind_ == kEightBytes,
           "{}: field {} is of unknown kind {}; the file is damaged, export it again", where_, field_, kind_);
  const std::uint64_t length = kind_ == kLengthAndBytes ? varint() : kind_ == kFourBytes ? 4 : 8;
  PV_CHECK(length <= bytes_.size() - at_, "{}: field {} says {} bytes, but {} are left; the file is damaged, export it again", where_,
           field_, length, bytes_.size() - at_);
  payload_ = bytes_.subspan(at_, length);
  at_ += length;
  return true;
}

std::int64_t WireReader::number() const {
  PV_CHECK(kind_ == kVarint, "{}: field {} is no number", where_, field_);
  return static_cast<std::int64_t>(value_);
}

float WireReader::float32() const {
  PV_CHECK(kind_ == kFourBytes, "{}: field {} is no float", where_, field_);
  float value;
  std::memcpy(&value, payload_.data(), 4);
  return value;
}

std::span<const std::byte> WireReader::bytes() const {
  PV_CHECK(kind_ == kLengthAndBytes, "{}: field {} holds no bytes", where_, field_);
  return payload_;
}

std::string WireReader::text() const {
  const auto held = bytes();
  return {reinterpret_cast<const char*>(held.data()), held.size()};
}

}  // namespace pocketvlm
