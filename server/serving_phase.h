// ServingPhase: what a server is about, as probes see it.
#pragma once

#include "server/http_port.h"

namespace engram {

enum class ServingPhase {
  kLoading,  // models, before the gRPC port is open
  kServing,
  kDraining,  // lets its last requests end
  kFailed,    // only a restart helps
};

// /healthz: 200 unless a restart would help. What is loading or draining is
// well, and must not be killed for it.
HttpPage HealthPage(ServingPhase phase);

// /readyz: 200 while requests should be sent here, else 503.
HttpPage ReadyPage(ServingPhase phase);

}  // namespace engram
