#include <cstdlib>

#include "tests/cuda_emulation/device/counting.h"
#include "tests/cuda_emulation/device/emulation.h"

namespace engram::emulation {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

}  // namespace

Options& options() {
  static Options options = {
      .devices =
          static_cast<int>(FromEnvironment("ENGRAM_EMULATION_DEVICES", 1)),
      .seed = FromEnvironment("ENGRAM_EMULATION_SEED", 1),
      .early_threads = static_cast<int64_t>(
          FromEnvironment("ENGRAM_EMULATION_EARLY_THREADS", 0)),
      .fused_mma = FromEnvironment("ENGRAM_EMULATION_FUSED_MMA", 0) != 0,
      .fails_at =
          static_cast<int64_t>(FromEnvironment("ENGRAM_EMULATION_FAILS_AT", 0)),
      .at_once = FromEnvironment("ENGRAM_EMULATION_AT_ONCE", 0) != 0,
      .cublaslt = FromEnvironment("ENGRAM_EMULATION_CUBLASLT", 1) != 0,
  };
  return options;
}

std::vector<std::pair<void*, size_t>>& poisoned_at_replay() {
  static auto* memory = new std::vector<std::pair<void*, size_t>>;
  return *memory;
}

Counts& counting() {
  static Counts counts;
  return counts;
}

Counts counts() { return counting(); }

}  // namespace engram::emulation
