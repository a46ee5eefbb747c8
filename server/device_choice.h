// Which of a model's devices runs a request.
//
// Pure.
#pragma once

#include <optional>

#include "absl/types/span.h"

namespace engram {

// What a request would find on a device, those that are on their way there
// counted as if they had come: below 0, so many wait for a slot.
struct DeviceRoom {
  bool is_open = true;  // it takes requests
  int empty_slots = 0;  // that hold no state
  int slots = 0;        // that no request runs in
};

// The index of the device that has the session's state in a slot, `holder`,
// unless it has no room and another has. Otherwise, and without a holder, the
// one with the most slots that hold nothing, so that sessions are spread and
// none has to make way; then the one with the most that no request runs in.
// The first of those that are alike. One that is not open only if none is.
// REQUIRES: there is one.
int ChooseDevice(absl::Span<const DeviceRoom> devices,
                 std::optional<int> holder);

}  // namespace engram
