// What this process takes, under the names that Prometheus' own clients use.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

namespace engram {

// Read now. Thread-safe.
std::vector<prometheus::MetricFamily> CollectProcessUsage();

}  // namespace engram
