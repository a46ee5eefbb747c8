#include "kernels/cuda/finite_rows.h"

#include <algorithm>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

// What steps are not much above.
constexpr int64_t kUsualRows = 1024;

}  // namespace

MemoryNeed FiniteRows::NeedOf(int64_t rows) {
  if (rows == 0) return {};
  return {.device = kSteps * DevicePieceBytes(rows * sizeof(uint32_t)),
          .pinned = kSteps * PinnedPieceBytes(rows * sizeof(uint32_t))};
}

absl::Status FiniteRows::Reserve(int64_t rows) {
  if (rows <= rows_) return absl::OkStatus();
  for (Counts& counts : counts_) {
    ENGRAM_ASSIGN_OR_RETURN(counts.device,
                            AllocateDeviceMemory(rows * sizeof(uint32_t)));
    ENGRAM_ASSIGN_OR_RETURN(counts.host,
                            AllocatePinnedMemory(rows * sizeof(uint32_t)));
  }
  rows_ = rows;
  return absl::OkStatus();
}

void FiniteRows::Begin(DeviceQueue* queue, const StepTable& step, ConstMatrix x,
                       int64_t width, absl::Span<uint8_t> finite) {
  if (finite.empty()) return;
  const auto rows = static_cast<int64_t>(finite.size());
  if (rows > rows_ || counts_[next_].awaited) {
    if (!queue->Synchronize().ok()) return;
  }
  if (rows > rows_) {
    const absl::Status status = Reserve(std::max(2 * rows, kUsualRows));
    if (!status.ok()) return queue->Fail(status);
  }
  Counts& counts = counts_[next_];
  next_ = (next_ + 1) % kSteps;
  const size_t bytes = rows * sizeof(uint32_t);
  auto* const device = static_cast<uint32_t*>(counts.device->data());
  auto* const host = static_cast<uint32_t*>(counts.host->data());
  queue->Note(cudaMemsetAsync(device, 0, bytes, queue->operations()),
              "clearing rows' flags");
  queue->Note(CountNotFinite(queue->operations(), step, x, width, device),
              "looking for what is not finite");
  queue->Note(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost,
                              queue->operations()),
              "copying rows' flags");
  counts.awaited = true;
  queue->DeliverLater([&counts, host, finite] {
    std::transform(host, host + finite.size(), finite.begin(),
                   [](uint32_t count) { return count == 0 ? 1 : 0; });
    counts.awaited = false;
  });
}

}  // namespace engram::cuda
