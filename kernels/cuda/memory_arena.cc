#include "kernels/cuda/memory_arena.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/device_status.h"
#include "kernels/cuda/piece_marks.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr size_t kLargest = std::numeric_limits<size_t>::max();

}  // namespace

MemoryArena::MemoryArena(Kind kind, std::optional<size_t> limit)
    : kind_(std::move(kind)), limit_(limit), pieces_(kind_.alignment) {}

MemoryArena::~MemoryArena() {
  if (DeviceIsLost()) return;
  absl::MutexLock lock(&mutex_);
  ENGRAM_CHECK(pieces_.used() == 0);
  // The answer is that of earlier work, and told where that is waited for.
  if (is_on_device()) (void)MakeCurrent(kind_.device);
  for (const auto& [slab, bytes] : slabs_) {
    UnmarkSlab(is_on_device(), slab, bytes);
    (void)kind_.give_back(slab);
  }
}

absl::Status MemoryArena::Reserve(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  return AddSlab(bytes, bytes);
}

absl::StatusOr<void*> MemoryArena::Take(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  // Buffers that differ have addresses that differ, also those of 0 bytes.
  const size_t some = std::max<size_t>(bytes, 1);
  void* piece = pieces_.TryTake(some);
  if (piece == nullptr && is_closed_) return NoRoom(some);
  if (piece == nullptr) {
    ENGRAM_RETURN_IF_ERROR(AddSlab(some, std::max(some, kind_.slab_bytes)));
    piece = pieces_.TryTake(some);
    ENGRAM_CHECK(piece != nullptr);
  }
  MarkPiece(is_on_device(), piece, some);
  return piece;
}

void MemoryArena::GiveBack(void* piece) {
  if (DeviceIsLost()) return;
  absl::MutexLock lock(&mutex_);
  UnmarkPiece(is_on_device(), piece, pieces_.GiveBack(piece));
}

void MemoryArena::Close() {
  absl::MutexLock lock(&mutex_);
  is_closed_ = true;
}

MemoryUse MemoryArena::use() const {
  absl::MutexLock lock(&mutex_);
  return {.limit = limit_, .taken = taken_, .used = pieces_.used()};
}

absl::Status MemoryArena::NoRoom(size_t bytes) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      "CUDA: no room for ", bytes, " bytes of ", kind_.name, ": ",
      taken_ - pieces_.used(), " are left of ", taken_,
      " that were taken at start; ", kind_.flag, " sets how many"));
}

absl::Status MemoryArena::AddSlab(size_t least, size_t wanted) {
  const size_t left = limit_.value_or(kLargest) - taken_;
  const size_t bytes = std::min(RoundUpTo(wanted, kind_.grain), left);
  if (RoundUpTo(least, kind_.alignment) > bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "CUDA: no room for ", least, " bytes of ", kind_.name, ": ", left,
        " are left of ", limit_.value_or(kLargest), kind_.limit));
  }
  void* slab = nullptr;
  const cudaError_t error = kind_.take(&slab, bytes);
  if (error != cudaSuccess) {
    // A refusal is no failure of the device: later calls shall not find it.
    (void)cudaGetLastError();
    std::string free;
    if (is_on_device()) {
      size_t free_bytes = 0, total_bytes = 0;
      (void)cudaMemGetInfo(&free_bytes, &total_bytes);
      free = absl::StrCat("; the device has ", free_bytes, " free of ",
                          total_bytes);
    }
    const absl::Status status =
        DeviceStatus(error, absl::StrCat("no ", bytes, " bytes of ", kind_.name,
                                         free, kind_.limit));
    return error == cudaErrorInvalidValue
               ? absl::ResourceExhaustedError(status.message())
               : status;
  }
  MarkSlab(is_on_device(), slab, bytes);
  pieces_.Add(slab, bytes);
  slabs_.emplace_back(slab, bytes);
  taken_ += bytes;
  return absl::OkStatus();
}

}  // namespace engram::cuda
