#include "tests/cuda_emulation/device/devices.h"

#include <algorithm>

#include "tests/cuda_emulation/device/emulation.h"

namespace engram::emulation {
namespace {

thread_local int current_device = 0;

}  // namespace

int DeviceCount() { return std::clamp(options().devices, 0, kMostDevices); }

bool IsDevice(int device) { return device >= 0 && device < DeviceCount(); }

int CurrentDevice() { return current_device; }

void SetCurrentDevice(int device) { current_device = device; }

}  // namespace engram::emulation
