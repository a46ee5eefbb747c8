#include "tests/device_facts/bits.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt_product.h"
#include "kernels/operations.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/mma_chain.h"
#include "tests/device_facts/mma_facts.h"

namespace engram {
namespace {

// Large enough to be summed in one chain.
constexpr WeightShape kWeights[] = {{13696, 768}, {4096, 2560}, {1024, 10240}};
constexpr int64_t kTokens[] = {16, 64, 256, 512, 1024, 2048};
// That are compared: a tile of all kernels.
constexpr int64_t kCompared = 128;

class Comparison {
 public:
  Comparison(const WeightShape& shape, int64_t tokens)
      : shape_(shape), tokens_(tokens) {}

  // Of so many inputs, which no others lie between.
  std::vector<float> ByChain(int64_t inputs) {
    MmaChainArguments arguments;
    arguments.tokens = compared();
    arguments.outputs = shape_.outputs;
    arguments.inputs = arguments.stride = inputs;
    arguments.x = x_.data();
    arguments.weight = weight_.data();
    arguments.y = y_.data();
    return Result(MmaChain(nullptr, arguments));
  }
  std::vector<float> ByProduct() {
    return Result(cuda::Product(
        nullptr, cuda::ArgumentsOf(Weight(inputs()), tokens_,
                                   {floats_.data(), inputs()}, {}, y())));
  }
  std::vector<float> ByCublasLt(const cuda::CublasLtProduct& library,
                                const cublasLtMatmulAlgo_t& algorithm,
                                int64_t inputs) {
    if (!library.Begin(nullptr, algorithm, Weight(inputs), tokens_, x_.data(),
                       y(), /*accumulate=*/false)) {
      return {};
    }
    return Result(cudaSuccess);
  }
  std::vector<cublasLtMatmulAlgo_t> Algorithms(
      const cuda::CublasLtProduct& library) {
    return library.Algorithms(Weight(inputs()), tokens_);
  }

  int64_t inputs() const { return shape_.inputs; }

 private:
  cuda::WeightView Weight(int64_t inputs) const {
    cuda::WeightView view;
    view.values = weight_.data();
    view.outputs = shape_.outputs;
    view.inputs = view.stride = inputs;
    view.format = WeightFormat::kBFloat16;
    return view;
  }
  Matrix y() const { return {y_.data(), shape_.outputs}; }
  int64_t compared() const { return std::min(tokens_, kCompared); }

  // Nothing after an error.
  std::vector<float> Result(cudaError_t begun) {
    std::vector<float> y(compared() * shape_.outputs);
    if (begun != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess ||
        cudaMemcpy(y.data(), y_.data(), y.size() * sizeof(float),
                   cudaMemcpyDeviceToHost) != cudaSuccess) {
      y.clear();
    }
    return y;
  }

  const WeightShape shape_;
  const int64_t tokens_;
  const std::vector<uint16_t> halves_ = RandomHalves(false, 1, 1 << 20);
  const DeviceArray<uint16_t> x_{halves_, tokens_* shape_.inputs};
  const DeviceArray<float> floats_{Widened(false, halves_),
                                   tokens_* shape_.inputs};
  const DeviceArray<uint16_t> weight_{RandomHalves(false, 2, 1 << 20),
                                      shape_.outputs* shape_.inputs};
  const DeviceArray<float> y_{std::vector<float>(1 << 20),
                              tokens_* shape_.outputs};
};

bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return !a.empty() && a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The number of inputs from which on sums differ, to a step; 0: they don't, or
// the algorithm does not do fewer inputs.
int64_t FirstDifference(const cuda::CublasLtProduct& library,
                        const cublasLtMatmulAlgo_t& algorithm,
                        Comparison* comparison) {
  int64_t same = 0, different = comparison->inputs() / 16;
  while (different - same > 1) {
    const int64_t middle = (same + different) / 2;
    const std::vector<float> y =
        comparison->ByCublasLt(library, algorithm, middle * 16);
    if (y.empty()) return 0;
    (Same(y, comparison->ByChain(middle * 16)) ? same : different) = middle;
  }
  return different * 16;
}

// Prints a line. Whether one of its algorithms is ours.
bool CompareWithCublasLt(const cuda::CublasLtProduct& library,
                         const std::vector<float>& ours,
                         Comparison* comparison) {
  const auto algorithms = comparison->Algorithms(library);
  int same = 0, first = -1;
  for (size_t i = 0; i < algorithms.size(); ++i) {
    const bool is_same = Same(
        comparison->ByCublasLt(library, algorithms[i], comparison->inputs()),
        ours);
    if (is_same && same++ == 0) first = static_cast<int>(i);
  }
  std::printf(" cuBLASLt: %d of %zu algorithms in one piece are the same", same,
              algorithms.size());
  if (same > 0) std::printf(", the first is number %d", first);
  if (same == 0 && !algorithms.empty()) {
    std::printf(", number 0 differs from input %lld on",
                static_cast<long long>(
                    FirstDifference(library, algorithms[0], comparison)));
  }
  return same > 0;
}

MmaFacts TellMma(bool is_float16) {
  const MmaFacts facts = FindMmaFacts(is_float16);
  std::printf(
      "mma in %s: of %lld sums %lld are not one of 25 bits, %lld change with "
      "an input's place in its step\n",
      is_float16 ? "float16" : "bfloat16", static_cast<long long>(facts.sums),
      static_cast<long long>(facts.unlike_host),
      static_cast<long long>(facts.unlike_by_place));
  return facts;
}

}  // namespace

int TellBits() {
  const MmaFacts facts = TellMma(/*is_float16=*/false);
  TellMma(/*is_float16=*/true);
  const auto library = cuda::CublasLtProduct::Make();
  if (!library.ok()) {
    std::printf("no cuBLASLt: %s\n",
                std::string(library.status().message()).c_str());
  }
  int shapes = 0, chains = 0, pinned = 0;
  for (const WeightShape& weight : kWeights) {
    for (const int64_t tokens : kTokens) {
      Comparison comparison(weight, tokens);
      const std::vector<float> ours = comparison.ByProduct();
      const bool is_chain = Same(ours, comparison.ByChain(weight.inputs));
      std::printf("%lld tokens, %lld x %lld: products are %s of mma;",
                  static_cast<long long>(tokens),
                  static_cast<long long>(weight.outputs),
                  static_cast<long long>(weight.inputs),
                  is_chain ? "chains" : "NOT chains");
      ++shapes;
      chains += is_chain ? 1 : 0;
      if (library.ok() && CompareWithCublasLt(**library, ours, &comparison)) {
        ++pinned;
      }
      std::printf("\n");
    }
  }
  std::printf(
      "%d of %d products are chains of mma, %d can be cuBLASLt's; %lld of %lld "
      "sums unlike 25 bits, %lld by place\n",
      chains, shapes, pinned, static_cast<long long>(facts.unlike_host),
      static_cast<long long>(facts.sums),
      static_cast<long long>(facts.unlike_by_place));
  return chains == shapes ? 0 : 1;
}

}  // namespace engram
