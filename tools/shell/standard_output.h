// Standard output that is not lost in silence: a program that could not print
// what it had to print (a full disk, a closed descriptor) says so and fails.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram {

// Writes `text` to standard output at once. After a failure, which is kept,
// nothing more is written. Not to be called by two threads at a time.
void Print(absl::string_view text);

// OK, or why a Print() failed: "cannot write to standard output: No space left
// on device".
absl::Status PrintStatus();

// The rest of main(): runs `program` and returns the exit code that it
// returned, or if something could not be printed: 1, after saying so on
// standard error under `name`; quietly 141 (as shells have it: 128 + SIGPIPE)
// if the reader went away and SIGPIPE is ignored.
int RunProgram(absl::string_view name, const std::function<int()>& program);

}  // namespace engram
