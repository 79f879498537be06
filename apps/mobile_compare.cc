#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {
namespace {

struct CompareOptions {
  ModelOptions model;
  std::string reference;
  std::string text;
  std::int64_t chunk = 256;
  std::int64_t max_tokens = 0;
  bool json = false;
};

// log softmax of one row, in double.
std::vector<double> log_probabilities(const float* logits, std::int64_t vocab) {
  double largest = -INFINITY;
  for (std::int64_t i = 0; i < vocab; ++i)
    largest = std::max(largest, static_cast<double>(logits[i]));
  double total = 0.0;
  for (std::int64_t i = 0; i < vocab; ++i)
    total += std::exp(static_cast<double>(logits[i]) - largest);
  const double shift = largest + std::log(total);
  std::vector<double> out(static_cast<std::size_t>(vocab));
  for (std::int64_t i = 0; i < vocab; ++i)
    out[static_cast<std::size_t>(i)] = static_cast<double>(logits[i]) - shift;
  return out;
}

struct Totals {
  std::int64_t predictions = 0;
  double loss = 0.0;
  double reference_loss = 0.0;
  double kl = 0.0;
  std::int64_t same = 0;

  void add(const std::vector<double>& got, const std::vector<double>& want, std::int32_t next) {
    reference_loss -= want[static_cast<std::size_t>(next)];
    std::size_t first = 0;
    std::size_t second = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      kl += std::exp(want[i]) * (want[i] - got[i]);
      if (want[i] > want[first]) first = i;
      if (got[i] > got[second]) second = i;
    }
    same += first == second ? 1 : 0;
  }
};

Totals compare(Session& session,
               Session* reference,
               const std::vector<std::int32_t>& ids,
               std::int64_t chunk) {
  const std::int64_t vocab = session.language().vocab;
  Totals totals;
  for (std::size_t begin = 0; begin + 1 < ids.size(); begin += static_cast<std::size_t>(chunk)) {
    EncodedChat part;
    const std::size_t end = std::min(ids.size(), begin + static_cast<std::size_t>(chunk) + 1);
    part.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                    ids.begin() + static_cast<std::ptrdiff_t>(end));
    const std::vector<float> logits = session.forward_logits(part);
    std::vector<float> wanted;
    if (reference != nullptr) wanted = reference->forward_logits(part);
    for (std::size_t t = 0; t + 1 < part.ids.size(); ++t) {
      const std::int32_t next = part.ids[t + 1];
      const auto at = static_cast<std::int64_t>(t) * vocab;
      const std::vector<double> got =
          log_probabilities(&logits[static_cast<std::size_t>(at)], vocab);
      totals.loss -= got[static_cast<std::size_t>(next)];
      ++totals.predictions;
      if (reference != nullptr)
        totals.add(got, log_probabilities(&wanted[static_cast<std::size_t>(at)], vocab), next);
    }
  }
  return totals;
}

void run_compare(CompareOptions& options) {
  options.model.session.context = options.chunk + 1;
  Session session(options.model.model, "", options.model.session);
  std::optional<Session> reference;
  if (!options.reference.empty()) {
    reference.emplace(options.reference, "", options.model.session);
    PV_CHECK(reference->language().vocab == session.language().vocab,
             "{} has {} tokens, {} has {}; only models of one vocabulary can be compared",
             options.model.model,
             session.language().vocab,
             options.reference,
             reference->language().vocab);
  }
  const Tokenizer tokenizer = Tokenizer::load(options.model.model);
  std::vector<std::int32_t> ids = tokenizer.encode(read_file(options.text));
  if (options.max_tokens > 0 && static_cast<std::int64_t>(ids.size()) > options.max_tokens)
    ids.resize(static_cast<std::size_t>(options.max_tokens));
  PV_CHECK(ids.size() >= 2, "{}: {} tokens, but two are needed at least", options.text, ids.size());
  const Totals totals = compare(session, reference ? &*reference : nullptr, ids, options.chunk);
  const auto count = static_cast<double>(totals.predictions);
  Json result = {{"tokens", totals.predictions}, {"perplexity", std::exp(totals.loss / count)}};
  if (reference) {
    result["reference_perplexity"] = std::exp(totals.reference_loss / count);
    result["kl"] = totals.kl / count;
    result["same_next_token"] = static_cast<double>(totals.same) / count;
  }
  if (options.json) return print_json(result);
  std::printf("%lld tokens, perplexity %.4f",
              static_cast<long long>(totals.predictions),
              result["perplexity"].get<double>());
  if (reference) {
    std::printf(" (%.4f for the other), KL %.3g nats, same next token %.2f %%",
                result["reference_perplexity"].get<double>(),
                result["kl"].get<double>(),
                100.0 * result["same_next_token"].get<double>());
  }
  std::printf("\n");
}

}  // namespace

void add_compare_command(CLI::App& app) {
  CLI::App* compare = app.add_subcommand(
      "compare", "perplexity of a language file on a text, and how far it is from another file");
  auto options = std::make_shared<CompareOptions>();
  add_language_options(*compare, options->model);
  add_json_option(*compare, options->json);
  compare->add_option("--text", options->text, "UTF-8 file")->required();
  compare->add_option(
      "--reference", options->reference, "the same model in a better precision, say f16");
  compare->add_option("--chunk", options->chunk, "tokens of one pass, each starting anew")
      ->check(CLI::Range(2, 1 << 20));
  compare->add_option("--max-tokens", options->max_tokens, "of the text; 0: all")
      ->check(CLI::NonNegativeNumber);
  compare->callback([options] { run_compare(*options); });
}

}  // namespace pocketvlm
