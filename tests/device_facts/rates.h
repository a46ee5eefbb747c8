// What the device can do at best.
#pragma once

namespace engram {

// TB/s, read and written, of copies of 4 GB or what there is room for; 0 if
// they fail.
double CopyRate();

// Prints rates and latencies. Ends with 0, or 1 if something failed.
int TellRates();

}  // namespace engram
