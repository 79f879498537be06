#include "trainer/bench_shapes.h"

#include <array>
#include <cmath>

namespace pocketvlm {
namespace {

/// The Mersenne twister as Python seeds and reads it (Matsumoto and Nishimura's init_by_array; 53 bits a number).
class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed) {
    state_[0] = 19650218U;
    for (std::size_t i = 1; i < kSize; ++i) {
      state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
    }
    std::size_t i = 1;
    const auto advance = [&] {
      if (++i < kSize) return;
      state_[0] = state_[kSize - 1];
      i = 1;
    };
    for (std::size_t k = 0; k < kSize; ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525U)) + seed;
      advance();
    }
    for (std::size_t k = 1; k < kSize; ++k) {
      state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941U)) - static_cast<uint32_t>(i);
      advance();
    }
    state_[0] = 0x80000000U;
  }

  double uniform(double low, double high) {
    const uint32_t a = next() >> 5, b = next() >> 6;
    return low + (high - low) * ((a * 67108864.0 + b) / 9007199254740992.0);
  }

 private:
  static constexpr std::size_t kSize = 624, kMiddle = 397;

  uint32_t next() {
    if (at_ == kSize) refill();
    uint32_t y = state_[at_++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680U;
    y ^= (y << 15) & 0xefc60000U;
    return y ^ (y >> 18);
  }
  void refill() {
    for (std::size_t i = 0; i < kSize; ++i) {
      const uint32_t y = (state_[i] & 0x80000000U) | (state_[(i + 1) % kSize] & 0x7fffffffU);
      state_[i] = state_[(i + kMiddle) % kSize] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfU : 0U);
    }
    at_ = 0;
  }

  std::array<uint32_t, kSize> state_ = {};
  std::size_t at_ = kSize;
};

/// Fields of a Hugging Face config: those named here are read, others (dropout, tokens ...) do not change the work.
int64_t number(const Json& json, const std::string& where, const char* key, std::optional<int64_t> otherwise = {}) {
  if (!json.contains(key) && otherwise) return *otherwise;
  PV_CHECK(json.contains(key) && json[key].is_number_integer() && json[key].get<int64_t>() > 0,
           "{}.{}: expected a positive integer",
           where,
           key);
  return json[key].get<int64_t>();
}

const Json& object(const Json& json, const std::string& where, const char* key) {
  PV_CHECK(json.is_object() && json.contains(key) && json[key].is_object(), "{}: expected an object \"{}\"", where, key);
  return json[key];
}

}  // namespace

BenchShapes BenchShapes::read(const std::string& path) {
  const Json json = read_json(path);
  const Json& vision = object(json, path, "vision");
  const Json& language = object(json, path, "language");
  const std::string in_vision = path + ": vision", in_language = path + ": language";
  BenchShapes shapes;
  ModelConfig& model = shapes.model;
  model.family = "bench";
  model.image.patch_size = number(vision, in_vision, "patch_size");
  model.vision.hidden = number(vision, in_vision, "hidden_size");
  model.vision.ffn = number(vision, in_vision, "intermediate_size");
  model.vision.num_layers = number(vision, in_vision, "num_hidden_layers");
  model.vision.num_heads = number(vision, in_vision, "num_attention_heads");
  const int64_t image_size = number(vision, in_vision, "image_size");
  PV_CHECK(image_size >= model.image.patch_size, "{}.image_size: {} pixels are less than one patch", in_vision, image_size);
  model.vision.position_side = image_size / model.image.patch_size;
  model.vision.positions = "fixed";
  model.image.mode = "squash";
  model.image.image_size = model.vision.position_side * model.image.patch_size;
  model.projector.num_queries = model.prompt.num_queries = number(json, path, "queries");
  model.projector.num_heads = number(json, path, "resampler_heads");
  LanguageConfig& decoder = model.language;
  decoder.vocab = number(language, in_language, "vocab_size");
  decoder.hidden = number(language, in_language, "hidden_size");
  decoder.ffn = number(language, in_language, "intermediate_size");
  decoder.num_layers = number(language, in_language, "num_hidden_layers");
  decoder.num_heads = number(language, in_language, "num_attention_heads");
  decoder.num_kv_heads = number(language, in_language, "num_key_value_heads", decoder.num_heads);
  decoder.head_dim = number(language, in_language, "head_dim", decoder.hidden / decoder.num_heads);
  decoder.max_positions = number(language, in_language, "max_position_embeddings", 2048);
  decoder.norm_eps = language.value("rms_norm_eps", 1e-6);
  decoder.tied_embeddings = language.value("tie_word_embeddings", false);
  model.validate(path);
  return shapes;
}

std::vector<int64_t> bench_lengths(int64_t count, uint64_t seed, int64_t low, int64_t high) {
  PythonRandom random(static_cast<uint32_t>(seed));
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) {
    lengths.push_back(
        std::llround(std::exp(random.uniform(std::log(static_cast<double>(low)), std::log(static_cast<double>(high))))));
  }
  return lengths;
}

}  // namespace pocketvlm
