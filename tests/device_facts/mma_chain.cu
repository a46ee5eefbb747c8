// A warp has 16 tokens and 8 outputs.
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/device_facts/mma_chain.h"

namespace engram {
namespace {

using cuda::ProductOrder;

__device__ uint32_t Pair(const uint16_t* values) {
  return cuda::LoadConstant(reinterpret_cast<const uint32_t*>(values));
}

__global__ void Chain(MmaChainArguments arguments) {
  cuda::GridWait();
  cuda::GridTrigger();
  const int group = threadIdx.x / 4;
  const int quad = threadIdx.x % 4;
  const int64_t inputs = arguments.inputs, stride = arguments.stride;
  const int64_t token = int64_t{blockIdx.x} * 16 + group;
  const int64_t output = int64_t{blockIdx.y} * 8;
  // Of a step's inputs the first two and the last two that a lane has.
  const int low = arguments.beside ? 4 * quad : 2 * quad;
  const int high = low + (arguments.beside ? 2 : 8);
  const bool is_split = arguments.order == ProductOrder::kSplit8;
  const int64_t segments = is_split ? cuda::kSegments : 1;
  const int64_t units = (inputs + cuda::kUnitInputs - 1) / cuda::kUnitInputs;
  float sum[4] = {};
  for (int64_t segment = 0; segment < segments; ++segment) {
    float acc[4] = {};
    const int64_t end = (segment + 1) * units / segments * cuda::kUnitInputs;
    for (int64_t k = segment * units / segments * cuda::kUnitInputs;
         k < (end < inputs ? end : inputs); k += 16) {
      const uint16_t* const x = arguments.x + token * stride + k;
      const uint16_t* const weight =
          arguments.weight + (output + group) * stride + k;
      const uint32_t a[4] = {Pair(x + low), Pair(x + 8 * stride + low),
                             Pair(x + high), Pair(x + 8 * stride + high)};
      const uint32_t b[2] = {Pair(weight + low), Pair(weight + high)};
      if (arguments.is_float16) {
        cuda::MmaF16(acc, a, b);
      } else {
        cuda::MmaBf16(acc, a, b);
      }
    }
    for (int i = 0; i < 4; ++i) sum[i] = is_split ? sum[i] + acc[i] : acc[i];
  }
  float* const y = arguments.y + token * arguments.outputs + output + 2 * quad;
  for (int i = 0; i < 4; ++i) {
    cuda::Store(y + i / 2 * 8 * arguments.outputs + i % 2, sum[i]);
  }
}

}  // namespace

cudaError_t MmaChain(cudaStream_t stream, const MmaChainArguments& arguments) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(arguments.tokens / 16),
                    static_cast<unsigned>(arguments.outputs / 8));
  shape.block = dim3(32);
  return cuda::Launch(shape, stream, Chain, arguments);
}

}  // namespace engram
