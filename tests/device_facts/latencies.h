// What one thing takes that the next one waits for, in cycles of a
// multiprocessor's clock; 0 if it fails.
#pragma once

namespace engram {

double MmaCycles();      // a matrix product of a warp, into the same sums
double BarrierCycles();  // of a block of 256 threads

}  // namespace engram
