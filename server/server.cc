#include "server/server.h"

#include <grpcpp/impl/codegen/service_type.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status.h"
#include "server/access.h"
#include "server/admit_call.h"
#include "server/clock.h"
#include "server/connections.h"
#include "server/delivery.h"
#include "server/device_metrics.h"
#include "server/exposure.h"
#include "server/grpc_credentials.h"
#include "server/grpc_port.h"
#include "server/key_ring.h"
#include "server/keyed_page.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/model_loading.h"
#include "server/rare_line.h"
#include "server/reply_budget.h"
#include "server/request_threads.h"
#include "server/self_probe.h"
#include "server/served_model.h"
#include "server/service.h"
#include "server/stop_signal.h"
#include "server/tcp_address.h"
#include "server/tenants.h"
#include "server/tls_identity.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

// Every folder with a config.json in the first zoo that exists.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> FindZoo(
    const std::string& wanted) {
  std::vector<std::string> places = {wanted};
  if (wanted.empty()) {
    places = {ENGRAM_ZOO_FOLDER, "/usr/share/engram/zoo"};
  }
  for (const std::string& place : places) {
    std::vector<std::pair<std::string, std::string>> models;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(place, error)) {
      if (fs::exists(entry.path() / "config.json", error)) {
        models.emplace_back(entry.path().filename(), entry.path());
      }
    }
    std::sort(models.begin(), models.end());
    if (!models.empty()) return models;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no model in the zoo ", places.front(),
                   "; give one with --model NAME=FOLDER"));
}

// The flags that name files of TLS need each other.
absl::Status CheckTogether(const TlsFiles& names) {
  if (names.certificate.empty() != names.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tls-certificate and --tls-key belong together: ",
        names.key.empty() ? "--tls-key" : "--tls-certificate", " is missing"));
  }
  if (names.certificate.empty() && !names.authorities.empty()) {
    return absl::InvalidArgumentError(
        "--tls-client-ca needs --tls-certificate and --tls-key: only by TLS "
        "can clients show certificates");
  }
  return absl::OkStatus();
}

// How often the files of certificates and of keys are read: some kilobytes.
constexpr absl::Duration kFilesInterval = absl::Seconds(1);

// Whoever reaches the port can come without a key.
void LogStranger(const RequestSummary& request) {
  static RareLine line(RealClock());
  const std::optional<int64_t> untold = line.Note();
  if (!untold.has_value()) return;
  Log("caller_refused", {{"method", request.method},
                         {"peer", request.peer},
                         {"message", std::string(request.status.message())},
                         {"untold", *untold}});
}

// Not a line for each listing or health check that was answered.
void LogRequest(const RequestSummary& request) {
  if (request.handling == RequestHandling::kAnswered) return;
  if (absl::IsUnauthenticated(request.status)) return LogStranger(request);
  Log(RequestLevel(request), "request", DescribeRequest(request));
}

// The share of a drain's limit in which nothing runs any more, so that clients
// get to read what was made until then.
absl::Duration DeliveryTime(absl::Duration drain_timeout) {
  return std::min(drain_timeout / 4, absl::Seconds(5));
}

// What computes products of many tokens on a model's devices, which are mostly
// alike; empty if no library can.
std::string ProductLibraries(const ServedModel& model) {
  std::vector<std::string> told;
  for (const ServedDevice& device : model.devices) {
    const auto library = device.backend->product_library();
    if (!library.has_value()) continue;
    const std::string summary = library->Summary();
    if (told.empty() || summary != told.back()) told.push_back(summary);
  }
  return absl::StrJoin(told, "; ");
}

absl::Status WithPrefix(const std::string& prefix, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(prefix, status.message()));
}

}  // namespace

Server::Server(const ServerOptions& options) : options_(options) {}

Server::~Server() { Drain().IgnoreError(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options) {
  RaiseDescriptorLimit();
  std::unique_ptr<Server> server(new Server(options));
  SessionLimits limits;
  limits.memory_bytes = options.session_memory;
  limits.answer_bytes = options.max_answer_bytes;
  limits.remembered_turns = options.remembered_turns;
  limits.time_to_live = options.session_ttl;
  limits.sessions = static_cast<int>(options.max_sessions);
  limits.checkpoints = static_cast<int>(options.max_checkpoints);
  limits.departed = static_cast<int>(options.max_departed);
  server->sessions_ = std::make_unique<SessionStore>(limits, RealClock());
  server->models_ = std::make_unique<ServedModels>(server->sessions_.get());
  ENGRAM_RETURN_IF_ERROR(server->StartParts());
  Log("listening", {{"grpc", server->grpc_address_},
                    {"metrics", server->metrics_address_},
                    {"version", std::string(ENGRAM_VERSION)}});
  return server;
}

// The libraries' exceptions for what a machine may lack end here.
absl::Status Server::StartParts() {
  try {
    return StartPartsOrThrow();
  } catch (const std::bad_alloc&) {
    std::string needed;
    for (const auto& model : models_->all()) {
      absl::StrAppend(&needed, needed.empty() ? "" : "; ", "model \"",
                      model->name, "\" takes ",
                      DescribeMemory(model->memory, model->limits()));
    }
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory left to start: ", needed));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot start a thread (", error.what(), "); --threads takes fewer"));
  }
}

absl::Status Server::StartPartsOrThrow() {
  ENGRAM_ASSIGN_OR_RETURN(const std::string exposed, CheckExposure(options_));
  if (!exposed.empty()) {
    Log(LogLevel::kWarning, "insecure", {{"message", exposed}});
  }
  metrics_ = Metrics::Create(/*keyed=*/!options_.keys.empty());
  ENGRAM_RETURN_IF_ERROR(LoadIdentity());
  ENGRAM_RETURN_IF_ERROR(LoadKeys());
  ENGRAM_RETURN_IF_ERROR(OpenHttpPort());
  ENGRAM_RETURN_IF_ERROR(LoadModels());
  ENGRAM_RETURN_IF_ERROR(CompleteMemory(*models_, options_));
  WatchDeviceMemory(*models_, metrics_.get());
  metrics_->WatchSessions(sessions_.get(), options_.session_memory);
  metrics_->WatchCounter(
      "log_lines_dropped_total",
      "Log lines that nobody read in time, or that could not be written.",
      [] { return static_cast<double>(LogLinesDropped()); });
  StartEngines();
  ENGRAM_RETURN_IF_ERROR(OpenPorts());
  return absl::OkStatus();
}

absl::Status Server::LoadIdentity() {
  ENGRAM_RETURN_IF_ERROR(CheckTogether(options_.tls));
  if (options_.tls.certificate.empty()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(identity_,
                          TlsIdentity::Load(options_.tls, RealClock()));
  identity_->Watch(kFilesInterval);
  metrics_->WatchGauge(
      "tls_certificate_expiry_seconds",
      "When the first of the served certificates ends, in seconds since 1970.",
      [identity = identity_.get()] {
        return absl::ToDoubleSeconds(identity->current()->expiry -
                                     absl::UnixEpoch());
      });
  metrics_->WatchCounter("tls_reload_failures_total",
                         "Changes of the TLS files into what cannot be used.",
                         [identity = identity_.get()] {
                           return static_cast<double>(identity->failures());
                         });
  return absl::OkStatus();
}

absl::Status Server::LoadKeys() {
  tenants_ = std::make_unique<Tenants>();
  if (!options_.keys.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        keys_, KeyRing::Load(options_.keys, !options_.tls.authorities.empty(),
                             tenants_.get()));
    keys_->Watch(kFilesInterval);
    WatchKeys();
  }
  const bool keyed_reflection = options_.reflection == ReflectionMode::kKeyed;
  if (keyed_reflection && keys_ == nullptr) {
    return absl::InvalidArgumentError("--reflection keyed needs --keys");
  }
  access_ = std::make_unique<Access>(keys_.get(), tenants_.get(), RealClock(),
                                     keyed_reflection);
  return absl::OkStatus();
}

void Server::WatchKeys() {
  metrics_->WatchTenants(tenants_.get(), sessions_.get(),
                         static_cast<int>(options_.tenant_labels));
  metrics_->WatchGauge(
      "keys", "Keys that are taken, expired ones too.", [keys = keys_.get()] {
        return static_cast<double>(keys->current()->keys().size());
      });
  metrics_->WatchCounter(
      "keys_reload_failures_total",
      "Changes of the file of keys into what cannot be "
      "used.",
      [keys = keys_.get()] { return static_cast<double>(keys->failures()); });
}

// Opened first, so that a server that still loads can be told from one that is
// not there.
absl::Status Server::OpenHttpPort() {
  metrics_->WatchGauge(
      "draining", "1 while the server lets its last requests end.",
      [this] { return phase() == ServingPhase::kDraining ? 1 : 0; });
  HttpPort::Pages pages;
  pages["/metrics"] = MetricsPage();
  pages["/healthz"] = [this](const auto&) { return HealthPage(phase()); };
  pages["/readyz"] = [this](const auto&) { return ReadyPage(phase()); };
  HttpPort::Options http;
  http.identity = identity_.get();
  auto port = HttpPort::Open(options_.metrics_address, http, std::move(pages));
  if (absl::IsUnavailable(port.status())) {
    return absl::UnavailableError(absl::StrCat(
        port.status().message(), "; choose another --metrics-address"));
  }
  ENGRAM_RETURN_IF_ERROR(port.status());
  http_port_ = *std::move(port);
  metrics_address_ = http_port_->address();
  return absl::OkStatus();
}

std::function<HttpPage(const HttpRequest&)> Server::MetricsPage() {
  const auto page = [this] {
    return HttpPage{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                    .body = metrics_->Text()};
  };
  // Who is on this machine needs no key.
  if (!access_->keyed() ||
      IsLoopback(SplitAddress(options_.metrics_address)).value_or(false)) {
    return [page](const HttpRequest&) { return page(); };
  }
  return [this, page](const HttpRequest& request) {
    return KeyedPage(*access_, request, "/metrics", page,
                     [](const absl::Status& status) {
                       RequestSummary refusal;
                       refusal.method = "/metrics";
                       refusal.status = status;
                       LogStranger(refusal);
                     });
  };
}

absl::Status Server::LoadModels() {
  std::vector<std::pair<std::string, std::string>> folders = options_.models;
  if (folders.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(folders, FindZoo(options_.zoo));
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<cpu::ThreadPool> pool,
                          MakeThreadPool(static_cast<int>(options_.threads)));
  for (const auto& [name, folder] : folders) {
    ENGRAM_RETURN_IF_ERROR(WithPrefix(absl::StrCat("model \"", name, "\": "),
                                      LoadOne(name, folder, pool)));
  }
  return absl::OkStatus();
}

absl::Status Server::LoadOne(const std::string& name, const std::string& folder,
                             std::shared_ptr<cpu::ThreadPool> pool) {
  if (options_.max_batch_tokens < options_.slots) {
    Log(LogLevel::kWarning, "warning",
        {{"model", name},
         {"message",
          "--max-batch-tokens is below --slots: when all slots "
          "decode, prompts wait"}});
  }
  const absl::Time begin = RealClock()->Now();
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<ServedModel> served,
      LoadServedModel(name, folder, options_, std::move(pool)));
  // Once: it is so for all models.
  if (!served->no_device.empty() && !std::exchange(told_no_device_, true)) {
    Log(LogLevel::kWarning, "warning",
        {{"message",
          absl::StrCat("models run on the CPU: ", served->no_device)}});
  }
  for (const std::string& warning : served->warnings) {
    Log(LogLevel::kWarning, "warning",
        {{"model", name}, {"folder", folder}, {"message", warning}});
  }
  const ModelInfo& info = served->info();
  const size_t session_bytes = CapacityOf(info).StateBytes(1);
  if (session_bytes > static_cast<size_t>(options_.session_memory)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--session-memory is ", options_.session_memory,
                     " bytes, one session takes ", session_bytes));
  }
  AddToParts(served.get());
  Backend::Recordings recorded;
  for (const ServedDevice& device : served->devices) {
    const Backend::Recordings more = device.backend->recordings();
    recorded.count += more.count;
    recorded.bytes += more.bytes;
  }
  Log("model_loaded",
      {{"model", name},
       {"folder", folder},
       {"family", info.family},
       {"parameters", info.parameters},
       {"state_bytes", static_cast<int64_t>(info.state_bytes)},
       {"memory_bytes", static_cast<int64_t>(served->memory.total())},
       {"backend", info.backend},
       {"devices", static_cast<int64_t>(served->devices.size())},
       {"recorded_steps", recorded.count},
       {"recorded_bytes", static_cast<int64_t>(recorded.bytes)},
       {"product_library", ProductLibraries(*served)},
       {"seconds", absl::ToDoubleSeconds(RealClock()->Now() - begin)}});
  models_->Add(std::move(served));
  return absl::OkStatus();
}

void Server::AddToParts(ServedModel* model) {
  std::vector<int> indexes;
  for (const ServedDevice& device : model->devices) {
    indexes.push_back(device.index);
  }
  model->number = sessions_->AddModel(model->name, CapacityOf(model->info()),
                                      static_cast<int>(indexes.size()));
  const std::vector<ModelMetrics*> metrics = metrics_->AddModel(
      model->name, model->info(), model->limits().slots, indexes);
  for (size_t i = 0; i < metrics.size(); ++i) {
    model->devices[i].metrics = metrics[i];
  }
}

void Server::StartEngines() {
  models_->SetOnEndWithoutModel(
      [metrics = metrics_.get(),
       log = options_.request_log](const RequestSummary& request) {
        metrics->ObserveRequest(request);
        metrics->CountForTenant(request);
        if (log) LogRequest(request);
      });
  delivery_ =
      std::make_unique<Delivery>(static_cast<int>(options_.delivery_threads));
  for (const auto& model : models_->all()) MakeEngines(model.get());
  size_t engines = 0;
  for (const auto& model : models_->all()) engines += model->devices.size();
  engine_ends_.resize(engines);
  for (const auto& model : models_->all()) {
    for (const ServedDevice& device : model->devices) {
      engines_.emplace_back([this, end = &engine_ends_[engines_.size()],
                             model = model.get(), &device] {
        *end = device.engine->Run();
        if (end->ok()) return;
        Log(LogLevel::kError, "engine_failed",
            {{"model", model->name},
             {"device", static_cast<int64_t>(device.index)},
             {"message", end->ToString()}});
        failed_ = true;
      });
    }
  }
}

void Server::MakeEngines(ServedModel* model) {
  AdmissionLimits limits;
  limits.max_queue = static_cast<int>(options_.max_queue);
  limits.request_bytes = options_.request_memory;
  limits.max_queue_time = options_.max_queue_time;
  limits.max_prompt_tokens = options_.max_prompt_tokens;
  limits.max_generated_tokens = options_.max_generated_tokens;
  limits.max_score_tokens = options_.max_score_tokens;
  limits.stream_tokens = static_cast<int>(options_.stream_tokens);
  EngineOptions engine_options;
  engine_options.target_step_time = options_.target_step_time;
  engine_options.slow_reader_timeout = options_.slow_reader_timeout;
  engine_options.max_queue = static_cast<int>(options_.max_queue);
  engine_options.max_inspections = static_cast<int>(options_.max_inspections);
  AdmissionModel queued;
  queued.number = model->number;
  queued.vocabulary_size = model->info().vocabulary_size;
  queued.capacity = CapacityOf(model->info());
  queued.tokenizer = model->tokenizer.get();
  queued.devices = static_cast<int>(model->devices.size());
  model->admission = std::make_unique<Admission>(limits, std::move(queued),
                                                 sessions_.get(), RealClock());
  // What is told of a request is told of all devices together.
  model->on_end = [all = metrics_.get(),
                   metrics = model->devices.front().metrics,
                   log = options_.request_log](const RequestSummary& request) {
    metrics->ObserveRequest(request);
    all->CountForTenant(request);
    if (log) LogRequest(request);
  };
  std::vector<Engine*> engines;
  for (ServedDevice& device : model->devices) {
    EngineModel run;
    run.name = model->name;
    run.model = device.model.get();
    run.number = model->number;
    run.device = static_cast<int>(engines.size());
    device.engine = std::make_unique<Engine>(
        std::move(run), engine_options,
        &model->admission->inbox(static_cast<int>(engines.size())),
        sessions_.get(), delivery_.get(), RealClock(), device.metrics,
        model->on_end);
    engines.push_back(device.engine.get());
  }
  for (Engine* const engine : engines) engine->SetEngines(engines);
}

absl::Status Server::OpenPorts() {
  RequestThreadsLimits limits;
  limits.max_queue = static_cast<size_t>(options_.max_queue);
  limits.max_bytes = static_cast<size_t>(options_.max_queue_bytes);
  request_threads_ = std::make_unique<RequestThreads>(limits);
  replies_ = std::make_unique<ReplyBudget>(options_.reply_memory);
  metrics_->WatchGauge(
      "reply_bytes", "Answers in one piece that clients have not read.",
      [replies = replies_.get()] { return double(replies->used()); });
  metrics_->WatchGauge("long_requests_waiting",
                       "Long requests that wait to be read.",
                       [threads = request_threads_.get()] {
                         return double(threads->waiting());
                       });
  stop_ = std::make_unique<StopSignal>();
  around_.reset(new CallSurroundings{*models_, options_, *request_threads_,
                                     *replies_, *stop_, *access_});
  services_.push_back(MakeGenerationService(*around_));
  services_.push_back(MakeSessionsService(*around_));
  services_.push_back(MakeInspectionService(*around_));
  services_.push_back(MakeModelsService(*around_));
  ENGRAM_ASSIGN_OR_RETURN(
      grpc_port_,
      GrpcPort::Open(options_, MakeServerCredentials(identity_.get()),
                     services_,
                     [around = around_.get()](const auto& context,
                                              absl::string_view method) {
                       return AdmitCall(*around, context, method).status();
                     }));
  grpc_address_ = grpc_port_->address();
  WatchConnections();
  SetHealth(true);
  phase_ = ServingPhase::kServing;
  SelfProbe::Options probe;
  probe.tls = identity_ != nullptr;
  probe.excuse = [this] { return grpc_port_->connections().full(); };
  probe_ = std::make_unique<
      SelfProbe>(grpc_address_, probe, [this](const absl::Status& status) {
    Log(LogLevel::kError, "grpc_port_failed", {{"message", status.ToString()}});
    failed_ = true;
  });
  return absl::OkStatus();
}

void Server::WatchConnections() {
  const Connections* const connections = &grpc_port_->connections();
  metrics_->WatchGauge("connections", "Connections to the gRPC port.", [=] {
    return static_cast<double>(connections->open());
  });
  metrics_->WatchCounter(
      "connections_closed_for_room_total",
      "Idle connections that were closed because others came at the limit.",
      [=] { return static_cast<double>(connections->closed_for_room()); });
}

void Server::SetHealth(bool serving) {
  grpc_port_->SetHealth("", serving);
  for (const auto& model : models_->all()) {
    grpc_port_->SetHealth(model->name, serving);
  }
}

void Server::Refuse(const std::string& reason) {
  if (request_threads_ != nullptr) request_threads_->Close(reason);
  for (const auto& model : models_->all()) {
    if (model->admission != nullptr) model->admission->Close(reason);
  }
}

absl::Status Server::Drain() {
  if (std::exchange(drained_, true)) return absl::OkStatus();
  const absl::Time begin = RealClock()->Now();
  const absl::Time deadline = begin + options_.drain_timeout;
  // Before anybody is told: who hears of the drain may rely on it.
  Refuse("the server is stopping; try another one");
  phase_ = ServingPhase::kDraining;
  if (grpc_port_ != nullptr) {
    Log("drain_begun",
        {{"limit_s", absl::ToDoubleSeconds(options_.drain_timeout)}});
    SetHealth(false);
  }
  probe_ = nullptr;
  for (const auto& model : models_->all()) {
    for (const ServedDevice& device : model->devices) {
      if (device.engine == nullptr) continue;
      device.engine->Drain(deadline - DeliveryTime(options_.drain_timeout));
    }
  }
  if (stop_ != nullptr) stop_->Stop();
  for (std::thread& engine : engines_) engine.join();
  // Every request has its answer; what is left is to deliver it.
  if (delivery_ != nullptr) delivery_->Finish();
  if (grpc_port_ != nullptr) {
    grpc_port_->Close(deadline);
    Log("drain_ended",
        {{"seconds", absl::ToDoubleSeconds(RealClock()->Now() - begin)}});
  }
  for (const absl::Status& end : engine_ends_) ENGRAM_RETURN_IF_ERROR(end);
  if (failed_) return absl::InternalError("the gRPC port stopped answering");
  return absl::OkStatus();
}

}  // namespace engram
