// Refuse: how the emulation ends a process that does what a device forbids.
#pragma once

#include "emulated_site.h"

namespace engram::emulation {

// Writes where, which thread of which block, and why, and aborts.
[[noreturn]] __attribute__((format(printf, 2, 3))) void Refuse(
    const Site& site, const char* format, ...);

}  // namespace engram::emulation
