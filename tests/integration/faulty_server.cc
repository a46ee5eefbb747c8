// engram-server on a device that fails: the program itself, but that the linker
// (--wrap) puts this in the place of MakeBackend().
//
// The environment's FAILING_CALL is the number of the call that is the first to
// fail, over all back ends.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/support/forwarding_backend.h"

namespace engram {
namespace {

int64_t FailingCall() {
  const char* const text = std::getenv("FAILING_CALL");
  int64_t call = 0;
  ENGRAM_CHECK(text != nullptr && absl::SimpleAtoi(text, &call));
  return call;
}

class FailingBackend final : public ForwardingBackend {
 public:
  explicit FailingBackend(std::unique_ptr<Backend> inner)
      : ForwardingBackend(inner.get()),
        inner_(std::move(inner)),
        calls_left_(FailingCall()) {}

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Allocate(bytes);
  }
  absl::Status Synchronize() override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Synchronize();
  }

 private:
  absl::Status Next() {
    if (--calls_left_ > 0) return absl::OkStatus();
    return absl::InternalError("the device is on fire");
  }

  const std::unique_ptr<Backend> inner_;
  int64_t calls_left_;
};

}  // namespace

// The mangled name of MakeBackend(const BackendOptions&), as --wrap has it.
absl::StatusOr<std::unique_ptr<Backend>>
RealMakeBackend(const BackendOptions& options) asm(
    "__real__ZN6engram11MakeBackendERKNS_"
    "14BackendOptionsE");
absl::StatusOr<std::unique_ptr<Backend>>
WrappedMakeBackend(const BackendOptions& options) asm(
    "__wrap__ZN6engram11MakeBackendERKNS_"
    "14BackendOptionsE");

absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                          RealMakeBackend(options));
  return std::make_unique<FailingBackend>(std::move(backend));
}

}  // namespace engram
