#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/preprocess/prompt.h"
#include "mobile/input_squares.h"
#include "mobile/session.h"

namespace pocketvlm {

/// Which input columns of a language model's matrices matter: the mean square of what each column reads. Quantizers that know it
/// choose scales that keep the columns that matter.
struct Importance {
  std::map<std::string, std::vector<float>> columns;  // by the name of the GGUF tensor; all above 0
  std::string dataset;                                // what it was measured on, for people
  std::int64_t prompts = 0;             // and passages of text
  std::int64_t tokens = 0;

  /// Of a tensor, or nullptr. Throws Error when it is not of that many columns.
  const float* find(const std::string& tensor, std::int64_t length) const;
  Json to_json() const;
};

/// Means, one entry for every matrix. Columns that were never or hardly read get 1/1000 of their matrix's mean: the next prompt may
/// read them.
Importance to_importance(const InputSquares& squares);

/// What it is measured on; `name` is what people are told.
struct CalibrationData {
  std::string name;
  std::vector<Chat> prompts;
  std::string text;
};

/// Runs prompts and the model's own greedy answers to them (up to 64 tokens) through a session, and the text in passages of 512 tokens,
/// and measures.
Importance measure_importance(Session& session, const CalibrationData& data);

/// The same from a checkpoint, by way of an F16 export in a folder inside `folder` that is gone afterwards. The model runs: unlike an
/// export without importance this takes the memory of the F16 files and disk space for them.
Importance measure_importance(const std::string& checkpoint, const CalibrationData& data, const std::string& folder);

}  // namespace pocketvlm
