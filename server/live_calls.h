// LiveCalls: the gRPC calls that are not over yet, whatever their service: how
// many, on which connections, and a way to end them.
//
// An interceptor lives exactly as long as its call, and that is all it is used
// for: what it lets pass is not looked at.
//
// Thread-safe.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace engram {

class LiveCalls {
 public:
  // Told of each call's client, as gRPC writes it, at its begin and its end.
  using Observer = std::function<void(absl::string_view peer)>;

  LiveCalls(Observer on_begin, Observer on_end);

  // For grpc::ServerBuilder; this outlives it and the server.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
  MakeFactory();

  // Which calls are meant: those of our own services, all of which end by
  // themselves when the server stops, or others' too (a health Watch never
  // ends).
  enum class Of { kOurServices, kAll };

  // Waits until there is none; false if there still is at `deadline`.
  bool AwaitNone(Of which, absl::Time deadline) const;
  // Ends all that there are now with UNAVAILABLE.
  void EndAll(const std::string& message);

 private:
  class Call;
  class Factory;
  struct Entry {
    grpc_call* call = nullptr;  // until gRPC has made it
    bool ours = false;
  };

  void Add(const Call* call, const Entry& entry);
  void SetCall(const Call* call, grpc_call* of_grpc);
  void Remove(const Call* call);

  const Observer on_begin_;
  const Observer on_end_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<const Call*, Entry> calls_ ABSL_GUARDED_BY(mutex_);
  int ours_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace engram
