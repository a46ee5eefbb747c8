#include "server/health_service.h"

#include <grpcpp/grpcpp.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/refused_call.h"

namespace engram {
namespace {

namespace health = grpc::health::v1;
using Status = health::HealthCheckResponse::ServingStatus;

// No key is asked for here, and gRPC keeps the request of a watch, with
// whatever fields there are in it, until the watch ends. No service's name is
// so long.
constexpr size_t kMaxWatchBytes = 1024;

grpc::Status NoSuchService() {
  return {grpc::StatusCode::NOT_FOUND, "no such service"};
}

// What all calls ask and wait for.
class Statuses {
 public:
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // Something may have changed.
    virtual void Look() = 0;
  };

  Status Get(const std::string& name) const {
    absl::MutexLock lock(&mutex_);
    const auto found = by_name_.find(name);
    return found == by_name_.end()
               ? health::HealthCheckResponse::SERVICE_UNKNOWN
               : found->second;
  }

  void Set(const std::string& name, Status status) {
    std::vector<std::shared_ptr<Watcher>> watchers;
    {
      absl::MutexLock lock(&mutex_);
      by_name_[name] = status;
      watchers.assign(watchers_.begin(), watchers_.end());
    }
    for (const auto& watcher : watchers) watcher->Look();
  }

  void Add(std::shared_ptr<Watcher> watcher) {
    absl::MutexLock lock(&mutex_);
    watchers_.insert(std::move(watcher));
  }
  void Remove(const std::shared_ptr<Watcher>& watcher) {
    absl::MutexLock lock(&mutex_);
    watchers_.erase(watcher);
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Status> by_name_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::shared_ptr<Watcher>> watchers_
      ABSL_GUARDED_BY(mutex_);
};

// Lives until OnDone: the list of watchers holds it.
class WatchCall final
    : public grpc::ServerWriteReactor<health::HealthCheckResponse>,
      public Statuses::Watcher,
      public std::enable_shared_from_this<WatchCall> {
 public:
  static grpc::ServerWriteReactor<health::HealthCheckResponse>* Start(
      Statuses* statuses, const std::string& name) {
    const auto call = std::make_shared<WatchCall>(statuses, name);
    statuses->Add(call);
    // Debian's gRPC hangs if a stream's first write is buffered.
    call->StartSendInitialMetadata();
    return call.get();
  }

  WatchCall(Statuses* statuses, std::string name)
      : statuses_(*statuses), name_(std::move(name)) {}

  void Look() override {
    const auto keep = shared_from_this();
    switch (TakeNext()) {
      case Next::kNothing:
        return;
      case Next::kWrite:
        return StartWrite(&response_);
      case Next::kFinish:
        return Finish({grpc::StatusCode::CANCELLED, "nobody watches"});
    }
  }

 private:
  enum class Next { kNothing, kWrite, kFinish };

  Next TakeNext() {
    absl::MutexLock lock(&mutex_);
    if (writing_ || finished_) return Next::kNothing;
    if (gone_) {
      finished_ = true;
      return Next::kFinish;
    }
    const Status now = statuses_.Get(name_);
    if (told_ == now) return Next::kNothing;
    told_ = now;
    response_.set_status(now);
    writing_ = true;
    return Next::kWrite;
  }

  void OnSendInitialMetadataDone(bool ok) override { OnWriteDone(ok); }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) gone_ = true;
    }
    Look();
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      gone_ = true;
    }
    Look();
  }

  void OnDone() override { statuses_.Remove(shared_from_this()); }

  Statuses& statuses_;
  const std::string name_;

  absl::Mutex mutex_;
  // The write in flight reads this; nobody else touches it meanwhile.
  health::HealthCheckResponse response_;
  std::optional<Status> told_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = true;  // the initial metadata
  // The client, or the server that ends all calls.
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

class CallbackHealthService final : public HealthService,
                                    public health::Health::CallbackService {
 public:
  void Set(const std::string& name, bool serving) override {
    statuses_.Set(name, serving ? health::HealthCheckResponse::SERVING
                                : health::HealthCheckResponse::NOT_SERVING);
  }
  grpc::Service* service() override { return this; }

 private:
  grpc::ServerUnaryReactor* Check(
      grpc::CallbackServerContext* context,
      const health::HealthCheckRequest* request,
      health::HealthCheckResponse* response) override {
    const Status now = statuses_.Get(request->service());
    response->set_status(now);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(now == health::HealthCheckResponse::SERVICE_UNKNOWN
                        ? NoSuchService()
                        : grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<health::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext*,
      const health::HealthCheckRequest* request) override {
    using Reactor = grpc::ServerWriteReactor<health::HealthCheckResponse>;
    if (request->ByteSizeLong() > kMaxWatchBytes) {
      return RefusedCall<Reactor>::Start(NoSuchService());
    }
    return WatchCall::Start(&statuses_, request->service());
  }

  Statuses statuses_;
};

}  // namespace

std::unique_ptr<HealthService> HealthService::Create() {
  return std::make_unique<CallbackHealthService>();
}

}  // namespace engram
