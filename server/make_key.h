// engram-server --make-key: a new key, and what the file of keys says of it.
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace engram {

struct MadeKey {
  std::string key;    // 256 random bits; kept nowhere
  std::string entry;  // a line of JSON
};

// The command line's words, if it asks for a key.
bool AsksForKey(const std::vector<std::string>& arguments);

// Of --make-key NAME --tenant TENANT [--roles ROLE,...] [--expires TIME].
// INVALID_ARGUMENT says what is wrong with them.
absl::StatusOr<MadeKey> MakeKey(const std::vector<std::string>& arguments);

}  // namespace engram
