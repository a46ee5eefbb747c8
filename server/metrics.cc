#include "server/metrics.h"

#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/metric_family.h"
#include "server/model_metrics.h"
#include "server/process_metrics.h"
#include "server/request_counter.h"
#include "server/request_ends.h"
#include "server/session_metrics.h"
#include "server/tenant_metrics.h"
#include "server/watched_metrics.h"

namespace engram {
namespace {

std::vector<RequestEnd> EndsOfOtherCalls(bool keyed) {
  std::vector<RequestEnd> ends = EndsWithoutModel();
  if (!keyed) return ends;
  const std::vector<RequestEnd> more = EndsOfRefusedCallers();
  ends.insert(ends.end(), more.begin(), more.end());
  return ends;
}

class PrometheusMetrics final : public Metrics {
 public:
  explicit PrometheusMetrics(bool keyed)
      : without_model_(&registry_, "", EndsOfOtherCalls(keyed)) {}

  std::vector<ModelMetrics*> AddModel(const std::string& name,
                                      const ModelInfo& info, int slots,
                                      absl::Span<const int> devices) override {
    prometheus::BuildGauge()
        .Name(MetricName("build_info"))
        .Help("What is served; always 1.")
        .Register(registry_)
        .Add({{"model", name},
              {"version", ENGRAM_VERSION},
              {"family", info.family},
              {"backend", info.backend},
              {"weight_format", info.weight_format},
              {"weight_hash", info.weight_hash}})
        .Set(1);
    sessions_.AddModel(name);
    std::vector<ModelMetrics*> handles;
    for (const int device : devices) {
      models_.push_back(MakeModelMetrics(
          &registry_, name, devices.size() == 1 ? "" : absl::StrCat(device),
          slots, info.kv_blocks));
      handles.push_back(models_.back().get());
    }
    return handles;
  }

  void WatchSessions(const SessionStore* sessions,
                     size_t memory_bytes) override {
    sessions_.Watch(sessions, memory_bytes);
  }

  void WatchTenants(const Tenants* tenants, const SessionStore* sessions,
                    int labels) override {
    tenants_.Watch(tenants, sessions, labels);
  }

  void WatchCounter(const std::string& name, const std::string& help,
                    std::function<double()> value,
                    const MetricLabels& labels) override {
    watched_.Watch(prometheus::MetricType::Counter, name, help,
                   std::move(value), labels);
  }

  void WatchGauge(const std::string& name, const std::string& help,
                  std::function<double()> value,
                  const MetricLabels& labels) override {
    watched_.Watch(prometheus::MetricType::Gauge, name, help, std::move(value),
                   labels);
  }

  void CountForTenant(const RequestSummary& request) override {
    tenants_.Count(request);
  }

  void ObserveRequest(const RequestSummary& request) override {
    without_model_.Count(request);
  }

  std::string Text() const override {
    std::vector<prometheus::MetricFamily> families = registry_.Collect();
    for (auto&& more : {sessions_.Collect(), tenants_.Collect(),
                        watched_.Collect(), CollectProcessUsage()}) {
      families.insert(families.end(), more.begin(), more.end());
    }
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  prometheus::Registry registry_;
  SessionMetrics sessions_;
  TenantMetrics tenants_;
  WatchedMetrics watched_;
  RequestCounter without_model_;
  std::vector<std::unique_ptr<ModelMetrics>> models_;
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Create(bool keyed) {
  return std::make_unique<PrometheusMetrics>(keyed);
}

}  // namespace engram
