#include "kernels/backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/control_group.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/status.h"

namespace engram {

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return "f32";
    case WeightFormat::kBFloat16:
      return "bf16";
    case WeightFormat::kFloat16:
      return "f16";
  }
  return "unknown";
}

DataType StoredType(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return DataType::kFloat32;
    case WeightFormat::kBFloat16:
      return DataType::kBFloat16;
    case WeightFormat::kFloat16:
      return DataType::kFloat16;
  }
  return DataType::kFloat32;
}

WeightFormat FormatOf(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return WeightFormat::kFloat32;
    case DataType::kBFloat16:
      return WeightFormat::kBFloat16;
    case DataType::kFloat16:
      return WeightFormat::kFloat16;
  }
  return WeightFormat::kFloat32;
}

absl::StatusOr<std::shared_ptr<cpu::ThreadPool>> MakeThreadPool(int threads) {
  constexpr int kThreadsMax = 1024;
  if (threads < 0 || threads > kThreadsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads is ", threads, ", must be in [0, ", kThreadsMax, "]"));
  }
  if (threads == 0) threads = std::min(UsableProcessors(), kThreadsMax);
  return std::make_shared<cpu::ThreadPool>(threads);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(
    const BackendOptions& options) {
  if (options.kind == BackendKind::kCuda) {
    return absl::FailedPreconditionError(
        "this build has no CUDA back end; use --backend=cpu");
  }
  std::shared_ptr<cpu::ThreadPool> pool = options.pool;
  if (pool == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(pool, MakeThreadPool(options.threads));
  }
  return MakeCpuBackend(std::move(pool));
}

}  // namespace engram
