#include "tests/cuda_emulation/device/copy.h"

#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/device/counting.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/pinned_memory.h"
#include "tests/cuda_emulation/device/planted_error.h"
#include "tests/cuda_emulation/device/refuse.h"

namespace engram::emulation {
namespace {

// Where the bytes of one side of a copy lie, which is the host's or a device's;
// null if they are elsewhere.
char* HostSide(const void* pointer) {
  return DeviceMemory::OwnerOf(pointer) != nullptr
             ? nullptr
             : static_cast<char*>(const_cast<void*>(pointer));
}
char* DeviceSide(const void* pointer, size_t bytes, int device) {
  const DeviceMemory& memory = DeviceMemory::Of(device);
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
                    cudaMemcpyKind kind, int device, Copy* copy) {
  const PinnedMemory& pinned = PinnedMemory::Get();
  copy->to_device = kind != cudaMemcpyDeviceToHost;
  copy->from_device = kind != cudaMemcpyHostToDevice;
  copy->target =
      copy->to_device ? DeviceSide(target, bytes, device) : HostSide(target);
  copy->source =
      copy->from_device ? DeviceSide(source, bytes, device) : HostSide(source);
  copy->bytes = bytes;
  copy->pageable = (!copy->to_device && !pinned.Contains(target, bytes)) ||
                   (!copy->from_device && !pinned.Contains(source, bytes));
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
