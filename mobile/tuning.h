#pragma once

#include <functional>
#include <string>

#include "base/config.h"
#include "mobile/measure.h"
#include "mobile/session.h"

namespace pocketvlm {

/// The settings that are fastest for one model on one device, found by measuring there. Kept as a
/// small JSON file beside the model.
struct Tuning {
  std::string processor;  // of the device it was measured on; elsewhere it means nothing
  std::int64_t cores = 1;
  std::string kernels = "auto";
  std::int64_t threads = 1;
  std::int64_t decode_threads = 1;
  std::string affinity = "any";
  std::int64_t stream_kib = PieceSizes{}.stream / 1024;
  std::int64_t batch_kib = PieceSizes{}.batch / 1024;
  std::int64_t prefill_tokens = 512;
  double vision_ms_per_slice = 0;
  double prefill_tps = 0;
  double decode_tps = 0;

  void visit_fields(auto&& field) {
    field("processor", processor, "name of the processor it was measured on", required());
    field("cores", cores, "cores the process might use then", required(in_range(1, 4096)));
    field("kernels", kernels, "variant of the inner loops", required());
    field("threads", threads, "for vision and prompts", required(in_range(1, 1024)));
    field("decode_threads", decode_threads, "for single tokens", required(in_range(1, 1024)));
    field("affinity", affinity, "cores the threads stay on", one_of({"any", "fastest"}));
    field("stream_kib",
          stream_kib,
          "weights a thread takes at a time, single tokens",
          in_range(1, 1 << 20));
    field("batch_kib", batch_kib, "the same for many tokens", in_range(1, 1 << 20));
    field("prefill_tokens", prefill_tokens, "tokens of a prompt run at once", in_range(1, 1 << 20));
    field("vision_ms_per_slice",
          vision_ms_per_slice,
          "measured with these settings; 0: without a vision file",
          at_least(0));
    field("prefill_tps", prefill_tps, "measured, tokens a second", at_least(0));
    field("decode_tps", decode_tps, "measured, tokens a second", at_least(0));
  }
  void validate(const std::string& path) const;
};

/// What is searched with: short runs, so that a phone is done in a minute or two.
struct TuneOptions {
  std::int64_t prompt_tokens = 128;
  std::int64_t gen_tokens = 16;
  std::int64_t repeat = 3;  // the median counts
};

/// Searches kernel variant, threads, their cores, and block sizes one after the other. A setting is
/// measured in turn with the best one so far, and taken only when it is clearly faster. `on_trial`
/// hears of each measurement.
Tuning tune(const std::string& model_path,
            const std::string& mmproj_path,
            const TuneOptions& options,
            const std::function<void(const std::string& setting, const Speeds& speeds)>& on_trial);

/// Where the tuning of a model is looked for: beside it.
std::string tuning_path_of(const std::string& model_path);

/// Whether it was measured on a device like this one, with as many cores for this process.
bool made_here(const Tuning& tuning);

/// Fills the settings that `options` leaves open (threads 0, kernels auto).
void apply_tuning(const Tuning& tuning, SessionOptions& options);

/// Fills what `options` leaves open from a tuning file: `given` is "auto" (the file beside the model, if
/// there is one), "none" or a path. A file beside the model that was measured on another device is
/// passed over with a warning; one that was named is an Error then. Returns the path of the file
/// that is used; empty: none.
std::string use_tuning_file(const std::string& given,
                            const std::string& model_path,
                            SessionOptions& options);

/// What the system calls its processor; "unknown" where it says nothing.
std::string processor_name();

}  // namespace pocketvlm
