#include "server/device_choice.h"

#include <algorithm>
#include <tuple>

namespace engram {
namespace {

bool HasRoom(const DeviceRoom& device) {
  return device.is_open && device.slots > 0;
}

bool IsWorse(const DeviceRoom& left, const DeviceRoom& right) {
  const auto worth = [](const DeviceRoom& device) {
    return std::tuple(device.is_open, std::max(device.empty_slots, 0),
                      device.slots);
  };
  return worth(left) < worth(right);
}

}  // namespace

int ChooseDevice(absl::Span<const DeviceRoom> devices,
                 std::optional<int> holder) {
  const auto best = std::max_element(devices.begin(), devices.end(), &IsWorse);
  if (holder.has_value() && devices[*holder].is_open &&
      (HasRoom(devices[*holder]) ||
       std::none_of(devices.begin(), devices.end(), &HasRoom))) {
    return *holder;
  }
  return static_cast<int>(best - devices.begin());
}

}  // namespace engram
