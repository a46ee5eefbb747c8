#include "server/model_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "server/metric_family.h"
#include "server/request_counter.h"
#include "server/request_ends.h"

namespace engram {
namespace {

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

// One histogram, and the observations of one step in one call. It is told from
// its first observation on: those of idle models would fill pages with zeros.
class StepHistogram {
 public:
  StepHistogram(prometheus::Registry* registry, const char* name,
                const char* help, const MetricLabelMap& labels, Buckets buckets)
      : labels_(labels),
        buckets_(std::move(buckets)),
        family_(prometheus::BuildHistogram()
                    .Name(MetricName(name))
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

  const MetricLabelMap labels_;
  const Buckets buckets_;
  prometheus::Family<prometheus::Histogram>& family_;
  std::once_flag added_;
  prometheus::Histogram* histogram_ = nullptr;
};

class PrometheusModelMetrics final : public ModelMetrics {
 public:
  PrometheusModelMetrics(prometheus::Registry* registry,
                         const MetricLabelMap& labels,
                         const MetricLabelMap& of_engine, int slots,
                         int64_t kv_blocks)
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
                       "One step of the engine.", of_engine, SecondsBuckets()),
        step_rows_(registry, "step_rows", "Sequences in a step.", of_engine,
                   CountBuckets(12)),
        step_tokens_(registry, "step_tokens", "Tokens in a step.", of_engine,
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
                       "Requests that hold a slot.", of_engine)),
        waiting_(Gauge(registry, "num_requests_waiting",
                       "Requests in the queue.", of_engine)),
        slots_used_(Gauge(registry, "slots_used",
                          "Slots with a running or a kept state.", of_engine)),
        requests_(registry, labels.at("model"), EndsOfModelCalls()) {
    Gauge(registry, "slots", "Places for states on the device.", of_engine)
        .Set(slots);
    if (kv_blocks == 0) return;
    Gauge(registry, "kv_blocks",
          "Blocks for keys and values of attention layers.", of_engine)
        .Set(static_cast<double>(kv_blocks));
    kv_blocks_used_ = &Gauge(registry, "kv_blocks_used",
                             "Of them, those that hold tokens.", of_engine);
    kv_blocks_reserved_ =
        &Gauge(registry, "kv_blocks_reserved",
               "Of them, those set apart for tokens to come.", of_engine);
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
                                      const MetricLabelMap& labels) {
    return prometheus::BuildCounter()
        .Name(MetricName(name))
        .Help(help)
        .Register(*registry)
        .Add(labels);
  }
  static prometheus::Gauge& Gauge(prometheus::Registry* registry,
                                  const char* name, const char* help,
                                  const MetricLabelMap& labels) {
    return prometheus::BuildGauge()
        .Name(MetricName(name))
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

}  // namespace

std::unique_ptr<ModelMetrics> MakeModelMetrics(prometheus::Registry* registry,
                                               const std::string& model,
                                               const std::string& device,
                                               int slots, int64_t kv_blocks) {
  const MetricLabelMap labels = {{"model", model}};
  MetricLabelMap of_engine = labels;
  if (!device.empty()) of_engine["device"] = device;
  return std::make_unique<PrometheusModelMetrics>(registry, labels, of_engine,
                                                  slots, kv_blocks);
}

}  // namespace engram
