// engram-server on CUDA whose device is lost while it computes: the program
// itself, but for its MakeBackend().
//
// The environment's LOST_BEHIND_STEP is the number of the step behind which the
// device fails.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "tests/integration/break_device.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/wrapped_make_backend.h"

namespace engram {
namespace {

class BreakingBackend final : public ReplayForwardingBackend {
 public:
  using ReplayForwardingBackend::ReplayForwardingBackend;

  // Each step ends with one.
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    auto event = ForwardingBackend::RecordEvent();
    if (++steps_ == last_) BreakDevice();
    return event;
  }

 private:
  static int64_t LastStep() {
    const char* const text = std::getenv("LOST_BEHIND_STEP");
    int64_t step = 0;
    ENGRAM_CHECK(text != nullptr && absl::SimpleAtoi(text, &step));
    return step;
  }

  const int64_t last_ = LastStep();
  int64_t steps_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) {
  static std::vector<std::unique_ptr<Backend>> real;
  ENGRAM_ASSIGN_OR_RETURN(real.emplace_back(), MakeCudaBackend(options.device));
  return std::make_unique<BreakingBackend>(real.back().get());
}

}  // namespace engram
