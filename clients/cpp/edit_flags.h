// Edits of layers as a command line has them: "1:cut-tap:2".
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engram/v1/inspection.pb.h"

namespace engram::client {

// LAYER and what is done to it, parted by colons. INVALID_ARGUMENT says what
// there is.
//   cut-tap:TAP
//   local-scan
//   remove-write:POSITION
//   replace-write:POSITION:TOKEN
//   keep-only:POSITION+POSITION+...  "before" among them: and what was before
absl::StatusOr<v1::Edit> ParseEdit(absl::string_view text);

}  // namespace engram::client
