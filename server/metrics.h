// Metrics: every Prometheus name, label and bucket, and the page that tells
// them. Prometheus' own headers stay behind this one.
//
// Handles are made once per model; an event costs no look-up. A step's values
// are observed in one call. There is never a label per session. Values that
// another part keeps anyway are asked for when they are scraped
// (WatchCounter, WatchGauge).
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/model.h"
#include "server/request.h"
#include "server/session_store.h"
#include "server/tenants.h"

namespace engram {

// What one step did.
struct StepObservation {
  absl::Duration duration;
  int rows = 0;
  int tokens = 0;
  int prompt_tokens = 0;
  int generated_tokens = 0;
  std::vector<double>
      time_to_first_token_seconds;  // of each row with its first
  std::vector<double> inter_token_latency_seconds;  // of each other new token
};

// What is in use between two steps.
struct EngineLoad {
  int running = 0;
  int waiting = 0;
  int slots_used = 0;
  int64_t kv_blocks_used = 0;
  int64_t kv_blocks_reserved = 0;
};

class ModelMetrics {
 public:
  virtual ~ModelMetrics() = default;

  virtual void ObserveStep(const StepObservation& step) = 0;
  // Times and tokens of what was run; what was not is only counted.
  virtual void ObserveRequest(const RequestSummary& request) = 0;
  virtual void SetLoad(const EngineLoad& load) = 0;
};

// Name and value of each label.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

class Metrics {
 public:
  // `keyed`: of a server with keys.
  static std::unique_ptr<Metrics> Create(bool keyed);

  virtual ~Metrics() = default;

  // Models in the order of SessionStore::AddModel, on devices of these indexes.
  // A handle of each, which live as long as this; what they tell of their
  // engine has a label `device` if there are several.
  virtual std::vector<ModelMetrics*> AddModel(
      const std::string& name, const ModelInfo& info, int slots,
      absl::Span<const int> devices) = 0;
  // `sessions` is asked for its numbers at every Text().
  virtual void WatchSessions(const SessionStore* sessions,
                             size_t memory_bytes) = 0;

  // There are keys: from now on tenants have families of their own, which name
  // `labels` of them at most. `tenants` and `sessions` are asked at every
  // Text().
  virtual void WatchTenants(const Tenants* tenants,
                            const SessionStore* sessions, int labels) = 0;

  // Tell a value that another part keeps: `value` is asked at every scrape, on
  // a thread of the metrics port, for as long as this lives; it must be
  // thread-safe and quick. `name` is without "engram_"; a counter's ends in
  // "_total" and its value never falls. Several with one name are one family
  // and differ in their labels.
  virtual void WatchCounter(const std::string& name, const std::string& help,
                            std::function<double()> value,
                            const MetricLabels& labels = {}) = 0;
  virtual void WatchGauge(const std::string& name, const std::string& help,
                          std::function<double()> value,
                          const MetricLabels& labels = {}) = 0;

  // Counts a call for its tenant, whether it reached a model or not.
  virtual void CountForTenant(const RequestSummary& request) = 0;
  // Counts a call that reached no model: it named none or one that is not
  // served, or is not about one. Its label `model` is empty.
  virtual void ObserveRequest(const RequestSummary& request) = 0;

  // All of them now, in Prometheus' text format.
  virtual std::string Text() const = 0;
};

}  // namespace engram
