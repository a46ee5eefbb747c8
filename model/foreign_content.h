// What stands in a file in place of what is expected there, and what to do about
// it: pages, pointers and formats that people come across often.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace engram {

// As many bytes of a file's start as ForeignContent() looks at.
inline constexpr size_t kForeignContentBytes = 1024;

// A clause such as "is a pointer of git-lfs, not the file itself; fetch it with
// `git lfs pull`" for the start of a file, or "" if it is nothing known.
std::string ForeignContent(std::string_view start);

// What `folder` is instead of a model folder, told by what is in it, with the
// next step: "has "pytorch_model.bin"; ..."; "" if nothing in it is known. Looks
// at the names of files only.
std::string ForeignFolder(const std::string& folder);

// NOT_FOUND unless there is a folder of this name, with what is there instead.
absl::Status CheckFolder(const std::string& folder);

}  // namespace engram
