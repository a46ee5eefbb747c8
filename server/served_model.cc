#include "server/served_model.h"

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"

namespace engram {

absl::StatusOr<ServedModel*> ServedModels::Find(
    absl::string_view name, const SessionName& session,
    const SessionName& checkpoint) const {
  if (!name.empty()) return Find(name);
  if (!session.id.empty()) {
    const absl::StatusOr<int> number = sessions_->ModelOf(session);
    if (number.ok()) return models_[*number].get();
  }
  if (checkpoint.id.empty()) return Find(name);
  ENGRAM_ASSIGN_OR_RETURN(const int number,
                          sessions_->ModelOfCheckpoint(checkpoint));
  return models_[number].get();
}

absl::StatusOr<ServedModel*> ServedModels::Find(absl::string_view name) const {
  if (name.empty()) {
    if (models_.size() == 1) return models_.front().get();
    return absl::InvalidArgumentError(absl::StrCat(
        "the request names no model, and several are served: ", Names()));
  }
  for (const auto& model : models_) {
    if (model->name == name) return model.get();
  }
  return absl::NotFoundError(absl::StrCat("there is no model ",
                                          Quoted(std::string(name)),
                                          "; served are: ", Names()));
}

void ServedModels::Report(const RequestSummary& request) const {
  for (const auto& model : models_) {
    if (model->name == request.model) return model->on_end(request);
  }
  if (on_end_without_model_ != nullptr) on_end_without_model_(request);
}

void ServedModels::ReportAnswer(const Caller& caller, const std::string& method,
                                const std::string& model,
                                const std::string& session_id,
                                const absl::Status& status) const {
  RequestSummary summary;
  summary.handling =
      status.ok() ? RequestHandling::kAnswered : RequestHandling::kRefused;
  summary.model = model;
  summary.method = method;
  summary.tenant = caller.tenant;
  summary.key = caller.key;
  summary.session_id = session_id;
  summary.status = status;
  Report(summary);
}

std::string ServedModels::Names() const {
  std::string names;
  for (const auto& model : models_) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", model->name);
  }
  return names;
}

}  // namespace engram
