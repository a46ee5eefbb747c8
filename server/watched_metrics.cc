#include "server/watched_metrics.h"

#include <algorithm>

#include "server/metric_family.h"

namespace engram {

void WatchedMetrics::Watch(prometheus::MetricType type, const std::string& name,
                           const std::string& help,
                           std::function<double()> value,
                           const MetricLabels& labels) {
  absl::MutexLock lock(&mutex_);
  auto family =
      std::find_if(families_.begin(), families_.end(),
                   [&](const WatchedFamily& one) { return one.name == name; });
  if (family == families_.end()) {
    family = families_.insert(family, {type, name, help, {}});
  }
  family->values.emplace_back(labels, std::move(value));
}

std::vector<prometheus::MetricFamily> WatchedMetrics::Collect() const {
  std::vector<WatchedFamily> families;
  {
    absl::MutexLock lock(&mutex_);
    families = families_;
  }
  std::vector<prometheus::MetricFamily> collected;
  for (const WatchedFamily& family : families) {
    collected.push_back(
        MakeMetricFamily(MetricName(family.name), family.help, family.type));
    for (const auto& [labels, value] : family.values) {
      AddSample(&collected.back(), labels, value());
    }
  }
  return collected;
}

}  // namespace engram
