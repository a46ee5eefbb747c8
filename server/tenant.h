// Tenant: whose sessions are whose. A key belongs to a tenant, and what is made
// with it does: its sessions, their turns, what it may take of the server.
// Calls of a server without keys belong to the one whose name is empty.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace engram {

// What all keys of a tenant may take together. Nothing: no limit of its own.
struct TenantLimits {
  std::optional<int64_t> streams;           // calls of Generation at once
  std::optional<int64_t> sessions;          // that there are
  std::optional<int64_t> session_bytes;     // that they take
  std::optional<double> tokens_per_second;  // fed, those sampled among them
  std::optional<double> requests_per_second;
  // Its share of steps and of memory where they do not suffice, beside that of
  // the others.
  double weight = 1;

  bool operator==(const TenantLimits&) const = default;
};

class Tenant {
 public:
  Tenant(std::string name, int number)
      : name_(std::move(name)), number_(number) {}

  const std::string& name() const { return name_; }
  // Of this process, from 0 (the one without a name) on without gaps.
  int number() const { return number_; }

  TenantLimits limits() const {
    absl::MutexLock lock(&mutex_);
    return limits_;
  }
  // The file of keys was read again.
  void SetLimits(const TenantLimits& limits) {
    absl::MutexLock lock(&mutex_);
    limits_ = limits;
  }

 private:
  const std::string name_;
  const int number_;
  mutable absl::Mutex mutex_;
  TenantLimits limits_ ABSL_GUARDED_BY(mutex_);
};

using TenantHandle = std::shared_ptr<Tenant>;

}  // namespace engram
