#include "kernels/cuda/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr int kHost = -1;
constexpr size_t kPage = 4096;
// As much, so that pieces' ends are told apart on an emulated device.
constexpr size_t kDeviceAlignment = kPage;
constexpr size_t kPinnedAlignment = 256;
// What a device gives memory in; where nothing was reserved, models grow by it.
constexpr size_t kDeviceSlab = size_t{2} << 20;
// To lock pages takes milliseconds: many states at once.
constexpr size_t kPinnedSlab = size_t{32} << 20;

class Piece final : public Buffer {
 public:
  Piece(std::shared_ptr<MemoryArena> arena, void* data, size_t bytes)
      : arena_(std::move(arena)), data_(data), bytes_(bytes) {}
  ~Piece() override { arena_->GiveBack(data_); }

  void* data() override { return data_; }
  const void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  const std::shared_ptr<MemoryArena> arena_;
  void* const data_;
  const size_t bytes_;
};

absl::StatusOr<std::unique_ptr<Buffer>> TakePiece(
    std::shared_ptr<MemoryArena> arena, size_t bytes) {
  ENGRAM_ASSIGN_OR_RETURN(void* const data, arena->Take(bytes));
  return std::make_unique<Piece>(std::move(arena), data, bytes);
}

absl::StatusOr<std::shared_ptr<MemoryArena>> MakeDeviceArena(int device,
                                                             size_t limit) {
  MemoryArena::Kind kind = {
      .take = [](void** slab, size_t bytes) { return cudaMalloc(slab, bytes); },
      .give_back = &cudaFree,
      .slab_bytes = kDeviceSlab,
      .grain = kDeviceSlab,
      .alignment = kDeviceAlignment,
      .device = device,
      .name = "device memory",
      .flag = "--device-memory",
      .limit = " that --device-memory allows"};
  if (limit == 0) {
    size_t free_bytes = 0, total_bytes = 0;
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaMemGetInfo(&free_bytes, &total_bytes),
                     "asking for the device's memory"));
    limit = free_bytes - std::min(free_bytes, kDeviceMemoryReserve);
    kind.limit = absl::StrCat(", which is what the device had free but ",
                              kDeviceMemoryReserve,
                              "; --device-memory sets another limit");
  }
  return std::make_shared<MemoryArena>(std::move(kind), limit);
}

absl::StatusOr<std::shared_ptr<MemoryArena>> MakePinnedArena(size_t limit) {
  return std::make_shared<MemoryArena>(
      MemoryArena::Kind{
          .take = [](void** slab,
                     size_t bytes) { return cudaMallocHost(slab, bytes); },
          .give_back = &cudaFreeHost,
          .slab_bytes = kPinnedSlab,
          .grain = kPage,
          .alignment = kPinnedAlignment,
          .device = kHost,
          .name = "page-locked memory",
          .flag = "--pinned-memory",
          .limit = " that --pinned-memory allows"},
      limit == 0 ? std::nullopt : std::optional(limit));
}

// That of a device, or of kHost.
absl::StatusOr<std::shared_ptr<MemoryArena>> ArenaOf(int device, size_t limit) {
  ABSL_CONST_INIT static absl::Mutex mutex(absl::kConstInit);
  static auto* const arenas = new std::map<int, std::weak_ptr<MemoryArena>>;
  absl::MutexLock lock(&mutex);
  std::weak_ptr<MemoryArena>& known = (*arenas)[device];
  std::shared_ptr<MemoryArena> arena = known.lock();
  if (arena == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(arena, device == kHost
                                       ? MakePinnedArena(limit)
                                       : MakeDeviceArena(device, limit));
    known = arena;
  }
  return arena;
}

}  // namespace

absl::StatusOr<std::shared_ptr<MemoryArena>> DeviceArena(int device,
                                                         size_t limit) {
  return ArenaOf(device, limit);
}

absl::StatusOr<std::shared_ptr<MemoryArena>> PinnedArena(size_t limit) {
  return ArenaOf(kHost, limit);
}

size_t DevicePieceBytes(size_t bytes) {
  return RoundUpTo(std::max<size_t>(bytes, 1), kDeviceAlignment);
}

size_t PinnedPieceBytes(size_t bytes) {
  return RoundUpTo(std::max<size_t>(bytes, 1), kPinnedAlignment);
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocateDeviceMemory(size_t bytes) {
  int device = 0;
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(cudaGetDevice(&device), "asking for the current device"));
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<MemoryArena> arena,
                          DeviceArena(device));
  return TakePiece(std::move(arena), bytes);
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinnedMemory(size_t bytes) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<MemoryArena> arena, PinnedArena());
  return TakePiece(std::move(arena), bytes);
}

}  // namespace engram::cuda
