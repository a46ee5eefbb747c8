// How slots are numbered where several devices run one model: through all of
// them, so that a slot's number says whose it is. The first device's slots have
// the numbers that they have in its StatePool.
#pragma once

namespace engram {

// Of one device at most (--slots).
inline constexpr int kMostSlots = 1 << 16;

constexpr int FirstSlotOf(int device) { return device * kMostSlots; }
// REQUIRES: slot >= 0.
constexpr int DeviceOfSlot(int slot) { return slot / kMostSlots; }

}  // namespace engram
