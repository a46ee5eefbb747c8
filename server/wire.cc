#include "server/wire.h"

#include <grpcpp/server_context.h>
#include <xxhash.h>

#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/request_id.h"
#include "server/turn_text.h"
#include "server/wire_fields.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

absl::Status CheckOptionalId(absl::string_view field, const std::string& id) {
  return id.empty() ? absl::OkStatus() : CheckId(field, id);
}

using LabelsMessage = google::protobuf::Map<std::string, std::string>;

absl::StatusOr<SessionLabels> ReadLabels(const LabelsMessage& message,
                                         const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckCount("labels",
                                    static_cast<int64_t>(message.size()),
                                    limits.max_labels, "--max-labels"));
  SessionLabels labels;
  for (const auto& [key, value] : message) {
    if (key.empty() || key.size() > 64 || value.size() > 256) {
      return absl::InvalidArgumentError(
          absl::StrCat("label ", Quoted(key), " has a key of ", key.size(),
                       " and a value of ", value.size(),
                       " bytes, limits 1 to 64 and 0 to 256"));
    }
    labels[key] = value;
  }
  return labels;
}

// The limit also keeps the time at which the session expires within the years
// that a google.protobuf.Timestamp can tell.
absl::StatusOr<absl::Duration> ReadTimeToLive(
    const google::protobuf::Duration& message, absl::Duration limit) {
  const absl::Duration time_to_live =
      absl::Seconds(message.seconds()) + absl::Nanoseconds(message.nanos());
  if (time_to_live <= absl::ZeroDuration() || time_to_live > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("time_to_live is ", message.seconds(), " s and ",
                     message.nanos(), " ns, which must be above 0 and at most ",
                     absl::FormatDuration(limit), " (--max-session-ttl)"));
  }
  return time_to_live;
}

// Equal on every machine and in every run: a repeat may come to another one.
uint64_t SeedFor(const Request& request) {
  if (request.session_id.empty()) {
    absl::BitGen random;
    return absl::Uniform<uint64_t>(random);
  }
  const std::string key =
      absl::StrCat(request.session_id, "\n", request.request_id);
  return XXH64(key.data(), key.size(), 0);
}

google::protobuf::Duration ToMessage(absl::Duration duration) {
  google::protobuf::Duration message;
  message.set_seconds(
      absl::IDivDuration(duration, absl::Seconds(1), &duration));
  message.set_nanos(static_cast<int32_t>(
      absl::IDivDuration(duration, absl::Nanoseconds(1), &duration)));
  return message;
}

void SetTime(absl::Time time, google::protobuf::Timestamp* message) {
  absl::Duration since = time - absl::UnixEpoch();
  message->set_seconds(absl::IDivDuration(since, absl::Seconds(1), &since));
  message->set_nanos(static_cast<int32_t>(
      absl::IDivDuration(since, absl::Nanoseconds(1), &since)));
}

void SetDevice(const ServedDevice& device, v1::Device* message) {
  const MemoryUse memory = device.backend->device_memory();
  message->set_index(device.index);
  message->set_name(device.backend->device_name());
  message->set_memory_limit(memory.limit.value_or(0));
  message->set_memory_taken(memory.taken);
  message->set_memory_used(memory.used);
}

// What sessions and checkpoints have in common.
template <typename Message>
void SetState(const SessionInfo& info, Message* message) {
  message->set_model(info.model);
  message->set_version(info.version);
  message->set_position(info.position);
  message->set_pending_token(info.pending_token);
  message->set_state_bytes(info.state_bytes);
  SetTime(info.create_time, message->mutable_create_time());
  SetTime(info.last_used_time, message->mutable_last_used_time());
  message->mutable_labels()->insert(info.labels->begin(), info.labels->end());
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message()));
}

grpc::Status ToGrpc(const absl::Status& status,
                    grpc::CallbackServerContext* context) {
  if (const std::optional<absl::Duration> wait = RetryAfter(status)) {
    const std::string milliseconds = RetryAfterText(*wait);
    context->AddTrailingMetadata(kRetryAfterMetadata, milliseconds);
    context->AddTrailingMetadata("grpc-retry-pushback-ms", milliseconds);
    context->AddTrailingMetadata("retry-after",
                                 absl::StrCat(absl::ToInt64Seconds(
                                     absl::Ceil(*wait, absl::Seconds(1)))));
  }
  return ToGrpc(status);
}

absl::StatusOr<Request> ToRequest(const v1::GenerateRequest& message,
                                  const TenantHandle& tenant,
                                  const ServedModel& model,
                                  const ServerOptions& limits,
                                  const WorkCheck::Ask& may_go_on) {
  Request request;
  request.kind = RequestKind::kGenerate;
  request.tenant = tenant;
  ENGRAM_RETURN_IF_ERROR(CheckOptionalId("session_id", message.session_id()));
  ENGRAM_RETURN_IF_ERROR(CheckOptionalId("request_id", message.request_id()));
  ENGRAM_RETURN_IF_ERROR(
      CheckOptionalId("from_checkpoint", message.from_checkpoint()));
  request.session_id = message.session_id();
  request.from_checkpoint = message.from_checkpoint();
  request.request_id = message.request_id();
  if (request.request_id.empty()) {
    request.request_id =
        request.session_id.empty()
            ? RandomId()
            : model.admission->MakeRequestId(request.session());
  }
  if (message.has_expected_version()) {
    if (message.expected_version() < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected_version is ", message.expected_version(),
                       ", which must be at least 0"));
    }
    request.expected_version = message.expected_version();
  }
  ENGRAM_ASSIGN_OR_RETURN(request.prompt,
                          ReadPrompt(message, model, may_go_on));
  ENGRAM_ASSIGN_OR_RETURN(request.sampling,
                          ReadSampling(message.sampling(), limits));
  ENGRAM_ASSIGN_OR_RETURN(request.stopping,
                          ReadStopping(message.stopping(), model, limits));
  request.keep_partial = message.keep_partial();
  request.received.assign(message.received_token_ids().begin(),
                          message.received_token_ids().end());
  ENGRAM_RETURN_IF_ERROR(
      CheckRange("logprobs", message.logprobs(), 0, limits.max_logprobs));
  request.logprobs = message.logprobs();
  ENGRAM_RETURN_IF_ERROR(CheckRange("priority", message.priority(), -100, 100));
  request.priority = message.priority();
  request.sampling.seed = message.sampling().has_seed()
                              ? static_cast<uint64_t>(message.sampling().seed())
                              : SeedFor(request);
  return request;
}

StartedEvent ToStarted(const v1::GenerateRequest& message) {
  Request request;
  request.session_id = message.session_id();
  request.request_id =
      message.request_id().empty() ? RandomId() : message.request_id();
  StartedEvent started;
  started.session_id = request.session_id;
  started.request_id = request.request_id;
  started.seed = message.sampling().has_seed()
                     ? message.sampling().seed()
                     : static_cast<int64_t>(SeedFor(request));
  return started;
}

absl::StatusOr<Request> ToRequest(const v1::ScoreRequest& message,
                                  const TenantHandle& tenant,
                                  const ServedModel& model,
                                  const ServerOptions& limits,
                                  const WorkCheck::Ask& may_go_on) {
  Request request;
  request.kind = RequestKind::kScore;
  request.tenant = tenant;
  ENGRAM_RETURN_IF_ERROR(CheckOptionalId("session_id", message.session_id()));
  ENGRAM_RETURN_IF_ERROR(
      CheckOptionalId("from_checkpoint", message.from_checkpoint()));
  if (!message.session_id().empty() && !message.from_checkpoint().empty()) {
    return absl::InvalidArgumentError(
        "session_id and from_checkpoint are both set, but a text is scored "
        "after one of them");
  }
  request.session_id = message.session_id();
  request.from_checkpoint = message.from_checkpoint();
  request.request_id = RandomId();
  ENGRAM_ASSIGN_OR_RETURN(request.prompt,
                          ReadPrompt(message, model, may_go_on));
  ENGRAM_RETURN_IF_ERROR(
      CheckRange("logprobs", message.logprobs(), 0, limits.max_logprobs));
  request.logprobs = message.logprobs();
  return request;
}

absl::StatusOr<NewSession> ToNewSession(const v1::CreateSessionRequest& message,
                                        const TenantHandle& tenant,
                                        const ServedModel& model,
                                        const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckOptionalId("session_id", message.session_id()));
  ENGRAM_RETURN_IF_ERROR(
      CheckOptionalId("from_checkpoint", message.from_checkpoint()));
  NewSession session = {
      .name = SessionName(tenant, message.session_id().empty()
                                      ? RandomId()
                                      : message.session_id()),
      .model = model.number,
      .from_checkpoint = message.from_checkpoint(),
  };
  if (message.has_time_to_live()) {
    ENGRAM_ASSIGN_OR_RETURN(
        session.time_to_live,
        ReadTimeToLive(message.time_to_live(), limits.max_session_ttl));
  }
  ENGRAM_ASSIGN_OR_RETURN(session.labels, ReadLabels(message.labels(), limits));
  return session;
}

absl::StatusOr<NewCheckpoint> ToNewCheckpoint(
    const v1::CheckpointSessionRequest& message, const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckId("checkpoint_id", message.checkpoint_id()));
  NewCheckpoint checkpoint = {.id = message.checkpoint_id()};
  ENGRAM_ASSIGN_OR_RETURN(checkpoint.labels,
                          ReadLabels(message.labels(), limits));
  return checkpoint;
}

absl::StatusOr<ImportTarget> ToImportTarget(const v1::ImportHeader& message,
                                            const TenantHandle& tenant,
                                            const ServerOptions& limits) {
  const bool is_checkpoint = message.has_checkpoint_id();
  const std::string& id =
      is_checkpoint ? message.checkpoint_id() : message.session_id();
  ENGRAM_RETURN_IF_ERROR(
      CheckId(is_checkpoint ? "checkpoint_id" : "session_id", id));
  ImportTarget target = {.name = SessionName(tenant, id),
                         .is_checkpoint = is_checkpoint,
                         .model = message.model(),
                         .may_replace = message.replace()};
  ENGRAM_ASSIGN_OR_RETURN(target.labels, ReadLabels(message.labels(), limits));
  if (!message.has_time_to_live()) return target;
  if (is_checkpoint) {
    return absl::InvalidArgumentError(
        "time_to_live is set, but a checkpoint stays until it is deleted");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      target.time_to_live,
      ReadTimeToLive(message.time_to_live(), limits.max_session_ttl));
  return target;
}

absl::Status CheckSessionMetadata(const grpc::CallbackServerContext& context,
                                  absl::string_view session_id) {
  if (session_id.empty()) return absl::OkStatus();
  const auto [begin, end] =
      context.client_metadata().equal_range("x-session-id");
  for (auto entry = begin; entry != end; ++entry) {
    const grpc::string_ref& value = entry->second;
    if (absl::string_view(value.data(), value.size()) == session_id) continue;
    return absl::InvalidArgumentError(
        "the metadata x-session-id is not the request's session_id; a proxy "
        "that routes by it chose the wrong server");
  }
  return absl::OkStatus();
}

v1::Started ToMessage(const StartedEvent& event) {
  v1::Started message;
  message.set_session_id(event.session_id);
  message.set_request_id(event.request_id);
  message.set_version(event.version);
  message.set_position(event.position);
  message.set_cached_tokens(event.cached_tokens);
  message.set_seed(event.seed);
  return message;
}

v1::Token ToMessage(TokenEvent event) {
  v1::Token message;
  message.set_index(event.index);
  message.set_id(event.id);
  message.set_text(std::move(event.text));
  message.set_bytes(std::move(event.bytes));
  if (event.logprob) message.set_logprob(*event.logprob);
  for (Alternative& alternative : event.top) {
    v1::Alternative* top = message.add_top();
    top->set_id(alternative.id);
    top->set_text(std::move(alternative.text));
    top->set_logprob(alternative.logprob);
  }
  return message;
}

v1::Completed ToMessage(const CompletedEvent& event) {
  v1::Completed message;
  switch (event.finish_reason) {
    case FinishReason::kStop:
      message.set_finish_reason(v1::STOP);
      break;
    case FinishReason::kLength:
      message.set_finish_reason(v1::LENGTH);
      break;
    case FinishReason::kCancelled:
      message.set_finish_reason(v1::CANCELLED);
      break;
  }
  message.set_text(event.text);
  message.set_version(event.version);
  message.set_position(event.position);
  *message.mutable_usage() = ToMessage(event.usage);
  *message.mutable_timing() = ToMessage(event.timing);
  return message;
}

v1::Usage ToMessage(const Usage& usage) {
  v1::Usage message;
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_cached_tokens(usage.cached_tokens);
  message.set_generated_tokens(usage.generated_tokens);
  return message;
}

v1::Timing ToMessage(const Timing& timing) {
  v1::Timing message;
  *message.mutable_queue() = ToMessage(timing.queue);
  *message.mutable_prefill() = ToMessage(timing.prefill);
  *message.mutable_decode() = ToMessage(timing.decode);
  return message;
}

v1::Session ToMessage(const SessionInfo& session) {
  v1::Session message;
  SetState(session, &message);
  message.set_session_id(session.session_id);
  message.set_tier(session.tier);
  if (session.expire_time != absl::InfiniteFuture()) {
    SetTime(session.expire_time, message.mutable_expire_time());
  }
  return message;
}

v1::CheckpointInfo ToCheckpointMessage(const SessionInfo& checkpoint) {
  v1::CheckpointInfo message;
  SetState(checkpoint, &message);
  message.set_checkpoint_id(checkpoint.session_id);
  return message;
}

v1::ModelInfo ToMessage(const ServedModel& model) {
  const ModelInfo& info = model.info();
  v1::ModelInfo message;
  message.set_name(model.name);
  message.set_family(info.family);
  message.set_parameters(info.parameters);
  message.set_vocabulary_size(info.vocabulary_size);
  message.set_layers(info.layers);
  message.set_state_bytes(info.state_bytes);
  message.set_kv_bytes_per_token(info.kv_bytes_per_token);
  message.set_max_positions(info.max_positions);
  for (const std::string& warning : model.warnings) {
    message.add_warnings(warning);
  }
  message.set_weight_format(info.weight_format);
  message.set_backend(info.backend);
  message.set_weight_hash(info.weight_hash);
  message.set_has_tokenizer(model.tokenizer != nullptr);
  message.set_chunk_tokens(info.chunk_tokens);
  for (const ServedDevice& device : model.devices) {
    SetDevice(device, message.add_devices());
  }
  return message;
}

}  // namespace engram
