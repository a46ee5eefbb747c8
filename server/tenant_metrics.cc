#include "server/tenant_metrics.h"

#include "server/metric_family.h"

namespace engram {
namespace {

using Type = prometheus::MetricType;

// Told from the start, or the first of its kind could not be told from one that
// was always there.
constexpr absl::StatusCode kKnownCodes[] = {
    absl::StatusCode::kOk, absl::StatusCode::kResourceExhausted};

// What tenants have, all together under one label.
struct Usage {
  int64_t streams = 0;
  int64_t sessions = 0;
  double session_bytes = 0;
};

// Numbers go up from 1, so that a tenant keeps its name for as long as the
// process runs.
std::string LabelOf(const TenantHandle& tenant, int labels) {
  const int number = NumberOf(tenant);
  if (number == 0) return "";
  return number <= labels ? tenant->name() : "other";
}

// Each label that there is has one, zero or not.
std::map<std::string, Usage> Usages(const Tenants& tenants,
                                    const SessionStore& sessions, int labels) {
  std::map<std::string, Usage> usages;
  for (const TenantHandle& tenant : tenants.all()) {
    usages[LabelOf(tenant, labels)].streams += tenant->streams();
  }
  for (const TenantUse& use : sessions.UsesOfTenants()) {
    Usage& usage = usages[LabelOf(use.tenant, labels)];
    usage.sessions += use.sessions;
    usage.session_bytes += static_cast<double>(use.bytes);
  }
  return usages;
}

// Families of one scrape, and how they get the samples of a label.
struct TenantFamilies {
  prometheus::MetricFamily requests =
      MakeMetricFamily(MetricName("tenant_requests_total"),
                       "Requests that ended, by tenant and code; tenants "
                       "beyond --tenant-labels are other.",
                       Type::Counter);
  prometheus::MetricFamily tokens = MakeMetricFamily(
      MetricName("tenant_tokens_total"),
      "Tokens of prompts that were begun and tokens sampled, by tenant.",
      Type::Counter);
  prometheus::MetricFamily streams = MakeMetricFamily(
      MetricName("tenant_streams"),
      "Turns and scores of a tenant that wait or run.", Type::Gauge);
  prometheus::MetricFamily sessions = MakeMetricFamily(
      MetricName("tenant_sessions"), "Sessions by tenant.", Type::Gauge);
  prometheus::MetricFamily bytes = MakeMetricFamily(
      MetricName("tenant_session_bytes"),
      "Bytes of a tenant's sessions: states wherever they lie, those that "
      "forks share once, and what is kept beside them.",
      Type::Gauge);

  void AddRequests(const std::string& label,
                   std::map<absl::StatusCode, int64_t> counts) {
    for (const absl::StatusCode code : kKnownCodes) counts[code];
    for (const auto& [code, count] : counts) {
      AddSample(&requests,
                MetricLabelMap{{"tenant", label},
                               {"code", absl::StatusCodeToString(code)}},
                static_cast<double>(count));
    }
  }
  void AddTokens(const std::string& label, const char* kind, int64_t count) {
    AddSample(&tokens, MetricLabelMap{{"tenant", label}, {"kind", kind}},
              static_cast<double>(count));
  }
  void AddUsage(const std::string& label, const Usage& usage) {
    const MetricLabelMap labels = {{"tenant", label}};
    AddSample(&streams, labels, static_cast<double>(usage.streams));
    AddSample(&sessions, labels, static_cast<double>(usage.sessions));
    AddSample(&bytes, labels, usage.session_bytes);
  }
};

}  // namespace

void TenantMetrics::Watch(const Tenants* tenants, const SessionStore* sessions,
                          int labels) {
  absl::MutexLock lock(&mutex_);
  tenants_ = tenants;
  sessions_ = sessions;
  labels_ = labels;
}

void TenantMetrics::Count(const RequestSummary& request) {
  absl::MutexLock lock(&mutex_);
  if (tenants_ == nullptr) return;
  Counts& counts = counts_[LabelOf(request.tenant, labels_)];
  ++counts.requests[request.status.code()];
  // Tokens are fed once, not with every replay.
  if (request.handling != RequestHandling::kRun) return;
  // What ended in the queue was not fed.
  if (request.timing.prefill == absl::ZeroDuration()) return;
  counts.prompt_tokens += request.usage.prompt_tokens;
  counts.generated_tokens += request.usage.generated_tokens;
}

std::vector<prometheus::MetricFamily> TenantMetrics::Collect() const {
  const Tenants* tenants = nullptr;
  const SessionStore* store = nullptr;
  int labels_at_most = 0;
  std::map<std::string, Counts> all_counts;
  {
    // Engines that count do not wait for more than this.
    absl::MutexLock lock(&mutex_);
    if (tenants_ == nullptr) return {};
    tenants = tenants_;
    store = sessions_;
    labels_at_most = labels_;
    all_counts = counts_;
  }
  TenantFamilies families;
  for (const auto& [label, usage] : Usages(*tenants, *store, labels_at_most)) {
    const Counts& counts = all_counts[label];
    families.AddRequests(label, counts.requests);
    families.AddTokens(label, "prompt", counts.prompt_tokens);
    families.AddTokens(label, "generated", counts.generated_tokens);
    families.AddUsage(label, usage);
  }
  return {families.requests, families.tokens, families.streams,
          families.sessions, families.bytes};
}

}  // namespace engram
