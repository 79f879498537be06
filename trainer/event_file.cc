#include "trainer/event_file.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace pocketvlm {
namespace {

std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78U : 0);
    table[i] = value;
  }
  return table;
}

/// TFRecord stores checksums rotated and shifted, so that a checksum of checksums is no trivial one.
uint32_t masked_crc(const void* bytes, std::size_t size) {
  const uint32_t crc = crc32c(bytes, size);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <typename T>
void put_fixed(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// Field numbers of tensorboard's event.proto and summary.proto; the low three bits say how the value is stored.
constexpr char kEventWallTime = (1 << 3) | 1;  // double
constexpr char kEventStep = (2 << 3) | 0;      // varint
constexpr char kEventVersion = (3 << 3) | 2;   // bytes
constexpr char kEventSummary = (5 << 3) | 2;
constexpr char kSummaryValue = (1 << 3) | 2;
constexpr char kValueTag = (1 << 3) | 2;
constexpr char kValueSimple = (2 << 3) | 5;    // float

void put_bytes(std::string& out, char key, const std::string& bytes) {
  out += key;
  put_varint(out, bytes.size());
  out += bytes;
}

}  // namespace

uint32_t crc32c(const void* bytes, std::size_t size) {
  static const std::array<uint32_t, 256> table = make_crc_table();
  uint32_t crc = 0xffffffffU;
  for (std::size_t i = 0; i < size; ++i) crc = table[(crc ^ static_cast<const unsigned char*>(bytes)[i]) & 0xff] ^ (crc >> 8);
  return ~crc;
}

EventFile::EventFile(const std::string& path) : path_(path) {
  file_.reset(std::fopen(path.c_str(), "wb"));
  PV_CHECK(file_ != nullptr, "{}: cannot be written: {}", path, std::strerror(errno));
  std::string event;
  event += kEventWallTime;
  put_fixed(event, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  put_bytes(event, kEventVersion, "brain.Event:2");
  write_record(event);
}

void EventFile::append(int64_t step, double wall_time, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, kValueTag, tag);
    value += kValueSimple;
    put_fixed(value, static_cast<float>(number));
    put_bytes(summary, kSummaryValue, value);
  }
  std::string event;
  event += kEventWallTime;
  put_fixed(event, wall_time);
  event += kEventStep;
  put_varint(event, static_cast<uint64_t>(step));
  put_bytes(event, kEventSummary, summary);
  write_record(event);
}

void EventFile::write_record(const std::string& event) {
  std::string record;
  put_fixed(record, static_cast<uint64_t>(event.size()));
  put_fixed(record, masked_crc(record.data(), 8));
  record += event;
  put_fixed(record, masked_crc(event.data(), event.size()));
  PV_CHECK(std::fwrite(record.data(), 1, record.size(), file_.get()) == record.size() && std::fflush(file_.get()) == 0,
           "{}: writing failed: {}",
           path_,
           std::strerror(errno));
}

}  // namespace pocketvlm
