#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/process_usage.h"
#include "server/request_ends.h"

namespace engram {
namespace {

using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;

// 50 microseconds to 2 minutes: a token of a small model to a long turn.
const Buckets& SecondsBuckets() {
  static const Buckets* const buckets = new Buckets{
      0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
      0.1,     0.25,   0.5,     1,      2.5,   5,      10,    30,   60,    120};
  return *buckets;
}

// Powers of two: rows and tokens.
Buckets CountBuckets(int doublings) {
  Buckets buckets;
  for (int i = 0; i <= doublings; ++i) buckets.push_back(double(1 << i));
  return buckets;
}

std::string Name(const char* name) { return absl::StrCat("engram_", name); }

// One histogram, and the observations of one step in one call. It is told from
// its first observation on: those of idle models would fill pages with zeros.
class StepHistogram {
 public:
  StepHistogram(prometheus::Registry* registry, const char* name,
                const char* help, const Labels& labels, Buckets buckets)
      : labels_(labels),
        buckets_(std::move(buckets)),
        family_(prometheus::BuildHistogram()
                    .Name(Name(name))
                    .Help(help)
                    .Register(*registry)) {}

  void Observe(double value) { histogram().Observe(value); }

  void Observe(const std::vector<double>& values) {
    if (values.empty()) return;
    std::vector<double> increments(buckets_.size() + 1, 0);
    double sum = 0;
    for (double value : values) {
      const auto bucket =
          std::lower_bound(buckets_.begin(), buckets_.end(), value);
      ++increments[bucket - buckets_.begin()];
      sum += value;
    }
    histogram().ObserveMultiple(increments, sum);
  }

 private:
  prometheus::Histogram& histogram() {
    std::call_once(added_,
                   [this] { histogram_ = &family_.Add(labels_, buckets_); });
    return *histogram_;
  }

  const Labels labels_;
  const Buckets buckets_;
  prometheus::Family<prometheus::Histogram>& family_;
  std::once_flag added_;
  prometheus::Histogram* histogram_ = nullptr;
};

// Requests that ended, of one model or of none. Those of `known` exist from the
// start.
class RequestCounter {
 public:
  RequestCounter(prometheus::Registry* registry, const std::string& model,
                 const std::vector<RequestEnd>& known)
      : model_(model),
        family_(prometheus::BuildCounter()
                    .Name(Name("requests_total"))
                    .Help("Requests that ended, by method, finish_reason and "
                          "code; of no model: those that named none that is "
                          "served, and those about sessions.")
                    .Register(*registry)) {
    absl::MutexLock lock(&mutex_);
    for (const RequestEnd& end : known) {
      Find(end.method, end.finish_reason, end.code);
    }
  }

  void Count(const RequestSummary& request) {
    // How a turn finished is counted once, not with every replay.
    const bool ran = request.handling == RequestHandling::kRun;
    absl::MutexLock lock(&mutex_);
    Find(request.method, ran ? request.finish_reason : "",
         request.status.code())
        ->Increment();
  }

 private:
  prometheus::Counter* Find(const std::string& method,
                            const std::string& finish_reason,
                            absl::StatusCode code)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    prometheus::Counter*& counter = by_end_[{method, finish_reason, code}];
    if (counter == nullptr) {
      counter = &family_.Add({{"model", model_},
                              {"method", method},
                              {"finish_reason", finish_reason},
                              {"code", absl::StatusCodeToString(code)}});
    }
    return counter;
  }

  const std::string model_;
  prometheus::Family<prometheus::Counter>& family_;

  absl::Mutex mutex_;
  absl::flat_hash_map<std::tuple<std::string, std::string, absl::StatusCode>,
                      prometheus::Counter*>
      by_end_ ABSL_GUARDED_BY(mutex_);
};

class PrometheusModelMetrics final : public ModelMetrics {
 public:
  PrometheusModelMetrics(prometheus::Registry* registry, const Labels& labels,
                         int slots, int64_t kv_blocks)
      : time_to_first_token_(registry, "time_to_first_token_seconds",
                             "From arrival to the first token.", labels,
                             SecondsBuckets()),
        inter_token_latency_(registry, "inter_token_latency_seconds",
                             "Between two tokens of one answer.", labels,
                             SecondsBuckets()),
        e2e_request_latency_(registry, "e2e_request_latency_seconds",
                             "From arrival to the end.", labels,
                             SecondsBuckets()),
        request_queue_time_(registry, "request_queue_time_seconds",
                            "From arrival to the first step.", labels,
                            SecondsBuckets()),
        request_prefill_time_(registry, "request_prefill_time_seconds",
                              "Feeding the prompt.", labels, SecondsBuckets()),
        request_decode_time_(registry, "request_decode_time_seconds",
                             "Sampling the answer.", labels, SecondsBuckets()),
        step_duration_(registry, "step_duration_seconds",
                       "One step of the engine.", labels, SecondsBuckets()),
        step_rows_(registry, "step_rows", "Sequences in a step.", labels,
                   CountBuckets(12)),
        step_tokens_(registry, "step_tokens", "Tokens in a step.", labels,
                     CountBuckets(16)),
        request_prompt_tokens_(registry, "request_prompt_tokens",
                               "Prompt tokens of a request.", labels,
                               CountBuckets(20)),
        request_generation_tokens_(registry, "request_generation_tokens",
                                   "Tokens of an answer.", labels,
                                   CountBuckets(20)),
        prompt_tokens_(Counter(registry, "prompt_tokens_total",
                               "Prompt tokens fed.", labels)),
        generation_tokens_(Counter(registry, "generation_tokens_total",
                                   "Tokens sampled.", labels)),
        tokens_saved_(Counter(
            registry, "tokens_saved_total",
            "Tokens of kept states that needed no feeding again.", labels)),
        running_(Gauge(registry, "num_requests_running",
                       "Requests that hold a slot.", labels)),
        waiting_(Gauge(registry, "num_requests_waiting",
                       "Requests in the queue.", labels)),
        slots_used_(Gauge(registry, "slots_used",
                          "Slots with a running or a kept state.", labels)),
        requests_(registry, labels.at("model"), EndsOfModelCalls()) {
    Gauge(registry, "slots", "Places for states on the device.", labels)
        .Set(slots);
    if (kv_blocks == 0) return;
    Gauge(registry, "kv_blocks",
          "Blocks for keys and values of attention layers.", labels)
        .Set(static_cast<double>(kv_blocks));
    kv_blocks_used_ = &Gauge(registry, "kv_blocks_used",
                             "Of them, those that hold tokens.", labels);
    kv_blocks_reserved_ =
        &Gauge(registry, "kv_blocks_reserved",
               "Of them, those set apart for tokens to come.", labels);
  }

  void ObserveStep(const StepObservation& step) override {
    step_duration_.Observe(absl::ToDoubleSeconds(step.duration));
    step_rows_.Observe(step.rows);
    step_tokens_.Observe(step.tokens);
    time_to_first_token_.Observe(step.time_to_first_token_seconds);
    inter_token_latency_.Observe(step.inter_token_latency_seconds);
    prompt_tokens_.Increment(step.prompt_tokens);
    generation_tokens_.Increment(step.generated_tokens);
  }

  void ObserveRequest(const RequestSummary& request) override {
    requests_.Count(request);
    if (request.handling != RequestHandling::kRun) return;
    e2e_request_latency_.Observe(absl::ToDoubleSeconds(request.total));
    request_queue_time_.Observe(absl::ToDoubleSeconds(request.timing.queue));
    request_prefill_time_.Observe(
        absl::ToDoubleSeconds(request.timing.prefill));
    request_decode_time_.Observe(absl::ToDoubleSeconds(request.timing.decode));
    request_prompt_tokens_.Observe(double(request.usage.prompt_tokens));
    request_generation_tokens_.Observe(double(request.usage.generated_tokens));
    tokens_saved_.Increment(double(request.usage.cached_tokens));
  }

  void SetLoad(const EngineLoad& load) override {
    running_.Set(load.running);
    waiting_.Set(load.waiting);
    slots_used_.Set(load.slots_used);
    if (kv_blocks_used_ == nullptr) return;
    kv_blocks_used_->Set(static_cast<double>(load.kv_blocks_used));
    kv_blocks_reserved_->Set(static_cast<double>(load.kv_blocks_reserved));
  }

 private:
  static prometheus::Counter& Counter(prometheus::Registry* registry,
                                      const char* name, const char* help,
                                      const Labels& labels) {
    return prometheus::BuildCounter()
        .Name(Name(name))
        .Help(help)
        .Register(*registry)
        .Add(labels);
  }
  static prometheus::Gauge& Gauge(prometheus::Registry* registry,
                                  const char* name, const char* help,
                                  const Labels& labels) {
    return prometheus::BuildGauge()
        .Name(Name(name))
        .Help(help)
        .Register(*registry)
        .Add(labels);
  }

  StepHistogram time_to_first_token_;
  StepHistogram inter_token_latency_;
  StepHistogram e2e_request_latency_;
  StepHistogram request_queue_time_;
  StepHistogram request_prefill_time_;
  StepHistogram request_decode_time_;
  StepHistogram step_duration_;
  StepHistogram step_rows_;
  StepHistogram step_tokens_;
  StepHistogram request_prompt_tokens_;
  StepHistogram request_generation_tokens_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& tokens_saved_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& slots_used_;
  // If there are attention layers.
  prometheus::Gauge* kv_blocks_used_ = nullptr;
  prometheus::Gauge* kv_blocks_reserved_ = nullptr;
  RequestCounter requests_;
};

prometheus::MetricFamily Family(const std::string& name,
                                const std::string& help,
                                prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = absl::StrCat("engram_", name);
  family.help = help;
  family.type = type;
  return family;
}

// A sample without its value. `labels` are pairs of names and values.
template <typename LabelPairs>
prometheus::ClientMetric Labelled(const LabelPairs& labels) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : labels) {
    prometheus::ClientMetric::Label label;
    label.name = name;
    label.value = value;
    metric.label.push_back(label);
  }
  return metric;
}

// Tells what other parts keep, read when it is scraped.
class WatchedValues {
 public:
  void Watch(prometheus::MetricType type, const std::string& name,
             const std::string& help, std::function<double()> value,
             const MetricLabels& labels) {
    absl::MutexLock lock(&mutex_);
    auto family = std::find_if(
        families_.begin(), families_.end(),
        [&](const WatchedFamily& one) { return one.name == name; });
    if (family == families_.end()) {
      family = families_.insert(family, {type, name, help, {}});
    }
    family->values.emplace_back(labels, std::move(value));
  }

  std::vector<prometheus::MetricFamily> Collect() const {
    std::vector<WatchedFamily> families;
    {
      absl::MutexLock lock(&mutex_);
      families = families_;
    }
    std::vector<prometheus::MetricFamily> collected;
    for (const WatchedFamily& family : families) {
      collected.push_back(Family(family.name, family.help, family.type));
      for (const auto& [labels, value] : family.values) {
        prometheus::ClientMetric metric = Labelled(labels);
        if (family.type == prometheus::MetricType::Counter) {
          metric.counter.value = value();
        } else {
          metric.gauge.value = value();
        }
        collected.back().metric.push_back(std::move(metric));
      }
    }
    return collected;
  }

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

// Tells what the session store counts, read when it is scraped.
class SessionCollector {
 public:
  void AddModel(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    models_.push_back(name);
  }

  void Watch(const SessionStore* sessions, size_t memory_bytes) {
    absl::MutexLock lock(&mutex_);
    sessions_ = sessions;
    memory_bytes_ = memory_bytes;
  }

  std::vector<prometheus::MetricFamily> Collect() const {
    absl::MutexLock lock(&mutex_);
    if (sessions_ == nullptr) return {};
    const SessionCounts counts = sessions_->Counts();
    using Type = prometheus::MetricType;
    prometheus::MetricFamily sessions =
        Family("sessions", "Sessions by where their state is.", Type::Gauge);
    prometheus::MetricFamily bytes = Family(
        "session_state_bytes",
        "Bytes of sessions: states in slots and in RAM, and what is kept "
        "beside them (labels, ids, answers for repeats).",
        Type::Gauge);
    prometheus::MetricFamily evictions = Family(
        "session_evictions_total",
        "States that left a tier; to \"none\": for good.", Type::Counter);
    prometheus::MetricFamily restores =
        Family("session_restores_total", "States copied back into a slot.",
               Type::Counter);
    prometheus::MetricFamily forks =
        Family("session_forks_total", "Sessions forked.", Type::Counter);
    prometheus::MetricFamily expirations =
        Family("session_expirations_total",
               "Sessions idle for longer than their time "
               "to live.",
               Type::Counter);
    for (size_t i = 0; i < models_.size() && i < counts.models.size(); ++i) {
      const std::string& name = models_[i];
      const SessionCounts::PerModel& model = counts.models[i];
      AddGauge(&sessions, name, "slot", model.sessions_in_slots);
      AddGauge(&sessions, name, "ram", model.sessions_in_ram);
      AddGauge(&sessions, name, "none", model.sessions_empty);
      AddGauge(&bytes, name, "slot", double(model.state_bytes_in_slots));
      AddGauge(&bytes, name, "ram", double(model.state_bytes_in_ram));
      AddGauge(&bytes, name, "fields", double(model.own_bytes));
      AddCounter(&evictions, {{"model", name}, {"from", "slot"}, {"to", "ram"}},
                 model.evictions_slot_to_ram);
      AddCounter(&evictions, {{"model", name}, {"from", "ram"}, {"to", "none"}},
                 model.evictions_for_good);
      AddCounter(&restores, {{"model", name}}, model.restores);
      AddCounter(&forks, {{"model", name}}, model.forks);
      AddCounter(&expirations, {{"model", name}}, model.expirations);
    }
    prometheus::ClientMetric departed = Labelled(Labels{{"tier", "departed"}});
    departed.gauge.value = double(counts.departed_bytes);
    bytes.metric.push_back(departed);
    prometheus::MetricFamily usage =
        Family("state_usage_ratio", "Share of the session memory (RAM) in use.",
               Type::Gauge);
    prometheus::ClientMetric ratio;
    ratio.gauge.value =
        memory_bytes_ == 0 ? 0 : double(counts.ram_bytes) / memory_bytes_;
    usage.metric.push_back(ratio);
    return {sessions, bytes, evictions, restores, forks, expirations, usage};
  }

 private:
  static void AddGauge(prometheus::MetricFamily* family,
                       const std::string& model, const char* tier,
                       double value) {
    prometheus::ClientMetric metric =
        Labelled(MetricLabels{{"model", model}, {"tier", tier}});
    metric.gauge.value = value;
    family->metric.push_back(metric);
  }
  static void AddCounter(prometheus::MetricFamily* family, const Labels& labels,
                         double value) {
    prometheus::ClientMetric metric = Labelled(labels);
    metric.counter.value = value;
    family->metric.push_back(metric);
  }

  mutable absl::Mutex mutex_;
  std::vector<std::string> models_ ABSL_GUARDED_BY(mutex_);
  const SessionStore* sessions_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t memory_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What this process takes, under the names that Prometheus' own clients use.
std::vector<prometheus::MetricFamily> CollectProcessUsage() {
  using Type = prometheus::MetricType;
  const ProcessUsage usage = ReadProcessUsage();
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, Type type,
                       double value) {
    prometheus::MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    prometheus::ClientMetric metric;
    if (type == Type::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family.metric.push_back(metric);
    families.push_back(std::move(family));
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

class PrometheusMetrics final : public Metrics {
 public:
  PrometheusMetrics() : without_model_(&registry_, "", EndsWithoutModel()) {}

  ModelMetrics* AddModel(const std::string& name, const ModelInfo& info,
                         int slots) override {
    prometheus::BuildGauge()
        .Name(Name("build_info"))
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
    models_.push_back(std::make_unique<PrometheusModelMetrics>(
        &registry_, Labels{{"model", name}}, slots, info.kv_blocks));
    return models_.back().get();
  }

  void WatchSessions(const SessionStore* sessions,
                     size_t memory_bytes) override {
    sessions_.Watch(sessions, memory_bytes);
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

  void ObserveRequest(const RequestSummary& request) override {
    without_model_.Count(request);
  }

  std::string Text() const override {
    std::vector<prometheus::MetricFamily> families = registry_.Collect();
    for (auto&& more :
         {sessions_.Collect(), watched_.Collect(), CollectProcessUsage()}) {
      families.insert(families.end(), more.begin(), more.end());
    }
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  prometheus::Registry registry_;
  SessionCollector sessions_;
  WatchedValues watched_;
  RequestCounter without_model_;
  std::vector<std::unique_ptr<PrometheusModelMetrics>> models_;
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Create() {
  return std::make_unique<PrometheusMetrics>();
}

}  // namespace engram
