// Where the emulation counts what it does (emulation.h tells it to tests).
#pragma once

#include "tests/cuda_emulation/device/emulation.h"

namespace engram::emulation {

Counts& counting();

}  // namespace engram::emulation
