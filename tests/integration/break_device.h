// BreakDevice: a fault of the device, for tests of what becomes of a process.
#pragma once

namespace engram {

// The current device fails, now or soon, and does nothing for this process any
// more: a kernel of it writes where no memory is. An emulated one says so.
void BreakDevice();

}  // namespace engram
