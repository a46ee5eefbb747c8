#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "tests/cuda_emulation/device/block.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/queue.h"
#include "tests/cuda_emulation/device/refuse.h"

namespace engram::emulation {
namespace {

constexpr int kSharedBytesOfAll = 48 * 1024;
constexpr int kMostSharedBytes = 227 * 1024;

struct Runtime {
  Options options;
  Counts counts;
  int64_t planted_after = 0;  // 0: none
  cudaError_t planted = cudaSuccess;
  std::map<const void*, int> shared_bytes;  // what a kernel is allowed
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

Runtime& Get() {
  static Runtime* runtime = [] {
    auto* made = new Runtime;
    Options& options = made->options;
    options.seed = FromEnvironment("ENGRAM_EMULATION_SEED", options.seed);
    options.early_threads = static_cast<int64_t>(
        FromEnvironment("ENGRAM_EMULATION_EARLY_THREADS", 0));
    options.fused_mma = FromEnvironment("ENGRAM_EMULATION_FUSED_MMA", 0) != 0;
    return made;
  }();
  return *runtime;
}

// Whether what runs now is what was planted to fail.
bool FailsNow() {
  Runtime& runtime = Get();
  if (runtime.planted_after == 0 || --runtime.planted_after > 0) return false;
  SetStickyError(runtime.planted);
  return true;
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
  const auto allowed = Get().shared_bytes.find(kernel);
  const size_t most = allowed == Get().shared_bytes.end()
                          ? kSharedBytesOfAll
                          : static_cast<size_t>(allowed->second);
  return config.dynamicSmemBytes > most ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

Options& options() { return Get().options; }
Counts counts() { return Get().counts; }

void PlantError(int64_t n, cudaError_t error) {
  Get().planted_after = n;
  Get().planted = error;
}

void ClearErrors() {
  Get().planted_after = 0;
  SetStickyError(cudaSuccess);
  cudaGetLastError();
}

cudaError_t EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel,
                          std::function<void()> thread) {
  std::lock_guard<std::recursive_mutex> lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  const cudaError_t error = CheckShape(config, kernel);
  if (error != cudaSuccess) return Tell(error);
  KernelLaunch launch{std::move(thread), config.gridDim, config.blockDim,
                      config.dynamicSmemBytes};
  return Tell(Enqueue(config.stream, [launch = std::move(launch)] {
    ++Get().counts.kernels;
    if (!FailsNow()) RunKernel(launch);
  }));
}

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

struct Copy {
  char* target;
  const char* source;
  size_t bytes;
  bool pageable;
};

cudaError_t Resolve(void* target, const void* source, size_t bytes,
                    cudaMemcpyKind kind, Copy* copy) {
  const DeviceMemory& memory = DeviceMemory::Get();
  bool to_device = kind == cudaMemcpyHostToDevice;
  bool from_device = kind == cudaMemcpyDeviceToHost;
  if (kind == cudaMemcpyDeviceToDevice) to_device = from_device = true;
  if (kind == cudaMemcpyDefault) {
    to_device = memory.Reserved(target);
    from_device = memory.Reserved(source);
  }
  copy->target = Side(target, bytes, to_device);
  copy->source = Side(source, bytes, from_device);
  copy->bytes = bytes;
  copy->pageable = (!to_device && !memory.IsPinned(target, bytes)) ||
                   (!from_device && !memory.IsPinned(source, bytes));
  return copy->target == nullptr || copy->source == nullptr
             ? cudaErrorInvalidValue
             : cudaSuccess;
}

void Run(const Copy& copy) {
  ++Get().counts.copies;
  if (!FailsNow()) std::memmove(copy.target, copy.source, copy.bytes);
}

}  // namespace
}  // namespace engram::emulation

// NOLINTBEGIN: the names are CUDA's.

using engram::emulation::BreaksCapture;
using engram::emulation::Copy;
using engram::emulation::DeviceMemory;
using engram::emulation::Enqueue;
using engram::emulation::Get;
using engram::emulation::IsCapturing;
using engram::emulation::kMostSharedBytes;
using engram::emulation::kSharedBytesOfAll;
using engram::emulation::Resolve;
using engram::emulation::Run;
using engram::emulation::RunAll;
using engram::emulation::RunAllStreams;
using engram::emulation::RuntimeMutex;
using engram::emulation::StickyError;
using engram::emulation::Tell;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

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
  *count = 1;
  return Tell(StickyError());
}

cudaError_t cudaGetDevice(int* device) {
  Lock lock(RuntimeMutex());
  *device = 0;
  return Tell(StickyError());
}

cudaError_t cudaSetDevice(int device) {
  Lock lock(RuntimeMutex());
  if (device != 0) return Tell(cudaErrorInvalidDevice);
  return Tell(StickyError());
}

cudaError_t cudaSetDeviceFlags(unsigned) {
  Lock lock(RuntimeMutex());
  return Tell(StickyError());
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  Lock lock(RuntimeMutex());
  if (device != 0) return Tell(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated device");
  properties->totalGlobalMem = Get().options.device_bytes;
  properties->sharedMemPerBlock = kSharedBytesOfAll;
  properties->sharedMemPerBlockOptin = kMostSharedBytes;
  properties->sharedMemPerMultiprocessor = 228 * 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->l2CacheSize = 50 << 20;
  properties->memoryBusWidth = 5120;
  return Tell(StickyError());
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                   int device) {
  Lock lock(RuntimeMutex());
  if (device != 0) return Tell(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kMostSharedBytes;
      break;
    default:
      return Tell(cudaErrorInvalidValue);
  }
  return Tell(StickyError());
}

cudaError_t cudaDeviceSynchronize() {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  RunAllStreams(/*blocking_only=*/false);
  return Tell(StickyError());
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// --- Memory.

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = DeviceMemory::Get().Allocate(bytes);
  return Tell(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFree(void* pointer) {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  RunAllStreams(/*blocking_only=*/false);
  if (pointer != nullptr && !DeviceMemory::Get().Free(pointer)) {
    return Tell(cudaErrorInvalidValue);
  }
  return Tell(StickyError());
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = DeviceMemory::Get().AllocatePinned(bytes);
  return Tell(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFreeHost(void* pointer) {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  RunAllStreams(/*blocking_only=*/false);
  if (pointer != nullptr && !DeviceMemory::Get().FreePinned(pointer)) {
    return Tell(cudaErrorInvalidValue);
  }
  return Tell(StickyError());
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(RuntimeMutex());
  *free = DeviceMemory::Get().free_bytes();
  *total = Get().options.device_bytes;
  return Tell(StickyError());
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                     const void* pointer) {
  Lock lock(RuntimeMutex());
  *attributes = {};
  attributes->device = -1;
  void* const given = const_cast<void*>(pointer);
  if (DeviceMemory::Get().Contains(pointer, 1)) {
    *attributes = {cudaMemoryTypeDevice, 0, given, nullptr};
  } else if (DeviceMemory::Get().IsPinned(pointer, 1)) {
    *attributes = {cudaMemoryTypeHost, 0, given, given};
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
  const cudaError_t error = Resolve(target, source, bytes, kind, &copy);
  if (error != cudaSuccess) return Tell(error);
  RunAllStreams(/*blocking_only=*/true);
  if (StickyError() == cudaSuccess) Run(copy);
  return Tell(StickyError());
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  Copy copy;
  cudaError_t error = Resolve(target, source, bytes, kind, &copy);
  if (error != cudaSuccess) return Tell(error);
  error = Enqueue(stream, [copy] { Run(copy); });
  if (error != cudaSuccess) return Tell(error);
  if (copy.pageable) {
    ++Get().counts.pageable_copies;
    if (!IsCapturing(stream)) RunAll(stream);
  }
  return Tell(StickyError());
}

cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  Lock lock(RuntimeMutex());
  const cudaError_t error = cudaMemsetAsync(target, value, bytes, nullptr);
  if (error != cudaSuccess) return error;
  RunAllStreams(/*blocking_only=*/true);
  return Tell(StickyError());
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes,
                            cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (!DeviceMemory::Get().Contains(target, bytes)) {
    return Tell(cudaErrorInvalidValue);
  }
  char* const data = DeviceMemory::Get().Data(target);
  return Tell(Enqueue(stream, [=] {
    if (!engram::emulation::FailsNow()) std::memset(data, value, bytes);
  }));
}

// --- Kernels.

cudaError_t cudaFuncSetAttribute(const void* kernel,
                                 cudaFuncAttribute attribute, int value) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return cudaSuccess;
  }
  if (value < 0 || value > kMostSharedBytes) return Tell(cudaErrorInvalidValue);
  Get().shared_bytes[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes,
                                  const void* kernel) {
  Lock lock(RuntimeMutex());
  *attributes = {};
  const auto found = Get().shared_bytes.find(kernel);
  attributes->maxThreadsPerBlock = 1024;
  attributes->maxDynamicSharedSizeBytes =
      found == Get().shared_bytes.end() ? kSharedBytesOfAll : found->second;
  return Tell(StickyError());
}

// NOLINTEND
