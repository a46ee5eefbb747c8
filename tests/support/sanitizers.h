// Which sanitizer this build has, of GCC or of clang.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define ENGRAM_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ENGRAM_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define ENGRAM_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ENGRAM_THREAD_SANITIZER 1
#endif
#endif

namespace engram {

#ifdef ENGRAM_THREAD_SANITIZER
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#ifdef ENGRAM_ADDRESS_SANITIZER
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif
// Sanitizers have heaps of their own and all of the address space, and make a
// run many times as slow.
inline constexpr bool kSanitized = kAddressSanitizer || kThreadSanitizer;

}  // namespace engram
