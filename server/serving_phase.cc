#include "server/serving_phase.h"

#include <string>

namespace engram {
namespace {

std::string Name(ServingPhase phase) {
  switch (phase) {
    case ServingPhase::kLoading:
      return "loading";
    case ServingPhase::kServing:
      return "serving";
    case ServingPhase::kDraining:
      return "draining";
    case ServingPhase::kFailed:
      return "failed";
  }
  return "";
}

HttpPage Page(bool good, ServingPhase phase) {
  HttpPage page;
  page.status = good ? 200 : 503;
  page.body = Name(phase) + "\n";
  return page;
}

}  // namespace

HttpPage HealthPage(ServingPhase phase) {
  return Page(phase != ServingPhase::kFailed, phase);
}

HttpPage ReadyPage(ServingPhase phase) {
  return Page(phase == ServingPhase::kServing, phase);
}

}  // namespace engram
