#include "tests/cuda_emulation/device/copy.h"

#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/device/counting.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/planted_error.h"
#include "tests/cuda_emulation/device/refuse.h"

namespace engram::emulation {
namespace {

// Where the bytes of one side of a copy lie; null if it is of the other kind.
char* Side(const void* pointer, size_t bytes, bool on_device) {
  const DeviceMemory& memory = DeviceMemory::Get();
  if (!on_device) {
    return memory.Reserved(pointer)
               ? nullptr
               : static_cast<char*>(const_cast<void*>(pointer));
  }
  return memory.Contains(pointer, bytes) ? memory.Data(pointer) : nullptr;
}

uint64_t Sum(const char* bytes, size_t count) {
  uint64_t sum = count;
  for (; count >= sizeof(uint64_t); count -= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    bytes += sizeof(word);
  }
  for (; count > 0; --count) {
    sum = (sum ^ static_cast<unsigned char>(*bytes++)) * 0x9e3779b97f4a7c15;
  }
  return sum;
}

}  // namespace

cudaError_t Resolve(void* target, const void* source, size_t bytes,
                    cudaMemcpyKind kind, Copy* copy) {
  const DeviceMemory& memory = DeviceMemory::Get();
  copy->to_device = kind != cudaMemcpyDeviceToHost;
  copy->from_device = kind != cudaMemcpyHostToDevice;
  copy->target = Side(target, bytes, copy->to_device);
  copy->source = Side(source, bytes, copy->from_device);
  copy->bytes = bytes;
  copy->pageable = (!copy->to_device && !memory.IsPinned(target, bytes)) ||
                   (!copy->from_device && !memory.IsPinned(source, bytes));
  return copy->target == nullptr || copy->source == nullptr
             ? cudaErrorInvalidValue
             : cudaSuccess;
}

Work BeginCopy(const Copy& copy) {
  if (!copy.to_device) std::memset(copy.target, kNoNumber, copy.bytes);
  if (copy.from_device) return {nullptr, [copy] { Run(copy); }};
  return {nullptr, [copy, sum = Sum(copy.source, copy.bytes)] {
            if (Sum(copy.source, copy.bytes) != sum) {
              Refuse(Site::current(),
                     "host memory has changed since its copy to the device was "
                     "begun");
            }
            Run(copy);
          }};
}

void Run(const Copy& copy) {
  ++counting().copies;
  if (!FailsNow()) std::memmove(copy.target, copy.source, copy.bytes);
}

}  // namespace engram::emulation
