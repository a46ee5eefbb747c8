// Strict JSON: nlohmann's parser behind limits, for files that nobody vouches
// for. A header of 100 MB must not become gigabytes of nodes, deep nesting must
// not cost stack, and a key that is there twice has no meaning.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace engram {

// The value of `text`. DATA_LOSS, naming `file`: not JSON, nested deeper than
// 64, more than 4,000,000 values, or a key twice in one object.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               const std::string& file);

// The content of a small file. NOT_FOUND: there is none; DATA_LOSS: not a
// regular file, or longer than `bytes_max`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          size_t bytes_max);

}  // namespace engram
