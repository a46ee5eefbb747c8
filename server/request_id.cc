#include "server/request_id.h"

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/quoted.h"
#include "server/request_identity.h"

namespace engram {
namespace {

constexpr size_t kRandomDigits = 16;
constexpr size_t kCheckDigits = 16;

// What ties an id to its session and version. No secret: a client that forges
// one deceives itself.
std::string CheckDigits(absl::string_view random, int64_t version,
                        const SessionName& session) {
  std::string made_for = absl::StrCat(random, "\n", version, "\n", session.id);
  // Ids made before there were tenants stay what they are.
  if (NumberOf(session.tenant) != 0) {
    absl::StrAppend(&made_for, "\n", session.tenant->name());
  }
  return absl::StrFormat("%016x", ShortDigest(made_for));
}

}  // namespace

absl::Status CheckId(absl::string_view field, absl::string_view id) {
  if (id.empty() || id.size() > 128) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", id.size(), " characters, limit 1 to 128"));
  }
  for (char c : id) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != ':' &&
        c != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " ", Quoted(std::string(id)),
                       " has a character outside [A-Za-z0-9._:-]"));
    }
  }
  return absl::OkStatus();
}

std::string RandomId() {
  absl::BitGen random;
  return absl::StrFormat("%016x%016x", absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

std::string NewRequestId(const SessionName& session, int64_t version) {
  absl::BitGen generator;
  const std::string random =
      absl::StrFormat("%016x", absl::Uniform<uint64_t>(generator));
  return absl::StrCat(random, CheckDigits(random, version, session), "-",
                      version);
}

std::optional<int64_t> VersionOfRequestId(const SessionName& session,
                                          absl::string_view request_id) {
  constexpr size_t kDash = kRandomDigits + kCheckDigits;
  int64_t version = 0;
  if (request_id.size() <= kDash || request_id[kDash] != '-' ||
      !absl::SimpleAtoi(request_id.substr(kDash + 1), &version)) {
    return std::nullopt;
  }
  const absl::string_view random = request_id.substr(0, kRandomDigits);
  if (request_id.substr(kRandomDigits, kCheckDigits) !=
      CheckDigits(random, version, session)) {
    return std::nullopt;
  }
  return version;
}

}  // namespace engram
