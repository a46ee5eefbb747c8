// WatchedMetrics: values that other parts keep, read when they are scraped.
//
// Thread-safe.
#pragma once

#include <prometheus/metric_family.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/metrics.h"

namespace engram {

class WatchedMetrics {
 public:
  // As Metrics::WatchCounter and WatchGauge.
  void Watch(prometheus::MetricType type, const std::string& name,
             const std::string& help, std::function<double()> value,
             const MetricLabels& labels);

  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  struct WatchedFamily {
    prometheus::MetricType type;
    std::string name;
    std::string help;
    std::vector<std::pair<MetricLabels, std::function<double()>>> values;
  };

  mutable absl::Mutex mutex_;
  std::vector<WatchedFamily> families_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram
