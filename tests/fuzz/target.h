#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

/// A fuzz target: tests/fuzz/<name>_target.cc defines both functions. It is linked twice: with libFuzzer (preset `fuzz`,
/// scripts/fuzz.sh) and with a small driver of our own that walks a fixed number of damaged inputs in every test run.
namespace pocketvlm {

/// Reads `bytes` as a file of the target's kind and uses what it finds. An Error is the right answer to bad input; any other
/// exception, a crash, a hang or a sanitizer's complaint is a finding.
void read_hostile(std::span<const std::byte> bytes);

/// Writes small valid files of the target's kind into `folder`: where the damage starts from.
void write_seeds(const std::filesystem::path& folder);

/// False where every input is valid, as text is.
extern const bool kDamageIsNoticed;

/// Hands `bytes` to a reader that wants a path: the same file, in memory where the system has such a place, written again
/// each time.
const std::string& as_file(std::span<const std::byte> bytes);

}  // namespace pocketvlm
