#include "server/session_metrics.h"

#include <cstdint>

#include "server/metric_family.h"

namespace engram {
namespace {

using Type = prometheus::MetricType;

// Families of one scrape, and how they get the samples of a model.
struct SessionFamilies {
  prometheus::MetricFamily sessions = MakeMetricFamily(
      MetricName("sessions"), "Sessions by where their state is.", Type::Gauge);
  prometheus::MetricFamily bytes = MakeMetricFamily(
      MetricName("session_state_bytes"),
      "Bytes of sessions: states in slots and in RAM, and what is kept "
      "beside them (labels, ids, answers for repeats).",
      Type::Gauge);
  prometheus::MetricFamily checkpoints =
      MakeMetricFamily(MetricName("checkpoints"), "Checkpoints.", Type::Gauge);
  prometheus::MetricFamily checkpoint_bytes = MakeMetricFamily(
      MetricName("checkpoint_state_bytes"),
      "Bytes of session memory that are reserved for states of checkpoints.",
      Type::Gauge);
  prometheus::MetricFamily evictions = MakeMetricFamily(
      MetricName("session_evictions_total"),
      "States that left a tier; to \"none\": for good.", Type::Counter);
  prometheus::MetricFamily restores =
      MakeMetricFamily(MetricName("session_restores_total"),
                       "States copied back into a slot.", Type::Counter);
  prometheus::MetricFamily forks = MakeMetricFamily(
      MetricName("session_forks_total"), "Sessions forked.", Type::Counter);
  prometheus::MetricFamily expirations = MakeMetricFamily(
      MetricName("session_expirations_total"),
      "Sessions idle for longer than their time to live.", Type::Counter);
  prometheus::MetricFamily usage = MakeMetricFamily(
      MetricName("state_usage_ratio"),
      "Share of the session memory (RAM) in use.", Type::Gauge);

  void Add(const std::string& name, const SessionCounts::PerModel& model) {
    const auto add_tier = [&](prometheus::MetricFamily* family,
                              const char* tier, double value) {
      AddSample(family, MetricLabelMap{{"model", name}, {"tier", tier}}, value);
    };
    add_tier(&sessions, "slot", double(model.sessions_in_slots));
    add_tier(&sessions, "ram", double(model.sessions_in_ram));
    add_tier(&sessions, "none", double(model.sessions_empty));
    add_tier(&bytes, "slot", double(model.state_bytes_in_slots));
    add_tier(&bytes, "ram", double(model.state_bytes_in_ram));
    add_tier(&bytes, "fields", double(model.own_bytes));
    const auto add_move = [&](const char* from, const char* to, int64_t count) {
      AddSample(&evictions,
                MetricLabelMap{{"model", name}, {"from", from}, {"to", to}},
                double(count));
    };
    add_move("slot", "ram", model.evictions_slot_to_ram);
    add_move("ram", "none", model.evictions_for_good);
    const MetricLabelMap labels = {{"model", name}};
    AddSample(&checkpoints, labels, double(model.checkpoints));
    AddSample(&checkpoint_bytes, labels, double(model.checkpoint_state_bytes));
    AddSample(&restores, labels, double(model.restores));
    AddSample(&forks, labels, double(model.forks));
    AddSample(&expirations, labels, double(model.expirations));
  }
};

}  // namespace

void SessionMetrics::AddModel(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  models_.push_back(name);
}

void SessionMetrics::Watch(const SessionStore* sessions, size_t memory_bytes) {
  absl::MutexLock lock(&mutex_);
  sessions_ = sessions;
  memory_bytes_ = memory_bytes;
}

std::vector<prometheus::MetricFamily> SessionMetrics::Collect() const {
  absl::MutexLock lock(&mutex_);
  if (sessions_ == nullptr) return {};
  const SessionCounts counts = sessions_->Counts();
  SessionFamilies families;
  for (size_t i = 0; i < models_.size() && i < counts.models.size(); ++i) {
    families.Add(models_[i], counts.models[i]);
  }
  AddSample(&families.bytes, MetricLabelMap{{"tier", "departed"}},
            double(counts.departed_bytes));
  AddSample(&families.usage, MetricLabelMap{},
            memory_bytes_ == 0 ? 0 : double(counts.ram_bytes) / memory_bytes_);
  return {families.sessions,    families.bytes,
          families.checkpoints, families.checkpoint_bytes,
          families.evictions,   families.restores,
          families.forks,       families.expirations,
          families.usage};
}

}  // namespace engram
