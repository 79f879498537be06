#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/preprocess/image.h"
#include "rlaif/chat_client.h"

namespace pocketvlm {

/// How likely the judge's first word is yes or no; not renormalised (rlaifv.md section 1.2).
struct Verdict {
  double p_yes = 0;
  double p_no = 0;
  std::string problem = {};  // why there is none (too long, unreadable); the claim counts as rejected

  bool asked() const { return problem.empty(); }
  /// Equality rejects.
  bool accepted(double margin = 0) const { return asked() && p_yes > p_no + margin; }
  /// Near 1 when the judge answers yes/no questions at all.
  double coverage() const { return p_yes + p_no; }
};

/// The role of the judge: says for each question about a picture whether the answer is yes.
class Judge {
 public:
  virtual ~Judge() = default;
  virtual std::vector<Verdict> verdicts(const Image& image,
                                        const std::vector<std::string>& questions) = 0;
  virtual std::string name() const = 0;      // for people
  virtual std::string identity() const = 0;  // changes when the judge would judge otherwise
  virtual Json traffic() const { return nullptr; }
};

/// A judge behind HTTP. Probabilities come from the first token's `top_logprobs`; from a server that does not tell them, the
/// first word counts as certain.
class ServerJudge : public Judge {
 public:
  ServerJudge(const std::string& url, const ServerConfig& config, std::string suffix)
      : client_(url, config), suffix_(std::move(suffix)) {}
  std::vector<Verdict> verdicts(const Image& image,
                                const std::vector<std::string>& questions) override;
  std::string name() const override { return client_.url(); }
  std::string identity() const override {
    return client_.url() + " " + client_.config().model + suffix_;
  }
  Json traffic() const override { return client_.traffic().to_json(); }

 private:
  ChatClient client_;
  std::string suffix_;
};

/// What a server's reply says: exposed for tests.
Verdict read_verdict(const ChatReply& reply);

}  // namespace pocketvlm
