#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <utility>

#include "tests/cuda_emulation/device/block.h"
#include "tests/cuda_emulation/device/copy.h"
#include "tests/cuda_emulation/device/counting.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/devices.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/pinned_memory.h"
#include "tests/cuda_emulation/device/planted_error.h"
#include "tests/cuda_emulation/device/queue.h"
#include "tests/cuda_emulation/device/sanitizer.h"

namespace engram::emulation {
namespace {

constexpr int kSharedBytesOfAll = 48 * 1024;

// What kernels are allowed on a device, beside what all are.
std::map<std::pair<const void*, int>, int>& SharedBytes() {
  static std::map<std::pair<const void*, int>, int> shared_bytes;
  return shared_bytes;
}

size_t AllowedBytes(const void* kernel) {
  const auto found = SharedBytes().find({kernel, CurrentDevice()});
  return found == SharedBytes().end() ? kSharedBytesOfAll
                                      : static_cast<size_t>(found->second);
}

bool Overlaps(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) {
      return attribute.val.programmaticStreamSerializationAllowed != 0;
    }
  }
  return false;
}

cudaError_t CheckShape(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 ||
      threads > 1024 || block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  return config.dynamicSmemBytes > AllowedBytes(kernel) ? cudaErrorInvalidValue
                                                        : cudaSuccess;
}

}  // namespace

cudaError_t EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel,
                          std::function<void()> thread) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  const cudaError_t error = CheckShape(config, kernel);
  if (error != cudaSuccess) return Tell(error);
  if (!Exists(config.stream) || DeviceOf(config.stream) != CurrentDevice()) {
    return Tell(cudaErrorInvalidResourceHandle);
  }
  const auto launch = std::make_shared<const KernelLaunch>(
      KernelLaunch{kernel, std::move(thread), config.gridDim, config.blockDim,
                   config.dynamicSmemBytes, Overlaps(config)});
  if (!IsCapturing(config.stream)) ++counting().alone;
  if (!Overlaps(config)) ++counting().in_turn;
  return Tell(Enqueue(config.stream, [launch] {
    Release(&kernel_order.launched);
    return Work{launch, nullptr};
  }));
}

void DivideAllocation(void* allocation) {
  Lock lock(RuntimeMutex());
  DeviceMemory::OwnerOf(allocation)->Divide(allocation);
}

void BeginPiece(void* piece, size_t bytes) {
  Lock lock(RuntimeMutex());
  DeviceMemory::OwnerOf(piece)->BeginPiece(piece, bytes);
}

void EndPiece(void* piece) {
  Lock lock(RuntimeMutex());
  DeviceMemory::OwnerOf(piece)->EndPiece(piece);
}

}  // namespace engram::emulation

// NOLINTBEGIN: the names are CUDA's.

using engram::emulation::AllowedBytes;
using engram::emulation::BeginCopy;
using engram::emulation::BreaksCapture;
using engram::emulation::Copy;
using engram::emulation::counting;
using engram::emulation::CurrentDevice;
using engram::emulation::DeviceCount;
using engram::emulation::DeviceMemory;
using engram::emulation::DeviceOf;
using engram::emulation::Enqueue;
using engram::emulation::Exists;
using engram::emulation::FailsNow;
using engram::emulation::IsCapturing;
using engram::emulation::IsDevice;
using engram::emulation::kDeviceBytes;
using engram::emulation::kMostDevices;
using engram::emulation::kMostSharedBytes;
using engram::emulation::Lock;
using engram::emulation::PinnedMemory;
using engram::emulation::Resolve;
using engram::emulation::Run;
using engram::emulation::RunAll;
using engram::emulation::RunAllStreams;
using engram::emulation::RuntimeMutex;
using engram::emulation::SetCurrentDevice;
using engram::emulation::SharedBytes;
using engram::emulation::StickyError;
using engram::emulation::Tell;
using engram::emulation::Work;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaError of the emulated device";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "an error of the emulated device";
  }
}

// --- Devices.

cudaError_t cudaGetDeviceCount(int* count) {
  Lock lock(RuntimeMutex());
  if (DeviceCount() == 0) return Tell(cudaErrorNoDevice);
  *count = DeviceCount();
  return Tell(StickyError());
}

cudaError_t cudaGetDevice(int* device) {
  Lock lock(RuntimeMutex());
  *device = CurrentDevice();
  return Tell(StickyError());
}

cudaError_t cudaSetDevice(int device) {
  Lock lock(RuntimeMutex());
  if (!IsDevice(device)) return Tell(cudaErrorInvalidDevice);
  SetCurrentDevice(device);
  return Tell(StickyError());
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                   int device) {
  Lock lock(RuntimeMutex());
  if (!IsDevice(device)) return Tell(cudaErrorInvalidDevice);
  if (attribute != cudaDevAttrComputeCapabilityMajor) {
    return Tell(cudaErrorInvalidValue);
  }
  *value = 9;
  return Tell(StickyError());
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  Lock lock(RuntimeMutex());
  if (!IsDevice(device)) return Tell(cudaErrorInvalidDevice);
  *properties = {.name = "emulated device"};
  return Tell(StickyError());
}

cudaError_t cudaDeviceSynchronize() {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  RunAllStreams(CurrentDevice(), /*blocking_only=*/false);
  return Tell(StickyError());
}

// --- Memory.

namespace {

// Memory of the current device, or pinned memory of the host.
template <class Memory>
cudaError_t Allocate(Memory& (*memory)(), int64_t* calls, void** pointer,
                     size_t bytes) {
  Lock lock(RuntimeMutex());
  ++*calls;
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = memory().Allocate(bytes);
  return Tell(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

DeviceMemory& MemoryOfCurrentDevice() {
  return DeviceMemory::Of(CurrentDevice());
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return Allocate(&MemoryOfCurrentDevice, &counting().device_allocations,
                  pointer, bytes);
}

cudaError_t cudaFree(void* pointer) {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  DeviceMemory* const owner = DeviceMemory::OwnerOf(pointer);
  RunAllStreams(owner != nullptr ? owner->device() : CurrentDevice(),
                /*blocking_only=*/false);
  if (pointer != nullptr && (owner == nullptr || !owner->Free(pointer))) {
    return Tell(cudaErrorInvalidValue);
  }
  return Tell(StickyError());
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return Allocate(&PinnedMemory::Get, &counting().host_allocations, pointer,
                  bytes);
}

cudaError_t cudaFreeHost(void* pointer) {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  for (int device = 0; device < kMostDevices; ++device) {
    RunAllStreams(device, /*blocking_only=*/false);
  }
  if (pointer != nullptr && !PinnedMemory::Get().Free(pointer)) {
    return Tell(cudaErrorInvalidValue);
  }
  return Tell(StickyError());
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(RuntimeMutex());
  *free = MemoryOfCurrentDevice().free_bytes();
  *total = kDeviceBytes;
  return Tell(StickyError());
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                     const void* pointer) {
  Lock lock(RuntimeMutex());
  *attributes = {};
  attributes->device = -1;
  void* const given = const_cast<void*>(pointer);
  const DeviceMemory* const owner = DeviceMemory::OwnerOf(pointer);
  if (owner != nullptr && owner->Contains(pointer, 1)) {
    *attributes = {cudaMemoryTypeDevice, owner->device(), given, nullptr};
  } else if (PinnedMemory::Get().Contains(pointer, 1)) {
    *attributes = {cudaMemoryTypeHost, CurrentDevice(), given, given};
  } else {
    attributes->hostPointer = given;
  }
  return Tell(StickyError());
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes,
                       cudaMemcpyKind kind) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  Copy copy;
  const cudaError_t error =
      Resolve(target, source, bytes, kind, CurrentDevice(), &copy);
  if (error != cudaSuccess) return Tell(error);
  RunAllStreams(CurrentDevice(), /*blocking_only=*/true);
  if (StickyError() == cudaSuccess) Run(copy);
  return Tell(StickyError());
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  Copy copy;
  cudaError_t error =
      Resolve(target, source, bytes, kind, DeviceOf(stream), &copy);
  if (error != cudaSuccess) return Tell(error);
  error = Enqueue(stream, [copy] { return BeginCopy(copy); });
  if (error != cudaSuccess) return Tell(error);
  if (copy.pageable) {
    ++counting().pageable_copies;
    if (!IsCapturing(stream)) RunAll(stream);
  }
  return Tell(StickyError());
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes,
                            cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  const DeviceMemory& memory = DeviceMemory::Of(DeviceOf(stream));
  if (!memory.Contains(target, bytes)) return Tell(cudaErrorInvalidValue);
  char* const data = memory.Data(target);
  const auto fill = [data, value, bytes] {
    if (!FailsNow()) std::memset(data, value, bytes);
  };
  if (!IsCapturing(stream)) ++counting().alone;
  return Tell(Enqueue(stream, [fill] { return Work{nullptr, fill}; }));
}

// --- Kernels.

cudaError_t cudaFuncSetAttribute(const void* kernel,
                                 cudaFuncAttribute attribute, int value) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return cudaSuccess;
  }
  if (value < 0 || value > static_cast<int>(kMostSharedBytes))
    return Tell(cudaErrorInvalidValue);
  SharedBytes()[{kernel, CurrentDevice()}] = value;
  return cudaSuccess;
}

// NOLINTEND
