#include "server/exposure.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/tcp_address.h"
#include "tools/status/early_return.h"

namespace engram {
namespace {

// "--grpc-address 0.0.0.0:8001 and ...", those that other machines can reach.
absl::StatusOr<std::string> OpenAddresses(const ServerOptions& options) {
  std::vector<std::string> open;
  for (const auto& [flag, address] :
       {std::pair("--grpc-address ", options.grpc_address),
        std::pair("--metrics-address ", options.metrics_address)}) {
    const absl::StatusOr<bool> loopback = IsLoopback(SplitAddress(address));
    // It may stand for something a moment later, when the port is opened.
    if (!loopback.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          flag, address, " is no address: ", loopback.status().message(),
          "; give HOST:PORT"));
    }
    if (!*loopback) open.push_back(absl::StrCat(flag, address));
  }
  return absl::StrJoin(open, " and ");
}

}  // namespace

absl::StatusOr<std::string> CheckExposure(const ServerOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string open, OpenAddresses(options));
  if (open.empty()) return "";
  std::vector<std::string> missing, dangers;
  if (options.tls.certificate.empty()) {
    missing = {"--tls-certificate", "--tls-key"};
    dangers.push_back(
        "without TLS whoever is on the way reads and changes everything");
  }
  if (options.keys.empty()) {
    missing.push_back("--keys");
    dangers.push_back(
        "without keys everybody may read, fork and delete every session");
  }
  if (missing.empty()) return "";
  if (options.insecure) {
    return absl::StrCat(open, " can be reached by other machines: ",
                        absl::StrJoin(dangers, "; "));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      open,
      " can be reached by other machines, which takes TLS and keys: give ",
      absl::StrJoin(missing, ", "),
      ", or --insecure if everybody may do everything there"));
}

}  // namespace engram
