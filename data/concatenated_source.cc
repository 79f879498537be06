#include "data/concatenated_source.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"

namespace pocketvlm {

ConcatenatedSource::ConcatenatedSource(std::string name,
                                       std::vector<std::unique_ptr<SampleSource>> parts)
    : name_(std::move(name)), parts_(std::move(parts)) {
  std::int64_t end = 0;
  for (const auto& part : parts_) {
    PV_CHECK(part->size() < kEndless, "{}: an endless source has nothing after it", part->name());
    ends_.push_back(end += part->size());
  }
}

ConcatenatedSource::Found ConcatenatedSource::find(std::int64_t index) const {
  PV_CHECK(index >= 0 && index < size(), "{}: there is no sample {} of {}", name_, index, size());
  const auto part = std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin();
  const SampleSource& source = *parts_[static_cast<std::size_t>(part)];
  return {&source, index - (ends_[static_cast<std::size_t>(part)] - source.size())};
}

Sample ConcatenatedSource::at(std::int64_t index) const {
  const Found found = find(index);
  return found.source->at(found.index);
}

Sample ConcatenatedSource::outline(std::int64_t index) const {
  const Found found = find(index);
  return found.source->outline(found.index);
}

std::string ConcatenatedSource::place(std::int64_t index) const {
  const Found found = find(index);
  return fmt::format("{}: {}", found.source->name(), found.source->place(found.index));
}

std::optional<std::int64_t> ConcatenatedSource::file_number(std::int64_t index) const {
  return std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin();
}

std::vector<std::string> matching_files(const std::string& path) {
  const std::filesystem::path pattern(path);
  const std::string name = pattern.filename().string();
  std::error_code ignored;
  if (name.find_first_of("*?") == std::string::npos || std::filesystem::exists(pattern, ignored)) {
    return {path};
  }
  const std::filesystem::path folder = pattern.has_parent_path() ? pattern.parent_path() : ".";
  std::vector<std::string> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    if (entry->is_regular_file(ignored) && ::fnmatch(name.c_str(), file.c_str(), FNM_PERIOD) == 0) {
      files.push_back(entry->path().string());
    }
  }
  PV_CHECK(!error, "{}: the folder cannot be read: {}", folder.string(), error.message());
  PV_CHECK(!files.empty(), "{}: no file has such a name", path);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace pocketvlm
