#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/error.h"
#include "data/source_config.h"
#include "model/lora_config.h"
#include "trainer/distributed/distributed_config.h"
#include "trainer/evaluation_config.h"
#include "trainer/stage_config.h"

/// The alignment loop as data; LibTorch-free.
namespace pocketvlm {

struct RolloutConfig {
  int64_t samples = 10;
  double temperature = 1.0;
  std::vector<double> temperatures;
  double top_p = 1.0;
  int64_t top_k = 0;
  double repetition_penalty = 1.0;
  int64_t max_new_tokens = 96;
  int64_t min_new_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_ids;
  int64_t max_repeats = 0;
  int64_t max_branches = 128;
  void visit_fields(auto&& field) {
    field("samples", samples, "answers a prompt; the same decoding for all", in_range(2, 1000));
    field("temperature", temperature, "high, so that answers differ", in_range(0.01, 10));
    field("temperatures",
          temperatures,
          "instead of temperature: one for each sample in turn; then answers differ by more than "
          "chance (confounded), which an ablation may want");
    field("top_p", top_p, "nucleus", in_range(0.01, 1));
    field("top_k", top_k, "0 is off", at_least(0));
    field("repetition_penalty",
          repetition_penalty,
          "logits of tokens of the question and of the answer so far are divided by this where they are positive, else "
          "multiplied; 1 is off, the paper's OmniLMM policy has 1.1",
          in_range(0.01, 100));
    field("max_new_tokens", max_new_tokens, "of an answer", in_range(1, 1 << 20));
    field("min_new_tokens", min_new_tokens, "no answer ends by itself before", in_range(0, 1 << 20));
    field("stop", stop, "texts that end an answer and are cut off it");
    field("stop_ids", stop_ids, "token ids that end an answer, beside those of the chat template");
    field("max_repeats",
          max_repeats,
          "an answer that ends in one piece of text this many times in a row is cut and counts as not finished; 0 is off, 1 is refused",
          in_range(0, 1 << 20));
    field("max_branches",
          max_branches,
          "answers decoded together, at most; when all of a prompt have ended, the next prompt of its `batch` joins in its place",
          in_range(2, 1 << 16));
  }
  void validate(const std::string& path) const {
    PV_CHECK(max_branches >= samples,
             "{}.max_branches: {} has no room for the {} answers of a prompt; give {} or more",
             path,
             max_branches,
             samples,
             samples);
    PV_CHECK(max_repeats != 1, "{}.max_repeats: 1 would cut every answer; give 2 or more, or 0 for off", path);
    for (const std::int64_t id : stop_ids) PV_CHECK(id >= 0, "{}.stop_ids: {} is no token id", path, id);
    for (const double t : temperatures) {
      PV_CHECK(t >= 0.01 && t <= 10, "{}.temperatures: {} is outside [0.01, 10]", path, t);
    }
  }
};

struct PairConfig {
  int64_t min_difference = 1;
  double min_probability_gap = 0.05;
  int64_t max_pairs_per_prompt = 2;
  bool length_control = true;
  std::string score = "count";
  std::string choice = "score";
  void visit_fields(auto&& field) {
    field("min_difference",
          min_difference,
          "pairs differ by at least this many rejected claims",
          at_least(1));
    field("min_probability_gap",
          min_probability_gap,
          "score probability: pairs differ by at least this much",
          in_range(0, 1));
    field(
        "max_pairs_per_prompt", max_pairs_per_prompt, "drawn at random, seeded", in_range(1, 1000));
    field("length_control",
          length_control,
          "drop pairs whose rejected answer is much longer (one-sided, corpus level)");
    field("score",
          score,
          "count: -(rejected claims), as published; rate: -(rejected / claims); probability: mean "
          "p_yes / (p_yes + p_no) of the claims",
          one_of({"count", "rate", "probability"}));
    field("choice",
          choice,
          "score: the better answer is chosen; random: a coin decides, which an ablation may want",
          one_of({"score", "random"}));
  }
};

struct PreferenceConfig {
  std::string loss = "sigmoid";
  double beta = 0.1;
  double sft_weight = 0.0;
  std::map<std::string, double> mix;
  double label_smoothing = 0.0;
  double simpo_gamma = 0.5;
  double chosen_weight = 1.0;
  double rejected_weight = 1.0;
  double changed_token_weight = 1.0;
  bool mean_over_tokens = false;
  double length_tail_weight = 1.0;
  int64_t epochs = 1;
  int64_t batch_pairs = 16;
  OptimizerConfig optimizer;
  std::vector<std::string> trainable;
  std::optional<LoraConfig> lora;
  std::string compute_dtype = "bf16";
  int64_t pack_tokens = 8192;
  bool share_prompt = true;
  std::string reference = "cached";
  std::string reference_cache;
  int64_t checkpoint_every = 20;
  bool checkpoint_in_background = true;
  int64_t keep_every = 0;
  void visit_fields(auto&& field) {
    std::vector<std::string> kinds = pair_losses();
    kinds.emplace_back("mix");
    field("loss",
          loss,
          "sigmoid (DPO), sigmoid_norm, cdpo, robust, ipo (means over tokens), ipo_sum, hinge, "
          "simpo, bco_pair, kto; mix: the weighted sum of `mix`",
          one_of(kinds));
    field("beta", beta, "strength of the pull to the reference; above 0", at_least(0));
    field("sft_weight",
          sft_weight,
          "weight of the chosen answer's mean-token NLL (RPO style)",
          at_least(0));
    field("mix",
          mix,
          "loss mix: losses and their weights, also sft (NLL of the chosen answers, mean over all "
          "tokens of a step); MPO is {\"sigmoid\": 0.8, \"bco_pair\": 0.2, \"sft\": 1.0}");
    field("label_smoothing",
          label_smoothing,
          "cdpo and robust: the share of pairs believed to be the wrong way round",
          in_range(0, 0.4999));
    field("simpo_gamma", simpo_gamma, "simpo: the margin asked for", at_least(0));
    field("chosen_weight", chosen_weight, "kto: weight of desirable answers", at_least(0));
    field("rejected_weight", rejected_weight, "kto: weight of undesirable answers", at_least(0));
    field("changed_token_weight",
          changed_token_weight,
          "DDPO: weight of the tokens that one answer of a pair replaces in the other (5 in "
          "RLHF-V); 1 is off",
          in_range(0, 1000));
    field("mean_over_tokens",
          mean_over_tokens,
          "log-probs of answers are divided by the sum of their tokens' weights (DDPO as in the "
          "paper) instead of summed");
    field("length_tail_weight",
          length_tail_weight,
          "LD-DPO: weight of the tokens beyond the shorter answer's length; 1 is off",
          in_range(0, 1));
    field("epochs", epochs, "passes over the pairs", in_range(1, 10000));
    field("batch_pairs", batch_pairs, "pairs an optimizer step", in_range(1, 1 << 20));
    field("optimizer", optimizer, "AdamW, or Muon for chosen matrices");
    field("trainable", trainable, "name patterns that learn; empty: everything, or with lora its updates alone");
    field("lora",
          lora,
          "low-rank updates that learn beside `trainable`; the reference is the policy without them, the round's checkpoint has "
          "them merged, and its folder adapter/ holds them alone in PEFT's form");
    field("compute_dtype", compute_dtype, "dtype of matrix products", one_of({"bf16", "f32"}));
    field("pack_tokens",
          pack_tokens,
          "tokens of one forward, at most (one pair always fits); a step's pairs are divided into "
          "packs",
          in_range(1, 1 << 24));
    field("share_prompt",
          share_prompt,
          "the answers of a pair share the decoder's work on picture and question; the same up to "
          "rounding, and faster");
    field("reference",
          reference,
          "cached: the reference's log-probs are computed once, before training; live: in every step, by a frozen copy of the model, or, "
          "where lora's updates alone learn, by the policy without them (no copy); the same up to rounding",
          one_of({"cached", "live"}));
    field("reference_cache",
          reference_cache,
          "folder of another training: log-probs that its reference.jsonl holds of the same weights, texts and pictures are taken from "
          "there, and counted");
    field("checkpoint_every",
          checkpoint_every,
          "optimizer steps between resumable states; 0: only at the end",
          at_least(0));
    field("checkpoint_in_background",
          checkpoint_in_background,
          "training goes on while a state is written, which takes a copy of it in host memory");
    field("keep_every",
          keep_every,
          "optimizer steps between checkpoints that are kept for evaluation to choose from; 0: the "
          "last alone",
          at_least(0));
  }
  static std::vector<std::string> pair_losses() {
    return {"sigmoid",
            "sigmoid_norm",
            "cdpo",
            "robust",
            "ipo",
            "ipo_sum",
            "hinge",
            "simpo",
            "bco_pair",
            "kto"};
  }
  /// The losses that count, with their weights.
  std::map<std::string, double> weighted_losses() const {
    return loss == "mix" ? mix : std::map<std::string, double>{{loss, 1.0}};
  }
  bool uses(const std::string& name) const { return weighted_losses().count(name) != 0; }
  void validate(const std::string& path) const {
    PV_CHECK(beta > 0,
             "{}.beta: 0 takes the pairs out of the loss; give a positive number such as 0.1",
             path);
    PV_CHECK(loss == "mix" ? !mix.empty() : mix.empty(),
             "{}.mix: goes together with loss = \"mix\" and holds at least one loss; it holds {} "
             "and loss is \"{}\"",
             path,
             mix.size(),
             loss);
    std::vector<std::string> known = pair_losses();
    known.emplace_back("sft");
    for (const auto& [name, weight] : mix) {
      bool is_known = false;
      for (const std::string& other : known) is_known |= other == name;
      const auto close = closest_name(name, known);
      PV_CHECK(is_known,
               "{}.mix: unknown loss \"{}\"{}",
               path,
               name,
               close ? ", did you mean \"" + *close + "\"?" : "");
      PV_CHECK(weight >= 0, "{}.mix.{}: the weight {} is negative", path, name, weight);
    }
    PV_CHECK(reference == "cached" || reference_cache.empty(),
             "{}.reference_cache: a live reference is not cached; set reference to \"cached\", or leave the folder out",
             path);
    PV_CHECK(label_smoothing == 0 || uses("cdpo") || uses("robust"),
             "{}.label_smoothing: only the losses cdpo and robust have it; set it to 0",
             path);
    PV_CHECK(!mean_over_tokens || !(uses("ipo") || uses("sigmoid_norm") || uses("simpo")),
             "{}.mean_over_tokens: the loss {} takes means over tokens by itself; set it to false",
             path,
             loss);
  }
};

/// A model behind HTTP that speaks OpenAI's chat completions (vLLM, llama.cpp, pocketvlm-mobile serve).
struct ServerConfig {
  std::string model;
  std::string api_key_variable;
  double timeout_s = 120;
  int64_t attempts = 6;
  double first_wait_s = 1;
  double longest_wait_s = 60;
  int64_t concurrency = 8;
  double requests_per_minute = 0;
  void visit_fields(auto&& field) {
    field("model", model, "name sent with every request; empty: none");
    field("api_key_variable",
          api_key_variable,
          "environment variable that holds the key; empty: none is sent");
    field("timeout_s", timeout_s, "seconds for one request", in_range(0.01, 86400));
    field("attempts",
          attempts,
          "tries of one request before the stage stops (it can be resumed); answers 408, 429 and "
          "5xx, cut connections, timeouts and damaged replies are tried again",
          in_range(1, 1000));
    field("first_wait_s",
          first_wait_s,
          "seconds before the second try; doubles each time, unless the server says Retry-After",
          in_range(0, 3600));
    field("longest_wait_s", longest_wait_s, "seconds between tries, at most", in_range(0, 86400));
    field("concurrency", concurrency, "requests under way at once", in_range(1, 1024));
    field("requests_per_minute",
          requests_per_minute,
          "started, at most; 0: as many as concurrency allows",
          at_least(0));
  }
};

/// How checkpoints of a round are compared.
struct LoopEvaluationConfig {
  SourceConfig source;
  std::string folder;
  int64_t count = 100;
  EvaluationConfig settings;
  double largest_recall_loss = 0.05;
  void visit_fields(auto&& field) {
    field("source", source, "held-out scenes");
    field("folder", folder, "instead of source: a folder made by `data scenes`, or an annotated set");
    field("count", count, "pictures of the source", in_range(1, 1e9));
    field("settings", settings, "how it is measured");
    field("largest_recall_loss",
          largest_recall_loss,
          "a checkpoint that names fewer true objects than the loop's first policy, by more than "
          "this share, is not chosen",
          in_range(0, 1));
  }
};

struct RlaifConfig {
  std::string name = "rlaif";
  std::string policy;  // checkpoint folder, or stage name inside a recipe
  std::string judge;
  int64_t rounds = 1;
  SourceConfig prompts;  // pictures; the question is `instruction`
  std::string instructions;
  int64_t num_prompts = 200;
  std::string instruction = "describe the picture in detail.";
  RolloutConfig rollout;
  std::string splitter = "rules";
  std::string splitter_detail = "things";
  std::string splitter_prompt;
  std::string question_prompt;
  ServerConfig splitter_server;
  ServerConfig judge_server;
  std::string judge_suffix;
  double judge_margin = 0;
  PairConfig pairs;
  PreferenceConfig preference;
  std::string reference = "round";
  std::optional<LoopEvaluationConfig> evaluation;
  int64_t batch = 12;                 // of 10 answers: what the generator decodes together
  bool share_prefix = true;
  std::string compute_dtype = "f32";  // of sampling and judging
  std::string device = "cpu";
  uint64_t seed = 0;
  int64_t threads = 0;
  DistributedConfig distributed;

  void visit_fields(auto&& field) {
    field("name", name, "folder of the results");
    field("policy", policy, "checkpoint folder, or stage name inside a recipe", required());
    field("judge",
          judge,
          "checkpoint folder, stage name inside a recipe, or http://host:port/v1 of a server with "
          "pictures",
          required());
    field("rounds",
          rounds,
          "each samples from the checkpoint of the one before, with fresh prompts",
          in_range(1, 1000));
    field("prompts", prompts, "source of the pictures");
    field("instructions",
          instructions,
          "instead of prompts: JSONL of {\"ds_question_id\", \"image_path\" or \"image\" (base64), "
          "\"question\", \"language\", \"truth\": {\"objects\": [{\"name\", \"box\"}]}}; paths are relative to it");
    field("num_prompts", num_prompts, "pictures used in a round", in_range(1, 1e12));
    field("instruction", instruction, "what the policy is asked, where prompts hold no question");
    field("rollout", rollout, "sampling");
    field("splitter",
          splitter,
          "what divides answers into claims: rules; whole (the answer is one claim); a checkpoint "
          "folder; or http://host:port/v1 of a server");
    field("splitter_detail",
          splitter_detail,
          "splitter rules: things (things, places, numbers, signs; other sentences whole), or attributes (also what is said of a thing, "
          "and sentences by their clauses, in English)",
          one_of({"things", "attributes"}));
    field("splitter_prompt",
          splitter_prompt,
          "what a splitter that is a model is asked, instead of the built-in text; {question} and {answer} stand for the two. It is to "
          "write lines \"- fact || yes/no question\", with a question_prompt lines \"- fact\", or NONE");
    field("question_prompt",
          question_prompt,
          "asks a splitter that is a model, in a second turn, for the question of each fact, as RLAIF-V does; {facts} stands for lines "
          "\"- fact\". It is to write as many lines \"- question\"; empty: questions stand behind their facts");
    field("splitter_server", splitter_server, "when the splitter is a server");
    field("judge_server", judge_server, "when the judge is a server");
    field("judge_suffix",
          judge_suffix,
          "put behind every question to the judge, such as \" Please answer yes or no.\"");
    field("judge_margin",
          judge_margin,
          "a claim is accepted when p_yes > p_no + margin; published: 0",
          in_range(0, 1));
    field("pairs", pairs, "from scores to pairs");
    field("preference", preference, "DPO");
    field("reference",
          reference,
          "round: the checkpoint that a round begins with, as published; first: that of round 1",
          one_of({"round", "first"}));
    field("evaluation",
          evaluation,
          "compares the checkpoints of a round, the one it began with among them, and goes on with "
          "the best; null: the last");
    field("batch", batch, "prompts worked on together, and written together", in_range(1, 4096));
    field("share_prefix",
          share_prefix,
          "claims about one picture share the decoder's work on their common beginning; the same up "
          "to rounding, and faster");
    field("compute_dtype",
          compute_dtype,
          "dtype of matrix products when sampling and judging",
          one_of({"bf16", "f32"}));
    field("device", device, "cpu or cuda", one_of({"cpu", "cuda"}));
    field("seed", seed, "of sampling and of pair choice");
    field("threads", threads, "0: all cores", in_range(0, 1024));
    field("distributed",
          distributed,
          "how the ranks of mpirun or srun share preference training; prompts, pictures and pairs are divided over them in any "
          "case");
  }
  void validate(const std::string& path) const {
    PV_CHECK(splitter == "rules" || splitter_detail == "things",
             "{}.splitter_detail: \"{}\" is for the splitter \"rules\", not \"{}\"",
             path,
             splitter_detail,
             splitter);
    const bool is_model = splitter != "rules" && splitter != "whole";
    PV_CHECK(is_model || (splitter_prompt.empty() && question_prompt.empty()),
             "{}: splitter_prompt and question_prompt are for a splitter that is a model, not \"{}\"",
             path,
             splitter);
    PV_CHECK(splitter_prompt.empty() || splitter_prompt.find("{answer}") != std::string::npos,
             "{}.splitter_prompt: has no {{answer}}, which stands for the answer to be divided",
             path);
    PV_CHECK(question_prompt.empty() || question_prompt.find("{facts}") != std::string::npos,
             "{}.question_prompt: has no {{facts}}, which stands for the facts to be asked about",
             path);
  }
};

/// True for a role that a server plays.
inline bool is_server(const std::string& role) {
  return role.starts_with("http://") || role.starts_with("https://");
}

}  // namespace pocketvlm
