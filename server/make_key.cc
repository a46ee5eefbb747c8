#include "server/make_key.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status.h"
#include "nlohmann/json.hpp"
#include "server/keys.h"

namespace engram {
namespace {

constexpr char kUse[] =
    "--make-key NAME --tenant TENANT [--roles ROLE,...] [--expires TIME]";

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

absl::Status BadUse(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, "; a key is made by ", kUse));
}

// By flag, without its dashes.
absl::StatusOr<std::map<std::string, std::string>> ReadFlags(
    const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> values;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    const std::string flag = arguments[i].substr(0, equals);
    if (flag != "--make-key" && flag != "--tenant" && flag != "--roles" &&
        flag != "--expires") {
      return BadUse(absl::StrCat("unknown argument \"", arguments[i], "\""));
    }
    std::string value;
    if (equals != std::string::npos) {
      value = arguments[i].substr(equals + 1);
    } else if (++i < arguments.size()) {
      value = arguments[i];
    }
    if (value.empty()) return BadUse(absl::StrCat(flag, " needs a value"));
    if (!values.emplace(flag.substr(2), std::move(value)).second) {
      return BadUse(absl::StrCat(flag, " is there twice"));
    }
  }
  return values;
}

}  // namespace

bool AsksForKey(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--make-key" || absl::StartsWith(argument, "--make-key="))
      return true;
  }
  return false;
}

absl::StatusOr<MadeKey> MakeKey(const std::vector<std::string>& arguments) {
  ENGRAM_ASSIGN_OR_RETURN(auto flags, ReadFlags(arguments));
  if (!flags.contains("tenant")) return BadUse("--tenant is missing");
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
  if (!checked.ok()) return BadUse(checked.status().message());
  return made;
}

}  // namespace engram
