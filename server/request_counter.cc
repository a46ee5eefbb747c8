#include "server/request_counter.h"

#include "server/metric_family.h"

namespace engram {

RequestCounter::RequestCounter(prometheus::Registry* registry,
                               const std::string& model,
                               const std::vector<RequestEnd>& known)
    : model_(model),
      family_(prometheus::BuildCounter()
                  .Name(MetricName("requests_total"))
                  .Help("Requests that ended, by method, finish_reason and "
                        "code; of no model: those that named none that is "
                        "served, and those about sessions.")
                  .Register(*registry)) {
  absl::MutexLock lock(&mutex_);
  for (const RequestEnd& end : known) {
    Find(end.method, end.finish_reason, end.code);
  }
}

void RequestCounter::Count(const RequestSummary& request) {
  // How a turn finished is counted once, not with every replay.
  const bool ran = request.handling == RequestHandling::kRun;
  absl::MutexLock lock(&mutex_);
  Find(request.method, ran ? request.finish_reason : "", request.status.code())
      ->Increment();
}

prometheus::Counter* RequestCounter::Find(const std::string& method,
                                          const std::string& finish_reason,
                                          absl::StatusCode code) {
  prometheus::Counter*& counter = by_end_[{method, finish_reason, code}];
  if (counter == nullptr) {
    counter = &family_.Add({{"model", model_},
                            {"method", method},
                            {"finish_reason", finish_reason},
                            {"code", absl::StatusCodeToString(code)}});
  }
  return counter;
}

}  // namespace engram
