// Memory that is taken in slabs and handed out in pieces, on an emulated device
// that counts what it is asked for.
#include "kernels/cuda/memory_arena.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kMiB = size_t{1} << 20;

int64_t DeviceAllocations() { return emulation::counts().device_allocations; }
int64_t HostAllocations() { return emulation::counts().host_allocations; }

std::unique_ptr<Backend> MakeCuda(int64_t memory = 0) {
  auto made = MakeCudaBackend({.index = 0, .memory = memory});
  ENGRAM_CHECK_OK(made.status());
  return *std::move(made);
}

std::unique_ptr<Buffer> Take(Backend& backend, size_t bytes) {
  auto buffer = backend.Allocate(bytes);
  ENGRAM_CHECK_OK(buffer.status());
  return *std::move(buffer);
}

// --- Pieces.

TEST(MemoryPieces, TakesTheSmallestHoleThatIsLargeEnough) {
  cuda::MemoryPieces pieces(16);
  std::vector<std::byte> stretch(16 * 10);
  pieces.Add(stretch.data(), stretch.size());
  std::vector<void*> taken;
  for (const size_t bytes : {48, 1, 16, 16}) {
    taken.push_back(pieces.TryTake(bytes));
  }
  EXPECT_EQ(taken[1], stretch.data() + 48);
  EXPECT_EQ(pieces.used(), 96u);
  pieces.GiveBack(taken[0]);
  pieces.GiveBack(taken[2]);
  EXPECT_EQ(pieces.used(), 32u);
  EXPECT_EQ(pieces.TryTake(10), taken[2]);
  EXPECT_EQ(pieces.TryTake(64), stretch.data() + 96);
  EXPECT_EQ(pieces.TryTake(49), nullptr);
  EXPECT_EQ(pieces.TryTake(48), taken[0]);
}

TEST(MemoryPieces, WhatIsGivenBackIsOneHoleAgainInAnyOrder) {
  for (const std::vector<int>& order :
       {std::vector<int>{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    cuda::MemoryPieces pieces(16);
    std::vector<std::byte> stretch(48);
    pieces.Add(stretch.data(), stretch.size());
    std::vector<void*> taken;
    for (int i = 0; i < 3; ++i) taken.push_back(pieces.TryTake(16));
    for (const int i : order) EXPECT_EQ(pieces.GiveBack(taken[i]), 16u);
    EXPECT_EQ(pieces.TryTake(48), stretch.data());
  }
}

TEST(MemoryPieces, NoPieceReachesFromOneStretchIntoTheNext) {
  cuda::MemoryPieces pieces(16);
  std::vector<std::byte> memory(64);
  pieces.Add(memory.data() + 32, 32);
  pieces.Add(memory.data(), 32);
  void* const first = pieces.TryTake(32);
  void* const second = pieces.TryTake(32);
  pieces.GiveBack(first);
  pieces.GiveBack(second);
  EXPECT_EQ(pieces.TryTake(64), nullptr);
}

TEST(MemoryPieces, AreNeverMoreThanTheirHole) {
  cuda::MemoryPieces pieces(16);
  std::vector<std::byte> stretch(64);
  pieces.Add(stretch.data(), stretch.size());
  for (const size_t bytes :
       {size_t{65}, ~size_t{15}, ~size_t{14}, ~size_t{0}}) {
    EXPECT_EQ(pieces.TryTake(bytes), nullptr) << bytes;
  }
  EXPECT_EQ(pieces.used(), 0u);
}

// --- The device's.

TEST(DeviceArena, AllBackEndsOfADeviceShareOne) {
  const auto first = MakeCuda();
  const auto some = Take(*first, kMiB / 2);
  const int64_t before = DeviceAllocations();
  const auto second = MakeCuda();
  const auto buffer = Take(*second, kMiB / 2);
  EXPECT_EQ(DeviceAllocations(), before);
  EXPECT_EQ(cuda::DeviceArena(0).value()->use().taken, 2 * kMiB);
}

TEST(DeviceArena, WhatIsReservedIsTakenOnceAndHandedOut) {
  const auto backend = MakeCuda();
  const auto arena = cuda::DeviceArena(0).value();
  ASSERT_TRUE(arena->Reserve(40 * kMiB).ok());
  const int64_t before = DeviceAllocations();
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int i = 0; i < 8; ++i) buffers.push_back(Take(*backend, 5 * kMiB));
  for (int i = 1; i < 8; i += 2) buffers[i] = nullptr;
  for (int i = 1; i < 8; i += 2) buffers[i] = Take(*backend, 4 * kMiB);
  EXPECT_EQ(DeviceAllocations(), before);
}

TEST(DeviceArena, GoesWithTheLastThatHasSomethingOfIt) {
  size_t before = 0, total = 0, now = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  auto backend = MakeCuda();
  auto buffer = Take(*backend, 3 * kMiB);
  backend = nullptr;
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_LT(now, before);
  buffer = nullptr;
  ASSERT_EQ(cudaMemGetInfo(&now, &total), cudaSuccess);
  EXPECT_EQ(now, before);
}

TEST(DeviceArena, RefusesWhatIsBeyondTheLimitWithBytesAndFlag) {
  const auto backend = MakeCuda(/*memory=*/8 * kMiB);
  const auto some = Take(*backend, 6 * kMiB);
  const absl::Status status = backend->Allocate(3 * kMiB).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("3145728 bytes of device memory"),
                    HasSubstr("2097152 are left of 8388608"),
                    HasSubstr("--device-memory")));
  // A refusal is no failure.
  EXPECT_TRUE(backend->Allocate(kMiB).ok());
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(DeviceArena, LeavesAReserveOfWhatIsFreeWithoutALimit) {
  const auto backend = MakeCuda();
  size_t free_bytes = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
  const absl::Status status = backend->Allocate(total - 1024 * kMiB).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("had free but 1610612736"),
                    HasSubstr("--device-memory")));
}

TEST(DeviceArena, ADeviceThatHasLessThanTheLimitIsToldInBytes) {
  const auto backend = MakeCuda(/*memory=*/int64_t{1} << 40);
  const absl::Status status = backend->Allocate(size_t{1} << 38).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("274877906944 bytes of device memory"),
                    HasSubstr("free of 4294967296")));
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(DeviceArena, AStepThatHasNoRoomForItsFlagsSaysWhichLimitIsInItsWay) {
  const auto backend = MakeCuda(/*memory=*/2 * kMiB);
  ENGRAM_CHECK_OK(backend->ReserveSteps({.rows = 1024}));
  DeviceFloats x(*backend, Floats(1));
  (void)backend->PrepareStep(std::vector<Row>(1025));  // which has room now
  std::vector<std::unique_ptr<Buffer>> rest;
  while (auto some = backend->Allocate(1).value_or(nullptr)) {
    rest.push_back(std::move(some));
  }
  const std::vector<Row> rows(1025);  // of no tokens
  std::vector<uint8_t> finite(rows.size());
  backend->FiniteRows(backend->PrepareStep(rows), {x.data(), 1}, 1,
                      absl::MakeSpan(finite));
  const absl::Status status = backend->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--device-memory"));
}

TEST(DeviceArena, AStepThatHasNoRoomForItsRowsSaysWhichLimitIsInItsWay) {
  const auto backend = MakeCuda(/*memory=*/2 * kMiB);
  ENGRAM_CHECK_OK(backend->ReserveSteps({.outcomes = 1, .ids = 1}));
  const auto table = PackFloats(*backend, {7}, 1, 1, WeightFormat::kFloat32);
  DeviceFloats residual(*backend, Floats(1));
  backend->Embed(backend->PrepareStep({Row{.tokens = 1}}, {}, {0}), *table,
                 residual.data());
  std::vector<std::unique_ptr<Buffer>> rest;
  while (auto some = backend->Allocate(64 * 1024).value_or(nullptr)) {
    rest.push_back(std::move(some));
  }
  std::vector<Row> rows(20000, {.slot_in = 1, .slot_out = 1});
  rows[0] = {.tokens = 1};
  std::vector<Outcome> outcomes(1);
  // It is told when the whole step has been begun.
  backend->Embed(backend->PrepareStep(rows, {}, {0}), *table, residual.data());
  backend->Outcomes({residual.data(), 1}, 1, std::vector<OutcomeRequest>(1),
                    absl::MakeSpan(outcomes));
  const absl::Status status = backend->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--device-memory"));
}

// Which would have steps begin without it.
TEST(DeviceArena, StepsThatHaveNoRoomAreNotTakenForReserved) {
  const auto backend = MakeCuda(/*memory=*/4 * kMiB);
  const LargestStep large = {
      .rows = 1, .tokens = 1, .outcomes = 100, .ids = 40000};
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = backend->ReserveSteps(large);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("16000000 bytes"));
  }
  ENGRAM_CHECK_OK(
      backend->ReserveSteps({.rows = 1, .tokens = 1, .outcomes = 1, .ids = 3}));
  DeviceFloats logits(*backend, {0, 2, 1});
  (void)backend->PrepareStep({Row{.tokens = 1}}, {}, {0});
  std::vector<Outcome> outcomes(1);
  backend->Outcomes({logits.data(), 3}, 3,
                    std::vector<OutcomeRequest>{{.alternatives = 1}},
                    absl::MakeSpan(outcomes));
  ENGRAM_CHECK_OK(backend->Synchronize());
  ASSERT_EQ(outcomes[0].top.size(), 1u);
  EXPECT_EQ(outcomes[0].top[0].id, 1);
}

// What a step has begun with memory that goes is done before it goes.
TEST(DeviceArena, MemoryGoesOnceTheDeviceIsDoneWithIt) {
  const auto backend = MakeCuda();
  DeviceFloats y(*backend, Floats(1));
  {
    DeviceFloats x(*backend, {7});
    backend->CopyRows({x.data(), 1}, {0}, 1, {y.data(), 1}, {0});
  }
  DeviceFloats other(*backend, {8});
  EXPECT_EQ(y.ToHost()[0], 7);
}

TEST(DeviceArenaDeathTest, AnAccessBehindAPieceIsSeen) {
  const auto backend = MakeCuda();
  DeviceFloats x(*backend, {1, 2}), y(*backend, {0, 0, 0});
  EXPECT_DEATH(
      {
        backend->CopyRows({x.data(), 1}, {2}, 1, {y.data(), 1}, {2});
        ENGRAM_CHECK_OK(backend->Synchronize());
      },
      "which are in no allocation");
}

// --- The host's.

TEST(PinnedArena, StatesThatComeAndGoCostOneCallOfTheRuntime) {
  const auto backend = MakeCuda();
  std::vector<std::unique_ptr<Buffer>> states(10);
  const int64_t before = HostAllocations();
  for (int round = 0; round < 3; ++round) {
    for (auto& state : states) {
      state = nullptr;
      state = backend->AllocateHost(2 * kMiB + 100).value();
    }
  }
  EXPECT_EQ(HostAllocations(), before + 1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(states[3]->data()) % 64, 0u);
}

TEST(PinnedArena, ARefusalSaysNothingOfADevicesMemory) {
  cuda::MemoryArena arena(
      {.take = [](void**, size_t) { return cudaErrorMemoryAllocation; },
       .give_back = &cudaFreeHost,
       .slab_bytes = 4 * kMiB,
       .grain = 4096,
       .alignment = 256,
       .device = -1,
       .name = "page-locked memory",
       .flag = "--pinned-memory",
       .limit = ""},
      64 * kMiB);
  const absl::Status status = arena.Take(10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("no 4194304 bytes of page-locked memory"),
                    Not(HasSubstr("device"))));
}

TEST(PinnedArena, RefusesWhatIsBeyondTheLimitWithBytesAndFlag) {
  const auto backend =
      MakeCudaBackend({.pinned_memory = static_cast<int64_t>(4 * kMiB)})
          .value();
  ENGRAM_CHECK_OK(backend->ReserveMemory({.pinned = 3 * kMiB}));
  const absl::Status status = backend->ReserveMemory({.pinned = kMiB + 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("1048577 bytes of page-locked memory"),
                    HasSubstr("1048576 are left of 4194304"),
                    HasSubstr("--pinned-memory")));
  EXPECT_EQ(backend->pinned_memory()->limit, 4 * kMiB);
}

TEST(PinnedArena, TellsWhatIsTakenAndWhatOfThatIsUsed) {
  const auto backend = MakeCuda();
  EXPECT_EQ(backend->pinned_memory()->limit, std::nullopt);
  ENGRAM_CHECK_OK(backend->ReserveMemory({.pinned = 6 * kMiB}));
  const auto host = backend->AllocateHost(kMiB + 1).value();
  EXPECT_EQ(backend->pinned_memory()->taken, 6 * kMiB);
  EXPECT_EQ(backend->pinned_memory()->used, kMiB + 256);
}

// --- Both.

TEST(ClosedMemory, IsGivenOutAndNeverMore) {
  const auto backend = MakeCuda();
  const auto other = MakeCuda();
  ENGRAM_CHECK_OK(
      backend->ReserveMemory({.device = 4 * kMiB, .pinned = 2 * kMiB}));
  backend->CloseMemory();
  const int64_t before = DeviceAllocations() + HostAllocations();
  for (int round = 0; round < 2; ++round) {
    const auto buffer = Take(*other, 3 * kMiB);
    const auto host = other->AllocateHost(2 * kMiB).value();
    const absl::Status device = other->Allocate(kMiB + 1).status();
    EXPECT_EQ(device.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(device.message()),
                AllOf(HasSubstr("1048577 bytes of device memory"),
                      HasSubstr("1048576 are left of 4194304"),
                      HasSubstr("--device-memory")));
    const absl::Status pinned = other->AllocateHost(1).status();
    EXPECT_EQ(pinned.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(pinned.message()), HasSubstr("--pinned-memory"));
  }
  EXPECT_EQ(DeviceAllocations() + HostAllocations(), before);
  EXPECT_TRUE(backend->Synchronize().ok());
}

// --- A device that is lost.

TEST(LostDevice, NothingThatGoesCallsTheRuntime) {
  auto backend = MakeCuda();
  auto weight = PackFloats(*backend, {1, 2}, 2, 1);
  auto buffer = Take(*backend, 8);
  auto host = backend->AllocateHost(8).value();
  for (int i = 0; i < 2; ++i) {
    backend->Replay(1, [&] { (void)backend->Zero(buffer->data(), 8); });
  }
  auto event = backend->RecordEvent().value();
  ASSERT_TRUE(backend->Synchronize().ok());
  emulation::PlantError(1, cudaErrorIllegalAddress);
  ENGRAM_CHECK(backend->Zero(buffer->data(), 8).ok());
  EXPECT_EQ(backend->Synchronize().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(cuda::DeviceIsLost());
  const int64_t before = emulation::counts().calls;
  EXPECT_EQ(event->Wait().code(), absl::StatusCode::kInternal);
  event = nullptr;
  weight = nullptr;
  buffer = nullptr;
  host = nullptr;
  backend = nullptr;
  EXPECT_EQ(emulation::counts().calls, before);
  // As if in a new process.
  emulation::ClearErrors();
  backend = MakeCuda();
  EXPECT_FALSE(cuda::DeviceIsLost());
  EXPECT_TRUE(backend->Synchronize().ok());
}

}  // namespace
}  // namespace engram
