// Files of keys, for tests: the key NAME is "key of NAME".
#pragma once

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/keys.h"

namespace engram {

inline std::string KeyOf(const std::string& name) { return "key of " + name; }

// What is sent as metadata.
inline std::string AuthorizationOf(const std::string& name) {
  return "Bearer " + KeyOf(name);
}

inline std::string Sha256Text(const std::string& key) {
  const KeyDigest digest = DigestOf(key);
  return absl::BytesToHexString(
      {reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// `more` are the entry's other fields, but for its digest.
inline std::string KeyEntry(const std::string& name, const std::string& tenant,
                            const std::string& more = R"("roles": [])") {
  return absl::StrCat("{\"name\": \"", name, "\", \"tenant\": \"", tenant,
                      "\", \"sha256\": \"", Sha256Text(KeyOf(name)), "\", ",
                      more, "}");
}

inline std::string KeysText(const std::vector<std::string>& entries) {
  return absl::StrCat("{\"keys\": [", absl::StrJoin(entries, ", "), "]}");
}

}  // namespace engram
