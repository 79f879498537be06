#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// One figure of every run: where it stands in the JSON that a run leaves, and how it is shown.
struct AblationMetric {
  std::string name;
  std::string path;
  std::string unit;
  double scale = 1.0;
  std::string better = "lower";
  int64_t digits = 2;

  void visit_fields(auto&& field) {
    field("name", name, "heading of the column; paper figures are given under it", required());
    field("path", path, "keys and list places joined by dots, e.g. files.0.cosine; run.seconds and run.peak_rss_mib are measured by ablate",
          required());
    field("unit", unit, "shown behind the name");
    field("scale", scale, "factor from the JSON's number to the shown one");
    field("better", better, "which direction is an improvement", one_of({"lower", "higher"}));
    field("digits", digits, "behind the decimal point", in_range(0, 9));
  }
};

/// One row of the table: what it changes in the base command.
struct AblationVariant {
  std::string name;
  std::string title;
  std::vector<std::string> arguments;
  std::vector<std::string> set;
  std::vector<std::vector<std::string>> before;
  std::map<std::string, double> paper;

  void visit_fields(auto&& field) {
    field("name", name, "of its folder: letters, digits, - and _", required());
    field("title", title, "of its row; empty: the name");
    field("arguments", arguments, "added to the command");
    field("set", set, "config overrides a.b=c, each added as --set");
    field("before", before, "commands run first, e.g. a measurement whose file the arguments name");
    field("paper", paper, "published figures by metric, in the units shown");
  }
};

/// A grid of runs that differ by switches alone, told as data: the ladder of a paper's figure, or trainings with one thing changed.
struct AblationConfig {
  std::string name;
  std::string title;
  std::string note;
  std::map<std::string, std::string> inputs;
  std::vector<std::string> command;
  std::vector<std::string> resume;
  std::string result;
  std::vector<int64_t> seeds = {1};
  std::vector<AblationMetric> metrics;
  std::vector<AblationVariant> variants;

  void visit_fields(auto&& field) {
    field("name", name, "of the ablation", required());
    field("title", title, "heading of table and page; empty: the name");
    field("note", note, "a paragraph under it: what was measured by whom");
    field("inputs", inputs, "values of {placeholders}; an empty one must be given with --set inputs.NAME=VALUE");
    field("command", command,
          "program and arguments of every run. {out}: the run's folder; {variants}: the folder of all; {variant}, {seed}; inputs by their names",
          required());
    field("resume", resume, "added when a run of this variant was begun before and not finished, e.g. [\"--resume\"]");
    field("result", result, "JSON file with the figures; empty: what the command prints");
    field("seeds", seeds, "each variant runs once a seed; the table shows means and deviations");
    field("metrics", metrics, "columns", required());
    field("variants", variants, "rows, in the order in which they are run", required());
  }
  void validate(const std::string& path) const;
};

}  // namespace pocketvlm
