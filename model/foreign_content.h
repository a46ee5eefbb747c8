// What stands in a file in place of what is expected there, and what to do
// about it: pages, pointers and formats that people come across often.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace engram {

// A clause such as "is a pointer of git-lfs, not the file itself; fetch it with
// `git lfs pull`" for a file that begins so, or "" if it is nothing known.
// Looks at the first kilobyte only.
std::string ForeignContent(std::string_view content);

// NOT_FOUND for a folder without a file that every model has: that there is no
// such folder, or what is in it instead, told by the names of its files, with
// the next step: "has "pytorch_model.bin"; ... (`what_is_not_there`)"; if
// nothing in it is known, `alone`.
absl::Status NoModelFolder(const std::string& folder, const std::string& alone,
                           const std::string& what_is_not_there);

}  // namespace engram
