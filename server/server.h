// Server: builds and owns all parts, in one place: models, sessions, admission,
// engines, services, metrics, health.
//
// Threads, all of them: one engine per model and device, gRPC's own, the
// metrics port's one, two that read long requests, those that deliver, the
// kernels' pool of all models, the one that accepts connections, the probe of
// the gRPC port, those that look after certificates and after keys, and the
// log's.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http_port.h"
#include "server/options.h"
#include "server/serving_phase.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace engram {

class Access;
class Delivery;
class GrpcPort;
class KeyRing;
class Metrics;
class SelfProbe;
class ServedModels;
struct ServedModel;
class SessionStore;
class ReplyBudget;
class RequestThreads;
class StopSignal;
class Tenants;
class TlsIdentity;
struct CallSurroundings;

class Server {
 public:
  // Loads the models, opens the ports and serves. Errors: those of LoadModel
  // and Tokenizer::Load; INVALID_ARGUMENT: files of TLS or of keys that cannot
  // be used, or options that do not fit together; UNAVAILABLE: an address
  // cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options);

  // Drains with the options' limit if that has not been done.
  ~Server();

  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& metrics_address() const { return metrics_address_; }

  // Stops admitting, says NOT_SERVING, lets running requests finish and be read
  // for up to the drain timeout (they end before, so that there is time for the
  // latter: after three quarters of it, or 5 s), and stops within a second
  // more. INTERNAL if the server had failed.
  absl::Status Drain();

  // Whether a model's device has failed, or the gRPC port no longer answers:
  // the process should exit for a restart.
  bool failed() const { return failed_; }

 private:
  explicit Server(const ServerOptions& options);

  absl::Status LoadIdentity();
  absl::Status LoadKeys();
  void WatchKeys();
  absl::Status OpenHttpPort();
  // Of /metrics, for whoever may have it.
  std::function<HttpPage(const HttpRequest&)> MetricsPage();
  absl::Status StartParts();
  absl::Status StartPartsOrThrow();
  absl::Status LoadModels();
  absl::Status LoadOne(const std::string& name, const std::string& folder,
                       std::shared_ptr<cpu::ThreadPool> pool);
  absl::Status OpenPorts();
  // Of sessions and metrics.
  void AddToParts(ServedModel* model);
  void StartEngines();
  void MakeEngines(ServedModel* model);
  void WatchConnections();
  // What comes from now on is refused with this reason.
  void Refuse(const std::string& reason);
  void SetHealth(bool serving);
  ServingPhase phase() const {
    return failed_ ? ServingPhase::kFailed : phase_.load();
  }

  const ServerOptions options_;
  std::string grpc_address_;
  std::string metrics_address_;
  std::atomic<bool> failed_ = false;
  std::atomic<ServingPhase> phase_ = ServingPhase::kLoading;
  bool drained_ = false;
  bool told_no_device_ = false;

  // Destroyed in the reverse order: the HTTP port, whose pages ask all the
  // rest, goes first; then the gRPC server, whose calls point at the rest; then
  // the request threads, one of which may still hold a call that is over.
  std::unique_ptr<TlsIdentity> identity_;  // none: nothing is encrypted
  std::unique_ptr<Tenants> tenants_;
  std::unique_ptr<KeyRing> keys_;  // none: everybody is let in
  std::unique_ptr<Access> access_;
  std::unique_ptr<SessionStore> sessions_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Delivery> delivery_;
  std::unique_ptr<ServedModels> models_;
  std::unique_ptr<ReplyBudget> replies_;
  std::unique_ptr<StopSignal> stop_;
  std::unique_ptr<RequestThreads> request_threads_;
  std::unique_ptr<CallSurroundings> around_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::vector<std::thread> engines_;
  std::vector<absl::Status> engine_ends_;
  std::unique_ptr<GrpcPort> grpc_port_;
  std::unique_ptr<SelfProbe> probe_;
  std::unique_ptr<HttpPort> http_port_;
};

}  // namespace engram
