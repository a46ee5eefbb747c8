#include "tests/cuda_emulation/device/kernel_run.h"

#include <utility>

#include "kernels/cpu/flush_denormals.h"
#include "tests/cuda_emulation/device/block.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/sanitizer.h"
#include "tests/cuda_emulation/device/traffic.h"
#include "tests/cuda_emulation/device/visit_order.h"

namespace engram::emulation {
namespace {

// Another order for each launch.
uint64_t NextSeed() {
  static uint64_t launches = 0;
  return options().seed + 0x9e3779b97f4a7c15 * ++launches;
}

uint64_t Blocks(const dim3& grid) { return uint64_t{grid.x} * grid.y * grid.z; }

}  // namespace

KernelRun::KernelRun(std::shared_ptr<const KernelLaunch> kernel, bool in_order)
    : kernel_(std::move(kernel)), in_order_(in_order), seed_(NextSeed()) {}

KernelRun::~KernelRun() = default;

uint3 KernelRun::Index(uint64_t i) const {
  const dim3& grid = kernel_->grid;
  return {static_cast<unsigned>(i % grid.x),
          static_cast<unsigned>(i / grid.x % grid.y),
          static_cast<unsigned>(i / grid.x / grid.y)};
}

void KernelRun::RunEarly(int64_t threads) {
  const cpu::ScopedFlushDenormals flush;
  const Unseen unseen;
  const dim3& size = kernel_->block;
  const int64_t of_block = int64_t{size.x} * size.y * size.z;
  const uint64_t count = Blocks(kernel_->grid);
  const VisitOrder order(count, seed_);
  while (early_.size() < count && threads >= of_block) {
    const uint64_t at = order.at(early_.size());
    threads -= of_block;
    early_.push_back(std::make_unique<Block>(*kernel_, in_order_));
    early_.back()->Begin(Index(at), seed_ + at);
    early_.back()->RunToGridWait();
  }
}

void KernelRun::Run() {
  const cpu::ScopedFlushDenormals flush;
  Release(&kernel_order.complete);
  if (options().kernels_run) RunBlocks();
  EndKernelTraffic(*kernel_);
  Acquire(&kernel_order.ended);
}

void KernelRun::RunBlocks() {
  const Unseen unseen;
  for (const auto& block : early_) block->Run();
  const uint64_t count = Blocks(kernel_->grid);
  if (early_.size() < count) {
    const VisitOrder order(count, seed_);
    Block block(*kernel_, in_order_);
    for (uint64_t i = early_.size(); i < count; ++i) {
      const uint64_t at = order.at(i);
      block.Begin(Index(at), seed_ + at);
      block.Run();
    }
  }
}

}  // namespace engram::emulation
