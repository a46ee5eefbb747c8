#include "tests/cuda_emulation/device/block_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/refuse.h"
#include "tests/cuda_emulation/device/sanitizer.h"

namespace engram::emulation {
namespace {

constexpr size_t kAlignment = 128;
constexpr size_t kGuard = 64 * 1024;
constexpr size_t kPages = (kMostSharedBytes + 4095) / 4096 * 4096;

void MakeAccessible(char* begin) {
  // Mapped anew, it is new to ThreadSanitizer too.
  void* const mapped =
      mmap(begin, kPages, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (mapped == MAP_FAILED) {
    Refuse(Site::current(), "no memory for a block's shared memory");
  }
}

}  // namespace

BlockMemory::BlockMemory() {
  void* const memory = mmap(nullptr, kPages + 2 * kGuard, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    Refuse(Site::current(), "no addresses for a block's shared memory");
  }
  begin_ = static_cast<char*>(memory) + kGuard;
  MakeAccessible(begin_);
}

BlockMemory::~BlockMemory() { munmap(begin_ - kGuard, kPages + 2 * kGuard); }

void BlockMemory::Assign(size_t bytes) {
  const Unseen unseen;
  if (kThreadSanitizer && bytes > 0) MakeAccessible(begin_);
  bytes_ = bytes;
  const size_t kept = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_ = begin_ + kPages - kept;
  std::memset(data_, kNoNumber, kept);
}

}  // namespace engram::emulation
