#include "tests/device_facts/matrix_rate.h"

#include <vector>

#include "tests/device_facts/cublas_lt.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/milliseconds.h"
#include "tests/device_facts/mma_facts.h"

namespace engram {

double MatrixRate(int64_t tokens, int64_t outputs, int64_t inputs,
                  std::string* reason) {
  const CublasLt* const library = FindCublasLt(reason);
  if (library == nullptr) return 0;
  const std::vector<uint16_t> halves =
      RandomHalves(/*is_float16=*/false, 1, 1 << 22);
  const DeviceArray<uint16_t> x(halves, tokens * inputs);
  const DeviceArray<uint16_t> weight(halves, outputs * inputs);
  const DeviceArray<uint16_t> y(halves, tokens * outputs);
  LtProduct product(*library, {.tokens = tokens,
                               .outputs = outputs,
                               .inputs = inputs,
                               .stride = inputs,
                               .y = CUDA_R_16BF,
                               .workspace_bytes = 32 << 20});
  const auto algorithms = product.Algorithms(1, /*in_one_piece=*/false);
  float milliseconds = -1;
  if (!algorithms.empty()) {
    milliseconds = Milliseconds(10, [&] {
      return product.Begin(algorithms[0], x.data(), weight.data(), y.data(),
                           cudaStreamPerThread);
    });
  }
  if (milliseconds <= 0) {
    *reason = "cuBLASLt has no product of this shape";
    return 0;
  }
  return 2.0 * tokens * outputs * inputs / milliseconds / 1e9;
}

}  // namespace engram
