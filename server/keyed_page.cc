#include "server/keyed_page.h"

#include "absl/strings/str_cat.h"

namespace engram {

HttpPage KeyedPage(const Access& access, const HttpRequest& request,
                   absl::string_view method,
                   const std::function<HttpPage()>& page,
                   const std::function<void(const absl::Status&)>& on_refusal) {
  ShownIdentity shown;
  if (request.authorization.has_value()) {
    shown.authorizations.push_back(*request.authorization);
  }
  shown.certificate_names = request.certificate_names;
  const absl::Status status = access.Admit(shown, method).status();
  if (status.ok()) return page();
  on_refusal(status);
  if (!absl::IsUnauthenticated(status)) {
    return {.status = 403, .body = absl::StrCat(status.message(), "\n")};
  }
  return {.status = 401,
          .body = absl::StrCat(status.message(),
                               "\nHere it is the header Authorization, of a "
                               "key with the role \"metrics\".\n")};
}

}  // namespace engram
