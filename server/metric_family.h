// What all parts of the metrics page are made with: names, labels and samples.
#pragma once

#include <prometheus/metric_family.h>

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace engram {

using MetricLabelMap = std::map<std::string, std::string>;

// Of ours: they all begin alike.
inline std::string MetricName(absl::string_view name) {
  return absl::StrCat("engram_", name);
}

// One without samples.
inline prometheus::MetricFamily MakeMetricFamily(const std::string& name,
                                                 const std::string& help,
                                                 prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

// Adds a sample to a family of gauges or counters. `labels` are pairs of names
// and values.
template <typename LabelPairs>
void AddSample(prometheus::MetricFamily* family, const LabelPairs& labels,
               double value) {
  prometheus::ClientMetric metric;
  for (const auto& [name, text] : labels) {
    prometheus::ClientMetric::Label label;
    label.name = name;
    label.value = text;
    metric.label.push_back(label);
  }
  if (family->type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

}  // namespace engram
