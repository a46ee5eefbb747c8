#include "clients/cpp/caller_options.h"

#include "tools/shell/environment.h"

namespace engram::client {

CallerOptions DefaultCaller() {
  return {EnvironmentVariable(kApiKeyFileVariable),
          EnvironmentVariable(kTenantVariable)};
}

}  // namespace engram::client
