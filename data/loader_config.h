#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/source_config.h"

namespace pocketvlm {

struct LoaderConfig {
  std::vector<SourceConfig> sources;
  int64_t batch_tokens = 4096;  // tokens of one pack
  int64_t max_tokens = 2048;    // longest sample; longer ones are refused and counted
  std::string long_text = "refuse";
  int64_t look_ahead = 64;      // samples among which best-fit chooses
  int64_t workers = 2;          // threads that draw, decode, slice and tokenize
  uint64_t seed = 0;            // order of the data
  std::string index_folder;     // of large files
  int64_t index_min_mb = 16;

  void visit_fields(auto&& field) {
    field("sources", sources, "mixture of data; weights decide the shares", required());
    field("batch_tokens",
          batch_tokens,
          "tokens of one pack (visual and text)",
          in_range(16, 1 << 24));
    field("max_tokens",
          max_tokens,
          "longest sample; longer ones are refused and counted",
          in_range(8, 1 << 24));
    field("long_text",
          long_text,
          "documents longer than max_tokens: refuse, or split into samples that together hold "
          "and teach every token once",
          one_of({"refuse", "split"}));
    field("look_ahead",
          look_ahead,
          "samples among which best-fit packing chooses",
          in_range(1, 100000));
    field("workers", workers, "threads that draw, decode, slice and tokenize", in_range(0, 512));
    field("seed", seed, "order of the data");
    field("index_folder",
          index_folder,
          "where rank 0 keeps an index of each large file of conversations, text or tar, so that later starts need not read the file "
          "to find its samples; empty: beside the file");
    field("index_min_mb",
          index_min_mb,
          "smaller files are read at every start, and none is kept for them",
          in_range(0, 1 << 30));
  }
  void validate(const std::string& path) const;
};

}  // namespace pocketvlm
