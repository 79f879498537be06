#include "data/tar_table.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/error.h"

namespace pocketvlm {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return result;
}

struct SplitName {
  std::string_view key;
  std::string extension;  // lower case, after the last dot of the last part
};

SplitName split_name(std::string_view name) {
  const std::size_t slash = name.rfind('/');
  const std::size_t start = slash == std::string_view::npos ? 0 : slash + 1;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot <= start) return {name, ""};
  return {name.substr(0, dot), lower(name.substr(dot + 1))};
}

bool is_picture(const std::string& extension) {
  return extension == "jpg" || extension == "jpeg" || extension == "png" || extension == "webp";
}

/// A sample while members are read.
struct Gathered {
  std::string_view key;
  std::int64_t record = -1;
  std::vector<std::uint64_t> pictures;
  std::int64_t twice = -1;
};

/// "0001.mask.png" beside "0001.json" is an annotation or a further picture of 0001, no sample.
bool belongs_to_another(const Gathered& sample, const std::unordered_map<std::string_view, std::uint64_t>& by_name) {
  if (sample.record >= 0) return false;
  const std::size_t slash = sample.key.rfind('/');
  const std::size_t dot = sample.key.find('.', slash == std::string_view::npos ? 0 : slash + 1);
  return dot != std::string_view::npos && by_name.contains(std::string(sample.key.substr(0, dot)) + ".json");
}

template <typename T>
void append(std::string& bytes, const std::vector<T>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// The next `count` values of `bytes`; false when there are not as many.
template <typename T>
bool take(std::span<const std::byte>& bytes, std::uint64_t count, std::span<const T>& values) {
  if (count > bytes.size() / sizeof(T)) return false;
  values = {reinterpret_cast<const T*>(bytes.data()), count};
  bytes = bytes.subspan(count * sizeof(T));
  return true;
}

}  // namespace

std::string_view without_dot_folder(std::string_view name) {
  while (name.starts_with("./")) name.remove_prefix(2);
  return name;
}

std::string TarTable::make(const TarIndex& index) {
  std::vector<Member> members;
  std::vector<std::string_view> names_of;
  std::vector<Gathered> gathered;
  std::unordered_map<std::string_view, std::size_t> by_key;
  std::unordered_map<std::string_view, std::uint64_t> by_name;
  std::string names;
  for (const TarMember& found : index.members) {
    const std::string_view name = without_dot_folder(found.name);
    const auto [key, extension] = split_name(name);
    if (extension != "json" && !is_picture(extension)) continue;
    const std::uint64_t place = members.size();
    members.push_back({found.offset, found.bytes, names.size(), name.size()});
    names_of.push_back(name);
    names += name;
    const auto [slot, is_new_key] = by_key.try_emplace(key, gathered.size());
    if (is_new_key) gathered.push_back({key, -1, {}, -1});
    Gathered& sample = gathered[slot->second];
    if (!by_name.try_emplace(name, place).second) {
      sample.twice = static_cast<std::int64_t>(place);
    } else if (extension == "json") {
      sample.record = static_cast<std::int64_t>(place);
    } else {
      sample.pictures.push_back(place);
    }
  }
  std::erase_if(gathered, [&](const Gathered& sample) { return belongs_to_another(sample, by_name); });

  std::vector<ShardSample> samples;
  std::vector<std::uint64_t> pictures, sorted;
  for (const Gathered& sample : gathered) {
    // A key is the beginning of its members' names.
    const std::int64_t any = sample.record >= 0 ? sample.record : static_cast<std::int64_t>(sample.pictures.front());
    samples.push_back({members[static_cast<std::size_t>(any)].name,
                       sample.key.size(),
                       sample.record,
                       sample.twice,
                       pictures.size(),
                       sample.pictures.size()});
    pictures.insert(pictures.end(), sample.pictures.begin(), sample.pictures.end());
  }
  for (const auto& [name, place] : by_name) sorted.push_back(place);
  std::sort(sorted.begin(), sorted.end(), [&](std::uint64_t a, std::uint64_t b) { return names_of[a] < names_of[b]; });

  std::string bytes;
  append(bytes, std::vector<Head>{{members.size(), samples.size(), pictures.size(), sorted.size(), names.size(), index.has_end_mark ? 1U : 0U}});
  append(bytes, members);
  append(bytes, samples);
  append(bytes, pictures);
  append(bytes, sorted);
  return bytes + names;
}

TarTable::TarTable(std::span<const std::byte> bytes, const std::string& where) {
  std::span<const Head> head;
  bool whole = take(bytes, 1, head);
  if (whole) {
    head_ = head.data();
    whole = take(bytes, head_->members, members_) && take(bytes, head_->samples, samples_) && take(bytes, head_->pictures, pictures_) &&
            take(bytes, head_->distinct, by_name_) && bytes.size() == head_->name_bytes;
  }
  PV_CHECK(whole, "{}: the table of its members is not whole; remove its index", where);
  names_ = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

const TarTable::Member* TarTable::find(std::string_view wanted) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), wanted, [&](std::uint64_t place, std::string_view text) {
    return name(members_[place]) < text;
  });
  if (found == by_name_.end() || name(members_[*found]) != wanted) return nullptr;
  return &members_[*found];
}

}  // namespace pocketvlm
