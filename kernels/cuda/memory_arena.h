// MemoryArena: memory of one kind that the process has taken from the runtime
// in few large slabs, and hands out in pieces.
//
// What the runtime gives is slow to get, and giving it back waits for the
// device; a piece costs neither. Slabs stay until the arena goes.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/memory_pieces.h"
#include "kernels/memory.h"

namespace engram::cuda {

// Thread-safe.
class MemoryArena {
 public:
  struct Kind {
    // Of the runtime, for slabs.
    cudaError_t (*take)(void** slab, size_t bytes);
    cudaError_t (*give_back)(void* slab);
    size_t slab_bytes;  // at least, where more is wanted
    size_t grain;       // the runtime gives multiples of it
    size_t alignment;   // of pieces
    int device;         // -1: memory of the host
    std::string name;   // "device memory", for refusals
    std::string flag;   // sets the limit
    std::string limit;  // what sets it, likewise: ", ..."
  };

  // At most `limit` bytes in all; nothing: as many as the runtime gives.
  MemoryArena(Kind kind, std::optional<size_t> limit);
  // REQUIRES: no piece is left, unless DeviceIsLost().
  ~MemoryArena();
  MemoryArena(const MemoryArena&) = delete;
  MemoryArena& operator=(const MemoryArena&) = delete;

  // One slab of so many bytes now, for what is asked for later.
  // RESOURCE_EXHAUSTED with what was asked for and what is left. REQUIRES: the
  // device is current, here and below.
  absl::Status Reserve(size_t bytes);
  // No slab is taken from now on but by Reserve: what none has room for is
  // refused.
  void Close();
  // A piece, whose content is anything. Where no slab has room for it another
  // one is taken. Errors likewise.
  absl::StatusOr<void*> Take(size_t bytes);
  // REQUIRES: the device does nothing more with it. Nothing after
  // DeviceIsLost().
  void GiveBack(void* piece);

  MemoryUse use() const;

 private:
  bool is_on_device() const { return kind_.device >= 0; }
  absl::Status NoRoom(size_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AddSlab(size_t least, size_t wanted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Kind kind_;
  const std::optional<size_t> limit_;
  mutable absl::Mutex mutex_;
  MemoryPieces pieces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<void*, size_t>> slabs_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram::cuda
