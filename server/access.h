// Access: whether somebody may call a method, and for which tenant. Every way
// into the server asks it before anything that was sent is looked at.
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/caller.h"
#include "server/clock.h"
#include "server/key_ring.h"
#include "server/method_needs.h"
#include "server/tenants.h"

namespace engram {

// What a call shows of who makes it.
struct ShownIdentity {
  // The values of its metadata `authorization` and `engram-tenant`.
  std::vector<absl::string_view> authorizations;
  std::vector<absl::string_view> tenants;
  // The names in the client's certificate, which TLS has checked. Asked only
  // where no key was sent.
  std::function<std::vector<std::string>()> certificate_names;
};

class Access {
 public:
  // Without `ring` there are no keys: everybody may do everything, for the
  // tenant without a name. `keyed_reflection`: reflection needs a key. All
  // outlive this.
  Access(const KeyRing* ring, const Tenants* tenants, Clock* clock,
         bool keyed_reflection = false)
      : ring_(ring),
        tenants_(tenants),
        clock_(clock),
        keyed_reflection_(keyed_reflection) {}

  bool keyed() const { return ring_ != nullptr; }
  // Of a server without keys.
  Caller nobody() const { return {.key = "", .tenant = tenants_->nameless()}; }

  // Who calls `method` (MethodNeed::method, or whatever a client asks for).
  // UNAUTHENTICATED: no key, one that is not known, or has expired;
  // PERMISSION_DENIED names the key and what it lacks, or the method that there
  // is none of; RESOURCE_EXHAUSTED: Tenant::CountRequest, of what is no turn,
  // no score and no page of metrics; NOT_FOUND: operators named a tenant that
  // there never was. Nothing of what is no key is in the message. `refused`
  // gets, of who is not let in, the key if it is a known one, and its tenant
  // (that without a name of operators); it stays as it is otherwise.
  absl::StatusOr<Caller> Admit(const ShownIdentity& shown,
                               absl::string_view method,
                               Caller* refused = nullptr) const;

 private:
  bool NeedsKey(Need need) const;
  // Keeps the file of keys that it is of.
  absl::StatusOr<std::shared_ptr<const Key>> FindKey(
      const ShownIdentity& shown) const;
  // `need` is the method's; nullptr if there is no such method.
  absl::StatusOr<TenantHandle> AdmitKey(const ShownIdentity& shown,
                                        const Key& key,
                                        absl::string_view method,
                                        const MethodNeed* need) const;
  TenantHandle TenantOf(const Key& key) const;
  absl::StatusOr<TenantHandle> FindTenant(const ShownIdentity& shown,
                                          const Key& key) const;

  const KeyRing* const ring_;
  const Tenants* const tenants_;
  Clock* const clock_;
  const bool keyed_reflection_;
};

}  // namespace engram
