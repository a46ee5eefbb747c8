#include "clients/cpp/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <utility>

namespace engram::client {
namespace {

sigset_t Signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = Signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { WaitForSignals(); });
}

Interrupt::~Interrupt() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

Cancellation* Interrupt::SetTarget(Cancellation* target) {
  absl::MutexLock lock(&mutex_);
  return std::exchange(target_, target);
}

void Interrupt::WaitForSignals() {
  const sigset_t signals = Signals();
  while (true) {
    int signal = 0;
    sigwait(&signals, &signal);
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    // Not exit(): other threads still use what it would destroy.
    if (target_ == nullptr || target_->cancelled()) _exit(kExitInterrupted);
    target_->Cancel();
  }
}

}  // namespace engram::client
