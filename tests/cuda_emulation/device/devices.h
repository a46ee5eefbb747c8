// Which devices there are, and which of them is current on a thread.
#pragma once

namespace engram::emulation {

inline constexpr int kMostDevices = 8;

// options().devices, of which there can be kMostDevices.
int DeviceCount();
bool IsDevice(int device);
// Of this thread; the first one until another is set.
int CurrentDevice();
void SetCurrentDevice(int device);

}  // namespace engram::emulation
