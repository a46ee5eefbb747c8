#include "tests/cuda_emulation/device/emulation.h"
#include "tests/integration/break_device.h"

namespace engram {

// A kernel that does what a real one is made to do would end the process.
void BreakDevice() { emulation::PlantError(1, cudaErrorIllegalAddress); }

}  // namespace engram
