// What kernels make of the device's rates.
#pragma once

namespace engram {

// Prints what Workloads take, as shares of the rate of copies in this run; a
// line that begins with "measured: " for each. Ends with 0, or 1 if something
// failed.
int TellWorkloads();

// Runs each once, where a profiler that begins switched off looks, and prints
// "counted: BYTES of NAME" in their order.
int RunWorkloadsOnce();

}  // namespace engram
