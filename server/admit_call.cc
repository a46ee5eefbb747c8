#include "server/admit_call.h"

#include <string>
#include <vector>

#include "server/method_needs.h"

namespace engram {
namespace {

std::vector<absl::string_view> Values(const grpc::ServerContextBase& context,
                                      const char* name) {
  std::vector<absl::string_view> values;
  const auto range = context.client_metadata().equal_range(name);
  for (auto one = range.first; one != range.second; ++one) {
    values.emplace_back(one->second.data(), one->second.size());
  }
  return values;
}

// Of a connection whose client showed a certificate that was believed.
std::vector<std::string> CertificateNames(
    const grpc::ServerContextBase& context) {
  const auto connection = context.auth_context();
  if (connection == nullptr || !connection->IsPeerAuthenticated()) return {};
  std::vector<std::string> names;
  for (const grpc::string_ref& name :
       connection->FindPropertyValues("x509_subject_alternative_name")) {
    names.emplace_back(name.data(), name.size());
  }
  return names;
}

// By its metadata and its connection; `context` outlives it.
ShownIdentity ShownBy(const grpc::ServerContextBase& context) {
  ShownIdentity shown;
  shown.authorizations = Values(context, "authorization");
  shown.tenants = Values(context, "engram-tenant");
  shown.certificate_names = [&context] { return CertificateNames(context); };
  return shown;
}

// A path that is nothing's is the client's to choose: no label of metrics.
std::string LabelOf(absl::string_view method) {
  const MethodNeed* const known = FindMethodNeed(method);
  return known == nullptr ? kUnknownMethod : known->method;
}

void ReportRefused(const CallSurroundings& around,
                   const grpc::ServerContextBase& context, const Caller& caller,
                   absl::string_view method, const absl::Status& status) {
  around.models.Report(RefusalOf(context, caller, LabelOf(method), status));
}

}  // namespace

absl::StatusOr<Caller> AdmitCall(const CallSurroundings& around,
                                 const grpc::ServerContextBase& context,
                                 absl::string_view method) {
  if (!around.access.keyed()) return around.access.nobody();
  Caller refused;
  absl::StatusOr<Caller> caller =
      around.access.Admit(ShownBy(context), method, &refused);
  if (!caller.ok()) {
    ReportRefused(around, context, refused, method, caller.status());
  }
  return caller;
}

absl::Status AdmitAgain(const CallSurroundings& around,
                        const grpc::ServerContextBase& context,
                        const Caller& before, absl::string_view method) {
  const absl::StatusOr<Caller> now = AdmitCall(around, context, method);
  if (!now.ok()) return now.status();
  if (now->tenant == before.tenant) return absl::OkStatus();
  const auto moved = absl::UnauthenticatedError(
      "the key is another tenant's now; open a new stream");
  ReportRefused(around, context, *now, method, moved);
  return moved;
}

}  // namespace engram
