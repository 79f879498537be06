#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "rlaif/judge.h"
#include "rlaif/splitter.h"

namespace pocketvlm {

/// How far a judge says what is true, on claims about pictures that people wrote down.
struct ClaimAgreement {
  /// A picture's claims, and what the judge made of them.
  struct PictureClaims {
    struct Row {
      std::string text;
      bool truth = false;
      std::vector<std::string> questions;  // that the claim became
      bool said_yes = false;               // to all of them
      std::string problem;                 // why not all could be asked or read; counts as no
    };
    std::string image;
    std::string missing;  // why the picture cannot be read; then its claims are not judged
    std::vector<Row> claims;
  };
  std::vector<PictureClaims> pictures;
  double mean_coverage = 0;  // p_yes + p_no of the questions answered: near 0, the judge's yes and no mean little

  /// {"pictures", "claims", "accuracy", "said_yes", "of_true", "of_false", "true_claims", "false_claims", "problems",
  /// "mean_coverage", "not_asked", "missing": [{"image", "reason", "claims"}], "by_picture": [...]}; shares of nothing are null.
  Json to_json() const;
};

/// Lines {"image": path, "claims": [{"text", "true"}]}; paths are relative to the file. Every claim goes the loop's own way:
/// the splitter makes questions of it, and the judge accepts it by
/// saying yes to all of them. Throws Error naming file and line of a line of another form,
/// and when no picture can be read.
ClaimAgreement judge_claims_file(const std::string& path, Splitter& splitter, Judge& judge, double margin = 0);

}  // namespace pocketvlm
