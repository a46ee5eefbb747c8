// write() for whoever wants all of it written, and to know why it was not.
#pragma once

#include "absl/strings/string_view.h"

namespace engram {

// Returns 0, or an errno: then a part may have been written. Waits if
// `descriptor` is non-blocking.
int WriteAll(int descriptor, absl::string_view text);

}  // namespace engram
