// The back ends that the contract's tests run against: the CPU's once per
// instruction set that this machine has, and CUDA's on an emulated device, or
// on a real one in a build for such.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"

namespace engram {

// Restricts the CPU back end to the given targets of Highway; 0 lifts that.
inline void UseCpuTargets(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

struct BackendUnderTest {
  std::string name;
  BackendKind kind;
  int64_t cpu_targets;
  // Of the weights, in tests that take several.
  WeightFormat format = WeightFormat::kFloat32;
};
inline void PrintTo(const BackendUnderTest& backend, std::ostream* out) {
  *out << backend.name;
}

inline std::vector<BackendUnderTest> CpuBackendsUnderTest() {
  return {
#if HWY_ARCH_X86
    {"Avx512", BackendKind::kCpu, HWY_AVX3},
        {"Avx2", BackendKind::kCpu, HWY_AVX2},
#endif
        // What every machine has: nothing but the fallback.
        {"Baseline", BackendKind::kCpu, HWY_STATIC_TARGET},
  };
}

// What all back ends promise is for these.
inline std::vector<BackendUnderTest> BackendsUnderTest() {
  std::vector<BackendUnderTest> backends = CpuBackendsUnderTest();
  backends.push_back({"Cuda", BackendKind::kCuda, 0});
  return backends;
}

// Skips what this machine does not have.
class BackendUnderTestSuite
    : public ::testing::TestWithParam<BackendUnderTest> {
 protected:
  void SetUp() override {
    UseCpuTargets(0);
    const int64_t wanted = GetParam().cpu_targets;
    if (wanted != 0 && (hwy::SupportedTargets() & wanted) == 0) {
      GTEST_SKIP() << "this machine has no " << GetParam().name;
    }
    UseCpuTargets(wanted);
    auto backend =
        GetParam().kind == BackendKind::kCuda
            ? MakeCudaBackend({.index = CountCudaDevices().value_or(1) - 1})
            : MakeBackend({GetParam().kind, 2});
    if (absl::IsFailedPrecondition(backend.status())) {
      GTEST_SKIP() << "this machine has no device: "
                   << backend.status().message();
    }
    ENGRAM_CHECK_OK(backend.status());
    backend_ = *std::move(backend);
  }
  void TearDown() override { UseCpuTargets(0); }

  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
};

// Around every block edge.
inline const std::vector<int64_t> kEdgeSizes = {1,  3,  15, 16, 17,  31,  32,
                                                33, 63, 64, 65, 127, 128, 129};

}  // namespace engram
