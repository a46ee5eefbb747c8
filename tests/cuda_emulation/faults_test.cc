// What a device punishes, or worse, does not, ends the process on the emulated
// one, or shows as values that are no numbers. Each is planted here once.
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/device/sanitizer.h"
#include "tests/cuda_emulation/device_test_case.h"
#include "tests/cuda_emulation/faulty_kernels.h"

namespace engram::emulation {
namespace {

using ::testing::Each;

// How ThreadSanitizer ends a process that had races.
bool Failed(int status) { return status != 0; }

class FaultsTest : public DeviceTestCase {
 protected:
  void SetUp() override {
    DeviceTestCase::SetUp();
    Upload(values_, 1);
  }

  void Run(cuda::Fault fault) {
    cuda::Reverse(stream_, fault, values_, others_);
    cudaStreamSynchronize(stream_);
  }
  int NoNumbers(const std::vector<float>& values) {
    return static_cast<int>(
        std::count_if(values.begin(), values.end(),
                      [](float value) { return std::isnan(value); }));
  }
};

using FaultsDeathTest = FaultsTest;

TEST_F(FaultsTest, WithoutOneAllIsWell) {
  Run(cuda::Fault::kNone);
  EXPECT_THAT(Download(others_, cuda::kFaultyFloats), Each(1.0f));
}

// --- Threads that wait for each other.

TEST_F(FaultsDeathTest, ABarrierThatAThreadDoesNotComeTo) {
  EXPECT_DEATH(Run(cuda::Fault::kBarrierMissed),
               "faulty_kernels.cu.*block \\(0, 0, 0\\).*waits at a barrier "
               "that others of the block never come to");
}

TEST_F(FaultsDeathTest, BarriersOfTwoPlaces) {
  EXPECT_DEATH(Run(cuda::Fault::kBarriersOfTwoPlaces),
               "a barrier, while others of the block wait at that of "
               ".*faulty_kernels.cu");
}

TEST_F(FaultsDeathTest, AShuffleThatALaneDoesNotComeTo) {
  EXPECT_DEATH(Run(cuda::Fault::kShuffleMissed), "lanes of its warp");
}

TEST_F(FaultsDeathTest, AShuffleOfSomeLanesAndAVoteOfOthers) {
  EXPECT_DEATH(Run(cuda::Fault::kShuffleAndVote), "others of the warp wait in");
}

TEST_F(FaultsDeathTest, AShuffleFromALaneThatIsNone) {
  EXPECT_DEATH(Run(cuda::Fault::kShuffleOfNoLane), "ShuffleFrom of lane 32");
}

TEST_F(FaultsDeathTest, AShuffleInAWarpThatIsNotFull) {
  EXPECT_DEATH(
      {
        cuda::ShuffleInPartOfWarp(stream_);
        cudaStreamSynchronize(stream_);
      },
      "ShuffleXor in a warp of 16 threads");
}

// --- Memory.

TEST_F(FaultsDeathTest, AVectorThatIsNotAligned) {
  EXPECT_DEATH(Run(cuda::Fault::kMisalignedLoad), "16 bytes at .* not aligned");
}

TEST_F(FaultsDeathTest, AnAccessBehindAnAllocation) {
  float* exact = nullptr;
  ASSERT_EQ(cudaMalloc(&exact, cuda::kFaultyFloats * sizeof(float)),
            cudaSuccess);
  EXPECT_DEATH(
      {
        cuda::Reverse(stream_, cuda::Fault::kLoadBeyond, exact, others_);
        cudaStreamSynchronize(stream_);
      },
      "4 bytes at .*which are in no allocation");
  EXPECT_EQ(cudaFree(exact), cudaSuccess);
}

TEST_F(FaultsDeathTest, AnAccessToMemoryThatWasGivenBack) {
  float* gone = nullptr;
  ASSERT_EQ(cudaMalloc(&gone, cuda::kFaultyFloats * sizeof(float)),
            cudaSuccess);
  ASSERT_EQ(cudaFree(gone), cudaSuccess);
  EXPECT_DEATH(
      {
        cuda::Reverse(stream_, cuda::Fault::kNone, gone, others_);
        cudaStreamSynchronize(stream_);
      },
      "which are in no allocation");
}

TEST_F(FaultsDeathTest, AnAccessBehindAPieceOfAnAllocation) {
  constexpr size_t kBytes = cuda::kFaultyFloats * sizeof(float);
  float* whole = nullptr;
  ASSERT_EQ(cudaMalloc(&whole, size_t{1} << 20), cudaSuccess);
  DivideAllocation(whole);
  BeginPiece(whole, kBytes);
  BeginPiece(whole + 1024, kBytes);
  const auto run = [&](cuda::Fault fault) {
    cuda::Reverse(stream_, fault, whole, others_);
    cudaStreamSynchronize(stream_);
  };
  run(cuda::Fault::kNone);
  EXPECT_DEATH(run(cuda::Fault::kLoadBeyond), "which are in no allocation");
  EndPiece(whole);
  EXPECT_DEATH(run(cuda::Fault::kNone), "which are in no allocation");
  EXPECT_EQ(cudaFree(whole), cudaSuccess);
}

TEST_F(FaultsDeathTest, APointerOfTheHostOnTheDevice) {
  EXPECT_DEATH(
      {
        cuda::Reverse(stream_, cuda::Fault::kNone, host_, others_);
        cudaStreamSynchronize(stream_);
      },
      "which is no memory of the device");
}

TEST_F(FaultsDeathTest, APointerOfTheDeviceOnTheHost) {
  const volatile float* const pointer = values_;
  EXPECT_DEATH(std::exit(*pointer == 1), kAddressSanitizer || kThreadSanitizer
                                             ? "SEGV"
                                             : "touched by the host");
}

TEST_F(FaultsDeathTest, AKernelThatTouchesMemoryWithoutLoad) {
  EXPECT_DEATH(Run(cuda::Fault::kTouchWithoutLoad),
               kAddressSanitizer || kThreadSanitizer ? "SEGV" : "without Load");
}

TEST_F(FaultsDeathTest, ALoadOfSharedMemory) {
  EXPECT_DEATH(Run(cuda::Fault::kLoadOfShared), "no memory of the device");
}

TEST_F(FaultsDeathTest, SharedMemoryBehindItsEnd) {
  EXPECT_DEATH(Run(cuda::Fault::kSharedBeyond), "");
}

TEST_F(FaultsDeathTest, AnAsynchronousCopyThatIsNotAligned) {
  EXPECT_DEATH(Run(cuda::Fault::kMisalignedCopy),
               "AsyncCopy16 to .*not aligned to 16 bytes");
}

TEST_F(FaultsDeathTest, AnAsynchronousCopyBehindSharedMemory) {
  EXPECT_DEATH(Run(cuda::Fault::kCopyBeyondShared), "not in shared memory");
}

TEST_F(FaultsDeathTest, ATurnedRowThatIsNotAligned) {
  EXPECT_DEATH(Run(cuda::Fault::kMisalignedTurn), "LoadTurned of a row at");
}

TEST_F(FaultsTest, MemoryIsNoNumberUntilItIsWritten) {
  EXPECT_EQ(NoNumbers(Download(others_)), kFloats);
}

TEST_F(FaultsTest, LargeMemoryIsNoNumberEither) {
  constexpr size_t kBytes = size_t{40} << 20;
  char* large = nullptr;
  ASSERT_EQ(cudaMalloc(&large, kBytes), cudaSuccess);
  for (const size_t at : {size_t{0}, kBytes / 2, kBytes - sizeof(float)}) {
    ASSERT_EQ(cudaMemcpyAsync(host_, large + at, sizeof(float),
                              cudaMemcpyDeviceToHost, stream_),
              cudaSuccess);
    host_[0] = 0;
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_TRUE(std::isnan(host_[0])) << at;
  }
  EXPECT_EQ(cudaFree(large), cudaSuccess);
}

TEST_F(FaultsTest, ACopyThatIsNotWaitedForIsNoNumber) {
  if (kThreadSanitizer) return;
  for (const cuda::Fault fault :
       {cuda::Fault::kCopyNotAwaited, cuda::Fault::kLastCopyNotAwaited}) {
    Run(fault);
    EXPECT_EQ(NoNumbers(Download(others_, cuda::kFaultyFloats)),
              cuda::kFaultyFloats);
  }
}

TEST_F(FaultsDeathTest, ABarrierThatIsMissing) {
  if (kThreadSanitizer) {
    EXPECT_EXIT(
        {
          Run(cuda::Fault::kBarrierMissing);
          std::exit(0);
        },
        Failed, "data race");
    return;
  }
  Run(cuda::Fault::kBarrierMissing);
  EXPECT_GT(NoNumbers(Download(others_, cuda::kFaultyFloats)), 0);
}

// --- Kernels one behind the other.

TEST_F(FaultsDeathTest, ATriggerBeforeTheWait) {
  EXPECT_DEATH(Run(cuda::Fault::kTriggerBeforeWait),
               "GridTrigger before GridWait");
}

TEST_F(FaultsDeathTest, AKernelWithoutAWaitOrATrigger) {
  EXPECT_DEATH(Run(cuda::Fault::kNoWait), "GridTrigger before GridWait");
  EXPECT_DEATH(Run(cuda::Fault::kNoTrigger), "left without GridWait and then");
}

TEST_F(FaultsDeathTest, AReadBeforeTheWaitSeesWhatWasThereBefore) {
  const auto run = [&] {
    cuda::Reverse(stream_, cuda::Fault::kNone, values_, others_);
    cuda::CopyWithoutWaiting(stream_, others_, values_);
    return NoNumbers(Download(values_, cuda::kFaultyThreads));
  };
  if (kThreadSanitizer) {
    EXPECT_EXIT(
        {
          run();
          std::exit(0);
        },
        Failed, "data race");
    return;
  }
  options().early_threads = 1024;
  EXPECT_EQ(run(), cuda::kFaultyThreads);
}

TEST_F(FaultsDeathTest, TwoBlocksThatWriteTheSame) {
  if (!kThreadSanitizer) {
    // Each on its own wrote what is right.
    Run(cuda::Fault::kBlocksShare);
    EXPECT_THAT(Download(others_, cuda::kFaultyFloats), Each(1.0f));
    return;
  }
  EXPECT_EXIT(
      {
        Run(cuda::Fault::kBlocksShare);
        std::exit(0);
      },
      Failed, "data race");
}

// --- The host's part.

TEST_F(FaultsTest, AResultIsNoNumberBeforeItsEvent) {
  host_[0] = 1;
  ASSERT_EQ(BeginDownload(values_), cudaSuccess);
  EXPECT_TRUE(std::isnan(host_[0]));
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(host_[0], 1);
}

// A device may be done before the host clears what it told the device to fill.
TEST_F(FaultsTest, AResultThatIsClearedTooLateIsLostOnAFastDevice) {
  Upload(values_, 3);
  for (const bool at_once : {false, true}) {
    options().at_once = at_once;
    ASSERT_EQ(BeginDownload(values_), cudaSuccess);
    std::fill_n(host_, kFloats, 0.0f);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(host_[0], at_once ? 0 : 3);
  }
}

// A graph of which a kernel is missing looks right if what it should write is
// still there from the last time.
TEST_F(FaultsTest, WhatAGraphDoesNotWriteIsNotThereFromBefore) {
  Upload(values_, 1);
  cuda::Reverse(stream_, cuda::Fault::kNone, values_, others_);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
            cudaSuccess);
  cuda::Reverse(stream_, cuda::Fault::kNone, others_, values_);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  EXPECT_THAT(Download(values_, cuda::kFaultyFloats), Each(1.0f));
  poisoned_at_replay() = {{others_, kFloats * sizeof(float)}};
  ASSERT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  EXPECT_EQ(NoNumbers(Download(values_, cuda::kFaultyFloats)),
            cuda::kFaultyFloats);
  poisoned_at_replay().clear();
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(FaultsDeathTest, MemoryThatChangesWhileItIsCopied) {
  ASSERT_EQ(BeginUpload(values_), cudaSuccess);
  EXPECT_DEATH(
      {
        host_[5] += 1;
        cudaStreamSynchronize(stream_);
      },
      "host memory has changed since its copy");
}

TEST_F(FaultsTest, ACopyOfPageableMemoryIsNoticed) {
  std::vector<float> pageable(kFloats, 3);
  cudaPointerAttributes attributes;
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, pageable.data()),
            cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, host_ + 1), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, values_ + 1), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);

  const int64_t before = counts().pageable_copies;
  ASSERT_EQ(cudaMemcpyAsync(values_, pageable.data(), kFloats * sizeof(float),
                            cudaMemcpyHostToDevice, stream_),
            cudaSuccess);
  EXPECT_EQ(counts().pageable_copies, before + 1);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaSuccess) << "it was done at once";
  EXPECT_THAT(Download(values_), Each(3.0f));
}

TEST_F(FaultsTest, CopiesOfTheWrongKindAreRefused) {
  const size_t bytes = kFloats * sizeof(float);
  EXPECT_EQ(
      cudaMemcpyAsync(host_, values_, bytes, cudaMemcpyHostToDevice, stream_),
      cudaErrorInvalidValue);
  EXPECT_EQ(
      cudaMemcpyAsync(values_, host_, bytes, cudaMemcpyDeviceToHost, stream_),
      cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(values_, host_, bytes + 1, cudaMemcpyHostToDevice,
                            stream_),
            cudaErrorInvalidValue)
      << "beyond the allocation";
  EXPECT_EQ(cudaMemsetAsync(values_ + 1, 0, bytes, stream_),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace engram::emulation
