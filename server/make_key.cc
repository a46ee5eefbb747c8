#include "server/make_key.h"

#include <sys/random.h>

#include <array>
#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status.h"
#include "nlohmann/json.hpp"
#include "server/flag_values.h"
#include "server/keys.h"

namespace engram {
namespace {

constexpr char kUse[] =
    "a key is made by --make-key NAME --tenant TENANT [--roles ROLE,...] "
    "[--expires TIME]";

// So that a key which has got lost somewhere is known for what it is.
constexpr char kPrefix[] = "engram-";

std::string View(const std::array<uint8_t, 32>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<std::string> RandomKey() {
  std::array<uint8_t, 32> bytes;
  if (getentropy(bytes.data(), bytes.size()) != 0) {
    return absl::ErrnoToStatus(errno, "no random numbers from the system");
  }
  return absl::StrCat(kPrefix, absl::WebSafeBase64Escape(View(bytes)));
}

}  // namespace

bool AsksForKey(const std::vector<std::string>& arguments) {
  return HasFlag(arguments, "--make-key");
}

absl::StatusOr<MadeKey> MakeKey(const std::vector<std::string>& arguments) {
  ENGRAM_ASSIGN_OR_RETURN(
      auto flags,
      ReadFlagValues(arguments,
                     {"--make-key", "--tenant", "--roles", "--expires"}, kUse));
  if (!flags.contains("tenant")) return BadUse("--tenant is missing", kUse);
  MadeKey made;
  ENGRAM_ASSIGN_OR_RETURN(made.key, RandomKey());
  nlohmann::ordered_json entry;
  entry["name"] = flags["make-key"];
  entry["tenant"] = flags["tenant"];
  entry["sha256"] = absl::BytesToHexString(View(DigestOf(made.key)));
  entry["roles"] = std::vector<std::string>(
      absl::StrSplit(flags["roles"], ',', absl::SkipEmpty()));
  if (flags.contains("expires")) entry["expires"] = flags["expires"];
  // What is no UTF-8 is no name either.
  made.entry = entry.dump(-1, ' ', false,
                          nlohmann::ordered_json::error_handler_t::replace);
  const auto checked =
      KeySet::Parse(absl::StrCat("{\"keys\": [", made.entry, "]}"), "the key");
  if (!checked.ok()) return BadUse(checked.status().message(), kUse);
  return made;
}

}  // namespace engram
