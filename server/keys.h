// KeySet: the keys that a server takes, as their file states them. Of a key
// itself the file has only the SHA-256, so that who reads the file gains none.
//
//   {"keys": [{"name": "robot", "tenant": "acme", "sha256": "<64 digits>",
//              "roles": ["generate"], "expires": "2027-01-31T00:00:00Z",
//              "limits": {"streams": 8}}]}
//
// Thread-safe: constant.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/tenant.h"

namespace engram {

// What a key may be used for.
enum class Role {
  kGenerate,  // Generation
  kSessions,  // Sessions
  kInspect,   // to look into states
  kMetrics,   // the page of metrics, which tells of all tenants
  kAdmin,     // all but kMetrics, for its own tenant
};

// "generate", as the file has it.
const char* RoleName(Role role);

// The tenant of operators: its keys act for any tenant that a call names.
inline constexpr char kOperators[] = "*";

using KeyDigest = std::array<uint8_t, 32>;  // SHA-256

// Of a key as it is sent.
KeyDigest DigestOf(absl::string_view key);

struct Key {
  std::string name;
  std::string tenant;
  // One of the two at least is there: what is sent, and a name (subjectAltName)
  // in the client's certificate that stands for it.
  std::optional<KeyDigest> digest;
  std::string certificate;
  std::set<Role> roles;
  absl::Time expires = absl::InfiniteFuture();

  bool of_operators() const { return tenant == kOperators; }
  // Whether the role is the key's, by itself or by kAdmin.
  bool Has(Role role) const;
};

class KeySet {
 public:
  // Of `text`, which `file` holds. INVALID_ARGUMENT names the file, the key and
  // what is wrong: it is no such JSON, has a field that does not exist, a value
  // that it cannot have or a key twice, or two keys of a tenant state limits
  // that differ. What is sent as a key, or might be, is never in it.
  static absl::StatusOr<KeySet> Parse(std::string_view text,
                                      const std::string& file);

  const std::vector<Key>& keys() const { return keys_; }
  // All but that of operators, with the limits that a key of theirs states.
  const std::map<std::string, TenantLimits>& tenants() const {
    return tenants_;
  }

  // The key that was sent, or nullptr. How long it takes tells nothing of the
  // keys that there are.
  const Key* FindSent(absl::string_view key) const;
  // The key that a name in a client's certificate stands for, or nullptr.
  const Key* FindCertificate(absl::string_view name) const;

 private:
  KeySet();

  absl::Status Add(Key key, const std::optional<TenantLimits>& limits);
  absl::Status AddLimits(const Key& key,
                         const std::optional<TenantLimits>& limits);
  KeyDigest Blinded(const KeyDigest& digest) const;

  KeyDigest secret_;
  std::vector<Key> keys_;
  absl::flat_hash_map<KeyDigest, size_t> by_blinded_;  // into keys_
  absl::flat_hash_map<std::string, size_t> by_certificate_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  std::map<std::string, TenantLimits> tenants_;
  // The first key of each tenant that states limits.
  absl::flat_hash_map<std::string, std::string> stated_by_;
};

}  // namespace engram
