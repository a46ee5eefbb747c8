// Back ends of two devices in one process: each works on its own, whichever
// thread calls it and whatever was done on that thread before. The emulated
// runtime refuses what is done while another device is current.
#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CudaDevicesTest : public ::testing::Test {
 protected:
  CudaDevicesTest() : before_(emulation::options().devices) {
    emulation::options().devices = 2;
    for (int i = 0; i < 2; ++i) {
      auto made = MakeCudaBackend({.index = i});
      ENGRAM_CHECK_OK(made.status());
      backends_[i] = *std::move(made);
    }
  }
  ~CudaDevicesTest() override {
    for (auto& backend : backends_) backend = nullptr;
    emulation::options().devices = before_;
  }

  Backend& backend(int device) { return *backends_[device]; }

 private:
  const int before_;
  std::unique_ptr<Backend> backends_[2];
};

// Each part on a thread of its own, which may find another device current.
using Part = std::function<void()>;
void RunOnThreads(Backend& other, const std::vector<Part>& parts) {
  for (const Part& part : parts) {
    std::thread([&] {
      ENGRAM_CHECK_OK(other.Synchronize());
      part();
    }).join();
  }
}

TEST_F(CudaDevicesTest, EveryCallIsAboutTheBackEndsOwnDevice) {
  for (int device = 0; device < 2; ++device) {
    Backend& mine = backend(device);
    std::unique_ptr<PackedWeight> table;
    std::unique_ptr<Buffer> y, host;
    std::unique_ptr<DeviceEvent> event;
    std::vector<uint8_t> finite(1, 7);
    Outcome outcome;
    const StepRows* step = nullptr;
    const auto embed = [&] { mine.Embed(*step, *table, y->floats()); };
    RunOnThreads(
        backend(1 - device),
        {
            [&] {
              table = PackFloats(mine, {1, 2, 3, 4}, 2, 2);
            },
            [&] { y = *mine.Allocate(4 * sizeof(float)); },
            [&] { host = *mine.AllocateHost(4 * sizeof(float)); },
            [&] {
              ENGRAM_CHECK_OK(mine.ReserveSteps({.outcomes = 1, .ids = 2}));
            },
            [&] { step = &PrepareIds(mine, {1}); },
            [&] { embed(); },
            [&] { mine.Replay(1, embed); },
            [&] { mine.Replay(1, embed); },
            [&] { mine.Replay(1, embed); },
            [&] {
              ENGRAM_CHECK_OK(
                  mine.Copy(y->floats() + 2, y->floats(), 2 * sizeof(float)));
            },
            [&] { ENGRAM_CHECK_OK(mine.Zero(y->data(), sizeof(float))); },
            [&] {
              mine.FiniteRows(*step, {y->floats(), 2}, 2,
                              absl::MakeSpan(finite));
            },
            [&] {
              mine.Outcomes({y->floats(), 2}, 2, {OutcomeRequest{}},
                            absl::MakeSpan(&outcome, 1));
            },
            [&] { event = *mine.RecordEvent(); },
            [&] { ENGRAM_CHECK_OK(event->Wait()); },
            [&] { event = nullptr; },
            [&] {
              event = *mine.BeginCopyToHost(host->data(), y->data(),
                                            4 * sizeof(float));
            },
            [&] { ENGRAM_CHECK_OK(event->Wait()); },
            [&] { event = nullptr; },
        });
    EXPECT_THAT(finite, ElementsAre(1));
    const float* const floats = host->floats();
    EXPECT_THAT(Floats(floats, floats + 4), ElementsAre(0, 4, 3, 4));
  }
}

TEST_F(CudaDevicesTest, WhatIsCurrentOnOneThreadIsNotSoOnAnother) {
  Backend& mine = backend(1);
  DeviceFloats x(mine, {1, 2});
  std::thread([&] {
    mine.CopyRows({x.data(), 1}, {0}, 1, {x.data(), 1}, {1});
  }).join();
  EXPECT_THAT(x.ToHost(), ElementsAre(1, 1));
}

TEST_F(CudaDevicesTest, MemoryIsOfTheBackEndsOwnDevice) {
  for (const int device : {1, 0, 1}) {
    const std::unique_ptr<Buffer> buffer = *backend(device).Allocate(16);
    cudaPointerAttributes attributes;
    ASSERT_EQ(cudaPointerGetAttributes(&attributes, buffer->data()),
              cudaSuccess);
    EXPECT_EQ(attributes.device, device);
  }
}

TEST_F(CudaDevicesTest, ABackEndOfADeviceThatIsNotThereIsRefused) {
  EXPECT_EQ(*CountCudaDevices(), 2);
  for (const int index : {-1, 2}) {
    const absl::Status status = MakeCudaBackend({.index = index}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("no device ", index)));
  }
}

}  // namespace
}  // namespace engram
