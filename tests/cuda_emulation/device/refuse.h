// Refuse: how the emulation ends a process that does what a device forbids.
#pragma once

#include <source_location>

namespace engram::emulation {

// Writes where, which thread of which block, and why, and aborts.
[[noreturn]] __attribute__((format(printf, 2, 3))) void Refuse(
    const std::source_location& site, const char* format, ...);

}  // namespace engram::emulation
