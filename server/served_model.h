// ServedModel: one model under its name, with all that runs it, on one device
// or several; and the list of them, by which a request finds its own.
//
// Thread-safe: constant once the server has started.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/admission.h"
#include "server/caller.h"
#include "server/engine.h"
#include "server/metrics.h"
#include "server/session_store.h"
#include "server/state_layout.h"

namespace engram {

// A model on one device. A request runs on one of them, a session's state may
// go from one to another.
struct ServedDevice {
  int index = 0;  // DeviceOptions
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  ModelMetrics* metrics = nullptr;
  std::unique_ptr<Engine> engine;
};

struct ServedModel {
  std::string name;
  int number = 0;  // SessionStore::AddModel
  std::vector<int32_t> eos_token_ids;
  std::unique_ptr<Tokenizer> tokenizer;  // nullptr: token ids only
  // What is odd about its folder and was passed over, one sentence each.
  std::vector<std::string> warnings;
  // Why it is on the CPU where a device was looked for; else empty.
  std::string no_device;
  MemoryPlan memory;   // on each device
  StateLayout layout;  // of its states, on all of them
  std::unique_ptr<Admission> admission;
  std::vector<ServedDevice> devices;  // one at least, once it is loaded
  // Told of each request once, when it has ended: log and metrics.
  std::function<void(const RequestSummary&)> on_end;

  // The same on all devices.
  const ModelInfo& info() const { return devices.front().model->info(); }
  const ModelLimits& limits() const { return devices.front().model->limits(); }
};

class ServedModels {
 public:
  explicit ServedModels(SessionStore* sessions) : sessions_(sessions) {}

  void Add(std::unique_ptr<ServedModel> model) {
    models_.push_back(std::move(model));
  }

  const std::vector<std::unique_ptr<ServedModel>>& all() const {
    return models_;
  }
  SessionStore* sessions() const { return sessions_; }

  // Who is told of calls that reached no model. REQUIRES: no call has come yet.
  void SetOnEndWithoutModel(std::function<void(const RequestSummary&)> on_end) {
    on_end_without_model_ = std::move(on_end);
  }

  // Tells log and metrics of a call that no engine tells of: one that was
  // refused, or that needs no engine. `request.model` may be empty or name none
  // that is served. Once per call, when it has ended.
  void Report(const RequestSummary& request) const;
  // The same of a call without an engine that ended with `status`. `model` is
  // the name of one that is served, or empty.
  void ReportAnswer(const Caller& caller, const std::string& method,
                    const std::string& model, const std::string& session_id,
                    const absl::Status& status) const;

  // By name. Empty: the only one served. NOT_FOUND: no such model;
  // INVALID_ARGUMENT: it must be named. Both list the names.
  absl::StatusOr<ServedModel*> Find(absl::string_view name) const;
  // The same, but an empty name is that of the model of `session`, if there is
  // such a session, or else of `checkpoint`, if one is named; NOT_FOUND: there
  // is no such checkpoint.
  absl::StatusOr<ServedModel*> Find(absl::string_view name,
                                    const SessionName& session,
                                    const SessionName& checkpoint) const;

 private:
  std::string Names() const;

  SessionStore* const sessions_;
  std::function<void(const RequestSummary&)> on_end_without_model_;
  std::vector<std::unique_ptr<ServedModel>> models_;
};

}  // namespace engram
