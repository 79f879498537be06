#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"

namespace pocketvlm {

/// What `pocketvlm data check` reports; `to_json` is the contract's form.
struct DataCheckReport {
  std::int64_t samples = 0;
  std::int64_t kept = 0;
  std::map<std::string, std::int64_t> reasons;
  struct Listed {
    std::string file, place, reason;
  };
  std::vector<Listed> listed;
  Json to_json() const;
};

/// Reads every sample of a .json, .jsonl or .tar (conversations and images decoded); needs no model.
/// A damaged sample is counted and listed; only an unreadable file is an Error.
DataCheckReport check_data(const std::string& path, int threads);

}  // namespace pocketvlm
