// A page of the HTTP port for those who have a key.
//
// Thread-safe: pure functions.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "server/access.h"
#include "server/http_port.h"

namespace engram {

// `page`, which is called `method` among the methods, if `access` lets the
// client have it; else 401 or 403 in words, and `on_refusal` is told why.
HttpPage KeyedPage(const Access& access, const HttpRequest& request,
                   absl::string_view method,
                   const std::function<HttpPage()>& page,
                   const std::function<void(const absl::Status&)>& on_refusal);

}  // namespace engram
