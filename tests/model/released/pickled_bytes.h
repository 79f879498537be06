#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace pocketvlm {

/// Bytes of a zip archive with stored entries.
std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries);

/// The pickle that torch.save writes for one tensor of storage `key`: the arguments of its rebuilding are given.
std::string pickled_tensor(const std::string& storage_class,
                           const std::string& key,
                           std::int64_t elements,
                           std::int64_t offset,
                           const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& strides);
/// A whole program: a dictionary of these names and values.
std::string pickled_dictionary(const std::vector<std::pair<std::string, std::string>>& items);

}  // namespace pocketvlm
