#include "server/access.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/time_text.h"

namespace engram {
namespace {

// What is sent as "Bearer KEY"; empty if it is something else.
absl::string_view SentKey(absl::string_view authorization) {
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return "";
  return absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
}

absl::Status CheckRole(const Key& key, Role role, absl::string_view method) {
  if (key.Has(role)) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat(method, ": key ", Quoted(key.name), " has no role \"",
                   RoleName(role), "\""));
}

absl::Status CheckNeed(const Key& key, Need need, absl::string_view method) {
  switch (need) {
    case Need::kNothing:
    case Need::kKey:
    case Need::kReflection:
      return absl::OkStatus();
    case Need::kGenerate:
      return CheckRole(key, Role::kGenerate, method);
    case Need::kSessions:
      return CheckRole(key, Role::kSessions, method);
    case Need::kInspect:
      return CheckRole(key, Role::kInspect, method);
    case Need::kMetrics:
      return CheckRole(key, Role::kMetrics, method);
    case Need::kOperator:
      ENGRAM_RETURN_IF_ERROR(CheckRole(key, Role::kAdmin, method));
      if (key.of_operators()) return absl::OkStatus();
      return absl::PermissionDeniedError(
          absl::StrCat(method, ": key ", Quoted(key.name),
                       " is not one of tenant \"", kOperators, "\""));
  }
  return absl::InternalError("no such need");
}

// Turns and scores count where their message is read: a Converse has many. A
// page that tells of all tenants is not the doing of one, nor is what operators
// look at.
bool IsRequestOfTenant(Need need) {
  return need != Need::kGenerate && need != Need::kMetrics;
}

}  // namespace

absl::StatusOr<Caller> Access::Admit(const ShownIdentity& shown,
                                     absl::string_view method,
                                     Caller* refused) const {
  if (!keyed()) return nobody();
  const MethodNeed* const need = FindMethodNeed(method);
  if (need != nullptr && !NeedsKey(need->need)) return nobody();
  ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<const Key> found,
                          FindKey(shown));
  const Key& key = *found;
  absl::StatusOr<TenantHandle> tenant = AdmitKey(shown, key, method, need);
  if (tenant.ok()) return Caller{.key = key.name, .tenant = *std::move(tenant)};
  if (refused != nullptr) *refused = {.key = key.name, .tenant = TenantOf(key)};
  return tenant.status();
}

absl::StatusOr<TenantHandle> Access::AdmitKey(const ShownIdentity& shown,
                                              const Key& key,
                                              absl::string_view method,
                                              const MethodNeed* need) const {
  if (key.expires <= clock_->Now()) {
    return absl::UnauthenticatedError(absl::StrCat(
        "key ", Quoted(key.name), " expired at ", TimeText(key.expires)));
  }
  // The path is the client's, and may be long.
  if (need == nullptr) {
    return absl::PermissionDeniedError(
        absl::StrCat(Shortened({method.data(), method.size()}),
                     ": nobody may call it while keys are used"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckNeed(key, need->need, method));
  ENGRAM_ASSIGN_OR_RETURN(TenantHandle tenant, FindTenant(shown, key));
  if (IsRequestOfTenant(need->need) && !key.of_operators()) {
    ENGRAM_RETURN_IF_ERROR(tenant->CountRequest(clock_->Now()));
  }
  return tenant;
}

bool Access::NeedsKey(Need need) const {
  return need != Need::kNothing &&
         (need != Need::kReflection || keyed_reflection_);
}

absl::StatusOr<std::shared_ptr<const Key>> Access::FindKey(
    const ShownIdentity& shown) const {
  const std::shared_ptr<const KeySet> keys = ring_->current();
  if (shown.authorizations.size() > 1) {
    return absl::UnauthenticatedError(
        "metadata authorization is there more than once");
  }
  const absl::string_view sent =
      shown.authorizations.empty() ? "" : SentKey(shown.authorizations.front());
  if (!sent.empty()) {
    const Key* const key = keys->FindSent(sent);
    if (key != nullptr) return std::shared_ptr<const Key>(keys, key);
    return absl::UnauthenticatedError("unknown key");
  }
  // A key that was meant is not passed over for a certificate.
  if (shown.authorizations.empty() && shown.certificate_names != nullptr) {
    for (const std::string& name : shown.certificate_names()) {
      const Key* const key = keys->FindCertificate(name);
      if (key != nullptr) return std::shared_ptr<const Key>(keys, key);
    }
  }
  return absl::UnauthenticatedError(
      "no key: send metadata authorization: Bearer KEY");
}

TenantHandle Access::TenantOf(const Key& key) const {
  return key.of_operators() ? tenants_->nameless() : tenants_->Find(key.tenant);
}

absl::StatusOr<TenantHandle> Access::FindTenant(const ShownIdentity& shown,
                                                const Key& key) const {
  // Who is between the client and us may have put one more there.
  if (shown.tenants.size() > 1) {
    return absl::PermissionDeniedError(
        "metadata engram-tenant is there more than once");
  }
  const bool named = !shown.tenants.empty();
  const absl::string_view name = named ? shown.tenants.front() : "";
  if (!key.of_operators()) {
    if (!named || name == key.tenant) return TenantOf(key);
    return absl::PermissionDeniedError(absl::StrCat(
        "metadata engram-tenant is ", Quoted({name.data(), name.size()}),
        ", and key ", Quoted(key.name), " is of tenant ", Quoted(key.tenant)));
  }
  if (!named) return TenantOf(key);
  TenantHandle tenant = tenants_->Find(name);
  if (tenant == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("metadata engram-tenant: there is no tenant ",
                     Quoted({name.data(), name.size()})));
  }
  return tenant;
}

}  // namespace engram
