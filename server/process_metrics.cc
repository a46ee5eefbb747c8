#include "server/process_metrics.h"

#include "server/metric_family.h"
#include "server/process_usage.h"

namespace engram {

std::vector<prometheus::MetricFamily> CollectProcessUsage() {
  using Type = prometheus::MetricType;
  const ProcessUsage usage = ReadProcessUsage();
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, Type type,
                       double value) {
    families.push_back(MakeMetricFamily(name, help, type));
    AddSample(&families.back(), MetricLabelMap(), value);
  };
  add("process_cpu_seconds_total", "Time on CPUs, user and system.",
      Type::Counter, usage.cpu_seconds);
  add("process_start_time_seconds", "When it started, in seconds since 1970.",
      Type::Gauge, usage.start_time_seconds);
  add("process_resident_memory_bytes", "RAM in use.", Type::Gauge,
      static_cast<double>(usage.resident_bytes));
  add("process_virtual_memory_bytes", "Address space in use.", Type::Gauge,
      static_cast<double>(usage.virtual_bytes));
  add("process_open_fds", "Open descriptors.", Type::Gauge,
      static_cast<double>(usage.open_descriptors));
  add("process_max_fds", "Limit of open descriptors.", Type::Gauge,
      static_cast<double>(usage.max_descriptors));
  add("process_threads", "Threads.", Type::Gauge,
      static_cast<double>(usage.threads));
  return families;
}

}  // namespace engram
