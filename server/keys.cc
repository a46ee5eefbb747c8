#include "server/keys.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"
#include "server/request_id.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr std::pair<Role, const char*> kRoles[] = {
    {Role::kGenerate, "generate"}, {Role::kSessions, "sessions"},
    {Role::kInspect, "inspect"},   {Role::kMetrics, "metrics"},
    {Role::kAdmin, "admin"},
};

// More is no limit, and could not be counted.
constexpr double kMostRate = 1e12;
// Shares of more than these would be no shares any more.
constexpr double kLeastWeight = 0.001;
constexpr double kMostWeight = 1000;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

// `known` are all fields that `object` may have.
absl::Status CheckFields(const json& object,
                         const std::vector<std::string>& known) {
  for (const auto& [name, _] : object.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return Bad(absl::StrCat("there is no field ", Quoted(name), ", but ",
                            absl::StrJoin(known, ", ")));
  }
  return absl::OkStatus();
}

// The text of a field; empty if it is not there. What is no text is not shown:
// it might be a key.
absl::StatusOr<std::string> Text(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return "";
  if (!found->is_string() || found->get_ref<const std::string&>().empty()) {
    return Bad(absl::StrCat(name, " is not a text of one character at least"));
  }
  return found->get<std::string>();
}

absl::StatusOr<std::optional<KeyDigest>> ReadDigest(const json& entry) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, Text(entry, "sha256"));
  if (text.empty()) return std::optional<KeyDigest>();
  KeyDigest digest;
  const bool digits =
      std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
  if (text.size() != 2 * digest.size() || !digits) {
    return Bad(absl::StrCat(
        "sha256 has ", text.size(),
        " characters and should be the key's SHA-256 in 64 hexadecimal digits; "
        "engram-server --make-key makes both"));
  }
  const std::string bytes = absl::HexStringToBytes(text);
  std::memcpy(digest.data(), bytes.data(), digest.size());
  return std::optional<KeyDigest>(digest);
}

absl::StatusOr<std::set<Role>> ReadRoles(const json& entry) {
  const auto found = entry.find("roles");
  if (found == entry.end() || !found->is_array()) {
    return Bad("roles is not a list; [] is one that allows only Models");
  }
  std::set<Role> roles;
  for (const json& item : *found) {
    const std::string name = item.is_string() ? item.get<std::string>() : "";
    std::vector<std::string> known;
    const size_t before = roles.size();
    for (const auto& [role, role_name] : kRoles) {
      if (name == role_name) roles.insert(role);
      known.push_back(role_name);
    }
    if (roles.size() == before) {
      return Bad(absl::StrCat("roles has ", Quoted(name), ", which is none of ",
                              absl::StrJoin(known, ", "),
                              ", or is there twice"));
    }
  }
  return roles;
}

absl::StatusOr<absl::Time> ReadExpiry(const json& entry) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, Text(entry, "expires"));
  if (text.empty()) return absl::InfiniteFuture();
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return Bad(absl::StrCat("expires is ", Quoted(text),
                            ", which is no time such as 2027-01-31T00:00:00Z"));
  }
  return time;
}

absl::Status ReadCount(const json& limits, const char* name,
                       std::optional<int64_t>* count) {
  const auto found = limits.find(name);
  if (found == limits.end()) return absl::OkStatus();
  // A number beyond int64_t is an unsigned or a float.
  if (!found->is_number_integer() || found->get<int64_t>() < 1) {
    return Bad(absl::StrCat("limits: ", name,
                            " is not a whole number from 1 on; without the "
                            "field there is no limit"));
  }
  *count = found->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadRate(const json& limits, const char* name,
                      std::optional<double>* rate) {
  const auto found = limits.find(name);
  if (found == limits.end()) return absl::OkStatus();
  const double value = found->is_number() ? found->get<double>() : 0;
  if (!(value > 0 && value <= kMostRate)) {
    return Bad(absl::StrCat("limits: ", name, " is not a number above 0 up to ",
                            kMostRate,
                            "; without the field there is no limit"));
  }
  *rate = value;
  return absl::OkStatus();
}

absl::Status ReadWeight(const json& limits, double* weight) {
  const auto found = limits.find("weight");
  if (found == limits.end()) return absl::OkStatus();
  *weight = found->is_number() ? found->get<double>() : 0;
  if (*weight >= kLeastWeight && *weight <= kMostWeight) {
    return absl::OkStatus();
  }
  return Bad(absl::StrCat("limits: weight is not a number from ", kLeastWeight,
                          " to ", kMostWeight));
}

absl::StatusOr<std::optional<TenantLimits>> ReadLimits(const json& entry) {
  const auto found = entry.find("limits");
  if (found == entry.end()) return std::optional<TenantLimits>();
  if (!found->is_object()) return Bad("limits is not an object");
  ENGRAM_RETURN_IF_ERROR(CheckFields(
      *found, {"streams", "sessions", "session_bytes", "tokens_per_second",
               "requests_per_second", "weight"}));
  TenantLimits limits;
  ENGRAM_RETURN_IF_ERROR(ReadCount(*found, "streams", &limits.streams));
  ENGRAM_RETURN_IF_ERROR(ReadCount(*found, "sessions", &limits.sessions));
  ENGRAM_RETURN_IF_ERROR(
      ReadCount(*found, "session_bytes", &limits.session_bytes));
  ENGRAM_RETURN_IF_ERROR(
      ReadRate(*found, "tokens_per_second", &limits.tokens_per_second));
  ENGRAM_RETURN_IF_ERROR(
      ReadRate(*found, "requests_per_second", &limits.requests_per_second));
  ENGRAM_RETURN_IF_ERROR(ReadWeight(*found, &limits.weight));
  return std::optional<TenantLimits>(limits);
}

// All of an entry but its limits.
absl::StatusOr<Key> ReadKey(const json& entry) {
  ENGRAM_RETURN_IF_ERROR(
      CheckFields(entry, {"name", "tenant", "sha256", "certificate", "roles",
                          "expires", "limits"}));
  Key key;
  ENGRAM_ASSIGN_OR_RETURN(key.name, Text(entry, "name"));
  ENGRAM_RETURN_IF_ERROR(CheckId("name", key.name));
  ENGRAM_ASSIGN_OR_RETURN(key.tenant, Text(entry, "tenant"));
  if (!key.of_operators()) {
    ENGRAM_RETURN_IF_ERROR(CheckId("tenant", key.tenant));
  }
  ENGRAM_ASSIGN_OR_RETURN(key.digest, ReadDigest(entry));
  ENGRAM_ASSIGN_OR_RETURN(key.certificate, Text(entry, "certificate"));
  if (!key.digest.has_value() && key.certificate.empty()) {
    return Bad("it has neither sha256 nor certificate: nothing is this key");
  }
  ENGRAM_ASSIGN_OR_RETURN(key.roles, ReadRoles(entry));
  ENGRAM_ASSIGN_OR_RETURN(key.expires, ReadExpiry(entry));
  return key;
}

// "keys[2] \"robot\": ", as far as it has a name.
std::string EntryName(size_t index, const json& entry) {
  std::string name;
  if (entry.is_object() && entry.contains("name") && entry["name"].is_string())
    name = absl::StrCat(" ", Quoted(entry["name"].get<std::string>()));
  return absl::StrCat("keys[", index, "]", name, ": ");
}

}  // namespace

const char* RoleName(Role role) {
  for (const auto& [known, name] : kRoles) {
    if (known == role) return name;
  }
  return "";
}

KeyDigest DigestOf(absl::string_view key) {
  KeyDigest digest;
  SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(),
         digest.data());
  return digest;
}

bool Key::Has(Role role) const {
  if (roles.contains(role)) return true;
  // Its numbers are not of one tenant alone.
  if (role == Role::kMetrics && !of_operators()) return false;
  return roles.contains(Role::kAdmin);
}

KeySet::KeySet() {
  ENGRAM_CHECK(RAND_bytes(secret_.data(), secret_.size()) == 1);
}

absl::StatusOr<KeySet> KeySet::Parse(std::string_view text,
                                     const std::string& file) {
  const auto bad = [&file](absl::string_view where, absl::string_view what) {
    return Bad(absl::StrCat(file, ": ", where, what));
  };
  const absl::StatusOr<json> value = ParseStrictJson(text, file);
  if (!value.ok()) return Bad(value.status().message());
  if (!value->is_object() || value->size() != 1 || !value->contains("keys") ||
      !(*value)["keys"].is_array()) {
    return bad("", "not an object {\"keys\": [...]} with that field alone");
  }
  KeySet set;
  size_t index = 0;
  for (const json& entry : (*value)["keys"]) {
    const std::string where = EntryName(index++, entry);
    if (!entry.is_object()) return bad(where, "not an object");
    absl::StatusOr<Key> key = ReadKey(entry);
    if (!key.ok()) return bad(where, key.status().message());
    const auto limits = ReadLimits(entry);
    if (!limits.ok()) return bad(where, limits.status().message());
    const absl::Status added = set.Add(*std::move(key), *limits);
    if (!added.ok()) return bad(where, added.message());
  }
  return set;
}

absl::Status KeySet::Add(Key key, const std::optional<TenantLimits>& limits) {
  ENGRAM_RETURN_IF_ERROR(AddLimits(key, limits));
  const size_t index = keys_.size();
  if (!by_name_.emplace(key.name, index).second) {
    return Bad("another key has the same name");
  }
  if (key.digest.has_value()) {
    const auto [twin, added] = by_blinded_.emplace(Blinded(*key.digest), index);
    if (!added) {
      return Bad(absl::StrCat("its sha256 is that of ",
                              Quoted(keys_[twin->second].name)));
    }
  }
  if (!key.certificate.empty()) {
    const auto [twin, added] = by_certificate_.emplace(key.certificate, index);
    if (!added) {
      return Bad(absl::StrCat("its certificate is that of ",
                              Quoted(keys_[twin->second].name)));
    }
  }
  keys_.push_back(std::move(key));
  return absl::OkStatus();
}

absl::Status KeySet::AddLimits(const Key& key,
                               const std::optional<TenantLimits>& limits) {
  if (key.of_operators()) {
    if (!limits.has_value()) return absl::OkStatus();
    return Bad("limits are a tenant's, and a key of \"*\" acts for others");
  }
  TenantLimits& known = tenants_[key.tenant];
  if (!limits.has_value()) return absl::OkStatus();
  const auto [stated, first] = stated_by_.emplace(key.tenant, key.name);
  if (first) {
    known = *limits;
  } else if (known != *limits) {
    return Bad(absl::StrCat("its limits differ from those of ",
                            Quoted(stated->second),
                            ", and all keys of a tenant share them"));
  }
  return absl::OkStatus();
}

// Keys are looked up by this, which nobody outside can compute, so that what a
// look-up's time may tell is nothing about the digests in the file.
KeyDigest KeySet::Blinded(const KeyDigest& digest) const {
  KeyDigest blinded;
  ENGRAM_CHECK(HMAC(EVP_sha256(), secret_.data(), secret_.size(), digest.data(),
                    digest.size(), blinded.data(), nullptr) != nullptr);
  return blinded;
}

const Key* KeySet::FindSent(absl::string_view key) const {
  const auto found = by_blinded_.find(Blinded(DigestOf(key)));
  return found == by_blinded_.end() ? nullptr : &keys_[found->second];
}

const Key* KeySet::FindCertificate(absl::string_view name) const {
  const auto found = by_certificate_.find(name);
  return found == by_certificate_.end() ? nullptr : &keys_[found->second];
}

}  // namespace engram
