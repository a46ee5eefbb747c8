// A block has one token's row, or 1,024 numbers beside each other, of a row or
// of all. Bound by memory: RoundInputs reads 4 bytes an input and writes 2,
// FinishSums reads and writes 4 an output.
#include <cstring>

#include "kernels/cuda/cublaslt_operands.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlockValues = 1024;

template <class Step>
__global__ void RoundInputsKernel(ProductArguments product, void* rounded) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const int64_t stride = product.weight.stride;
  uint16_t* const row = static_cast<uint16_t*>(rounded) + token * stride;
  for (int64_t k = threadIdx.x * 4; k < stride; k += kThreads * 4) {
    Store(reinterpret_cast<uint2*>(row + k),
          NarrowFour<Step>(LoadFour(product, token, k)));
  }
}

// Of the outputs from `first`, an even one, to before `end`. A thread has two
// pairs, whose loads are on their way together.
__global__ void FinishSumsKernel(ProductArguments product, ConstMatrix sums,
                                 int64_t first, int64_t end) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const int64_t output = first + blockIdx.y * kBlockValues + threadIdx.x * 2;
  const int64_t other = output + kBlockValues / 2;
  const auto tokens = [&](int64_t of) {
    return of < end ? token : product.tokens;
  };
  const auto load = [&](int64_t of) {
    return of < end ? Load(ValuesAt<2>(At(sums, token, of))) : Values<2>{};
  };
  Ending<2> ending(product, tokens(output), output);
  Ending<2> other_ending(product, tokens(other), other);
  const Values<2> values = load(output), other_values = load(other);
  ending.Fetch();
  other_ending.Fetch();
  ending.Finish(values);
  other_ending.Finish(other_values);
}

// Of the bits of its input each of the result's depends on many.
// Source: the finaliser of MurmurHash3.
__device__ inline uint32_t Mixed(uint32_t bits) {
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
  return bits ^ bits >> 16;
}

// A number of `kMantissa` bits behind its point and of an exponent from
// `kBias` - 3 to `kBias`, as a format of that bias writes it.
template <class Word, int kMantissa, int kBias>
__device__ Word OddNumber(uint32_t random) {
  constexpr uint32_t kMantissaMask = (1u << kMantissa) - 1;
  const uint32_t sign = random >> 31;
  const uint32_t exponent = kBias - (random >> 29 & 3);
  const uint32_t mantissa = (random & kMantissaMask) | 1;
  return static_cast<Word>(sign << (8 * sizeof(Word) - 1) |
                           exponent << kMantissa | mantissa);
}

template <class Word, int kMantissa, int kBias>
__global__ void FillWithOddKernel(Word* values, int64_t count, uint32_t seed) {
  GridWait();
  GridTrigger();
  const int64_t first = blockIdx.x * kBlockValues;
  for (int64_t i = first + threadIdx.x; i < count && i < first + kBlockValues;
       i += kThreads) {
    const auto place = static_cast<uint64_t>(i);
    const uint32_t random =
        Mixed(static_cast<uint32_t>(place) ^
              Mixed(seed + static_cast<uint32_t>(place >> 32)));
    Store(values + i, OddNumber<Word, kMantissa, kBias>(random));
  }
}

__global__ void CountDifferencesKernel(const float* a, const float* b,
                                       int64_t count, uint32_t* differences) {
  GridWait();
  GridTrigger();
  const int64_t first = blockIdx.x * kBlockValues;
  bool differ = false;
  for (int64_t i = first + threadIdx.x; i < count && i < first + kBlockValues;
       i += kThreads) {
    differ = Load(reinterpret_cast<const uint32_t*>(a + i)) !=
                 Load(reinterpret_cast<const uint32_t*>(b + i)) ||
             differ;
  }
  const bool any_differ = Any(differ);
  if (threadIdx.x % 32 == 0 && any_differ) {
    AtomicAdd(differences, uint32_t{1});
  }
}

LaunchShape Blocks(int64_t count) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(count));
  shape.block = dim3(kThreads);
  return shape;
}
LaunchShape BlocksOfValues(int64_t count) {
  return Blocks((count + kBlockValues - 1) / kBlockValues);
}

}  // namespace

cudaError_t RoundInputs(cudaStream_t stream, const ProductArguments& product,
                        void* rounded) {
  const LaunchShape shape = Blocks(product.tokens);
  return product.weight.format == WeightFormat::kFloat16
             ? Launch(shape, stream, RoundInputsKernel<Float16Step>, product,
                      rounded)
             : Launch(shape, stream, RoundInputsKernel<BFloat16Step>, product,
                      rounded);
}

cudaError_t FinishSums(cudaStream_t stream, const ProductArguments& product,
                       ConstMatrix sums) {
  const MatMulOptions& options = product.options;
  // All but those that are convolved may be where they belong already.
  const bool all = sums.data != product.y.data || options.bias != nullptr ||
                   options.activation != Activation::kNone;
  const ProductConvolution& convolution = product.convolution;
  const int64_t first = all ? 0 : convolution.first / 2 * 2;
  const int64_t end =
      all ? product.weight.outputs : convolution.first + convolution.channels;
  if (end == first) return cudaSuccess;
  LaunchShape shape = Blocks(product.tokens);
  shape.grid.y =
      static_cast<unsigned>((end - first + kBlockValues - 1) / kBlockValues);
  return Launch(shape, stream, FinishSumsKernel, product, sums, first, end);
}

cudaError_t FillWithOdd(cudaStream_t stream, WeightFormat format, void* values,
                        int64_t count, uint32_t seed) {
  const LaunchShape shape = BlocksOfValues(count);
  switch (format) {
    case WeightFormat::kFloat32:
      return Launch(shape, stream, FillWithOddKernel<uint32_t, 23, 127>,
                    static_cast<uint32_t*>(values), count, seed);
    case WeightFormat::kBFloat16:
      return Launch(shape, stream, FillWithOddKernel<uint16_t, 7, 127>,
                    static_cast<uint16_t*>(values), count, seed);
    case WeightFormat::kFloat16:
      return Launch(shape, stream, FillWithOddKernel<uint16_t, 10, 15>,
                    static_cast<uint16_t*>(values), count, seed);
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t CountDifferences(cudaStream_t stream, const float* a,
                             const float* b, int64_t count,
                             uint32_t* differences) {
  return Launch(BlocksOfValues(count), stream, CountDifferencesKernel, a, b,
                count, differences);
}

}  // namespace engram::cuda
