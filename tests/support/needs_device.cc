// In a program of tests that all need a device: skips them where there is none.
#include <memory>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"

namespace engram {
namespace {

class NeedsDevice final : public ::testing::Environment {
 public:
  void SetUp() override {
    const absl::Status status = MakeCudaBackend().status();
    if (absl::IsFailedPrecondition(status)) {
      GTEST_SKIP() << "this machine has no device: " << status.message();
    }
  }
};

const ::testing::Environment* const kNeedsDevice =
    ::testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
}  // namespace engram
