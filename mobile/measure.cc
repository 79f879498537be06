#include "mobile/measure.h"

#include <algorithm>
#include <cassert>
#include <chrono>

#include "base/random.h"

namespace pocketvlm {
namespace {

EncodedChat noise_slice(const Session& session, Random& random) {
  const ImageConfig& config = session.encoder().image();
  const auto side =
      static_cast<int>(config.mode == "slices" ? config.scale_resolution : config.image_size);
  Image image(side, side);
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
  const ProcessedImage processed = process_image(image, config);
  EncodedChat encoded;
  const auto patch = static_cast<int>(config.patch_size);
  for (const ImageSlice& slice : processed.slices) {
    encoded.grids.push_back({slice.height / patch, slice.width / patch});
    append_patches(slice, patch, encoded.patches);
  }
  return encoded;
}

std::vector<std::int32_t> random_ids(const Session& session, std::int64_t count, Random& random) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(session.language().vocab))));
  }
  return ids;
}

}  // namespace

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  assert(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

Speeds measure_speeds(Session& session,
                      std::int64_t prompt_tokens,
                      std::int64_t gen_tokens,
                      std::uint64_t seed) {
  Random random({seed});
  Speeds speeds;
  if (session.has_vision()) {
    const EncodedChat slice = noise_slice(session, random);
    const double seconds = seconds_of([&] { session.encode_image(slice); });
    speeds.vision_ms_per_slice = 1000.0 * seconds / static_cast<double>(slice.grids.size());
  }
  const std::vector<std::int32_t> prompt = random_ids(session, prompt_tokens, random);
  const std::vector<std::int32_t> generated = random_ids(session, gen_tokens, random);
  session.reset();
  session.append(std::span(prompt).first(1));
  session.reset();
  const double prefill_s = seconds_of([&] { session.append(prompt); });
  speeds.prefill_tps = static_cast<double>(prompt_tokens) / prefill_s;
  const double decode_s = seconds_of([&] {
    for (const std::int32_t& id : generated) session.append(std::span(&id, 1));
  });
  speeds.decode_tps = static_cast<double>(gen_tokens) / decode_s;
  session.reset();
  return speeds;
}

}  // namespace pocketvlm
