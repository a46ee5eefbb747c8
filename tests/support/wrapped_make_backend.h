// For programs that the linker (--wrap, engram_wrap_make_backend in
// tests/CMakeLists.txt) lets call a function of theirs in the place of
// MakeBackend(). Which back end they run on is said there.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace engram {

// The mangled name of MakeBackend(const BackendOptions&), as --wrap has it.
#define ENGRAM_MAKE_BACKEND "_ZN6engram11MakeBackendERKNS_14BackendOptionsE"

// What everyone calls who calls MakeBackend(): the program's own.
absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) asm("__wrap_" ENGRAM_MAKE_BACKEND);
// MakeBackend() itself.
absl::StatusOr<std::unique_ptr<Backend>> RealMakeBackend(
    const BackendOptions& options) asm("__real_" ENGRAM_MAKE_BACKEND);

#undef ENGRAM_MAKE_BACKEND

}  // namespace engram
