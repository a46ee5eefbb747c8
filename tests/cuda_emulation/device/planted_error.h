// The error that a test has planted (emulation.h).
#pragma once

namespace engram::emulation {

// To be asked once for each kernel, copy and fill that runs: whether it is the
// one that fails. The error then stays.
bool FailsNow();

}  // namespace engram::emulation
