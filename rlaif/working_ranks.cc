#include "rlaif/working_ranks.h"

#include <algorithm>
#include <utility>

namespace pocketvlm {
namespace {

// MPI counts the bytes of a message in an int.
constexpr std::size_t kLargestPiece = std::size_t{64} << 20;

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string text_of_first(const WorkingRanks& ranks, const std::string& text) {
  const std::size_t size = std::stoull(ranks.gather(std::to_string(text.size())).front());
  std::string whole;
  while (whole.size() < size) {
    whole += ranks.gather(ranks.is_first() ? text.substr(whole.size(), kLargestPiece) : "").front();
  }
  return whole;
}

}  // namespace

WorkingRanks WorkingRanks::with_one_worker() const {
  WorkingRanks one = *this;
  one.workers = 1;
  return one;
}

Json told_by_first(const WorkingRanks& ranks, const std::function<Json()>& say) {
  Json said;
  if (ranks.is_first()) said = say();
  if (ranks.size == 1) return said;
  return parse_json(text_of_first(ranks, dump(said)), "what rank 0 says");
}

std::vector<Json> gather_rows(const WorkingRanks& ranks, const std::vector<Json>& own) {
  std::string text;
  for (const Json& row : own) text += dump(row) + "\n";
  std::vector<Json> rows;
  for (const std::string& lines : ranks.size == 1 ? std::vector<std::string>{std::move(text)} : ranks.gather(text)) {
    for (std::size_t begin = 0; begin < lines.size();) {
      const std::size_t end = lines.find('\n', begin);
      rows.push_back(parse_json(std::string_view(lines).substr(begin, end - begin), "rows of another rank"));
      begin = end + 1;
    }
  }
  return rows;
}

WorkTurn turn_of(const WorkingRanks& ranks, std::size_t begin, std::size_t count, std::size_t batch) {
  const std::size_t group = begin / batch;
  const auto border = [&](int worker) {
    return std::clamp((group + static_cast<std::size_t>(worker)) * batch, begin, count);
  };
  WorkTurn turn;
  turn.end = border(ranks.workers);
  turn.own_begin = border(std::min(ranks.rank, ranks.workers));
  turn.own_end = border(std::min(ranks.rank + 1, ranks.workers));
  return turn;
}

}  // namespace pocketvlm
