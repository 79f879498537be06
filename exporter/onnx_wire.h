#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pocketvlm {

/// Protocol Buffers on the wire, as far as ONNX needs them: a field is a number and a kind, then a varint, four bytes, or a length
/// and so many bytes (strings, messages, packed numbers). protobuf.dev/programming-guides/encoding
class WireWriter {
 public:
  void number(int field, std::int64_t value);
  void float32(int field, float value);
  void bytes(int field, std::string_view value);
  void message(int field, const WireWriter& value) { bytes(field, value.text()); }
  /// The head of a field whose bytes are written elsewhere.
  void head(int field, std::uint64_t length);

  const std::string& text() const { return text_; }

 private:
  void varint(std::uint64_t value);
  std::string text_;
};

/// Walks over the fields of one message.
class WireReader {
 public:
  /// `where` begins the texts of Errors. The bytes must outlive the reader.
  WireReader(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  /// Steps to the next field; false at the end. Throws Error on bytes that are no field.
  bool next();
  int field() const { return field_; }
  /// Of the current field. Throws Error when it is of another kind.
  std::int64_t number() const;
  float float32() const;
  std::span<const std::byte> bytes() const;
  std::string text() const;

 private:
  std::uint64_t varint();

  std::span<const std::byte> bytes_;
  std::string where_;
  std::size_t at_ = 0;
  int field_ = 0;
  int kind_ = 0;
  std::uint64_t value_ = 0;
  std::span<const std::byte> payload_;
};

}  // namespace pocketvlm
