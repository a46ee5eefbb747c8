// For builds with ThreadSanitizer: tells it what absl::Mutex orders.
//
// A distribution's abseil is built without that sanitizer, which then sees
// neither locks nor what they order and reports races where there are none.
// These definitions take the place of the shared library's, call it, and say
// what happened. Only what our programs call is here.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "kernels/status.h"

namespace {

// The shared library's own version of the function that this is called in.
template <typename Function>
Function Original(void* here) {
  Dl_info info;
  ENGRAM_CHECK(dladdr(here, &info) != 0 && info.dli_sname != nullptr);
  void* const original = dlsym(RTLD_NEXT, info.dli_sname);
  ENGRAM_CHECK(original != nullptr);
  return reinterpret_cast<Function>(original);
}

// An address inside of the function that calls it.
__attribute__((noinline)) void* Here() { return __builtin_return_address(0); }

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto original = Original<void (*)(Mutex*)>(Here());
  original(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto original = Original<void (*)(Mutex*)>(Here());
  __tsan_release(this);
  original(this);
}

void Mutex::Await(const Condition& condition) {
  static const auto original =
      Original<void (*)(Mutex*, const Condition&)>(Here());
  __tsan_release(this);
  original(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition,
                             absl::Duration timeout) {
  static const auto original =
      Original<bool (*)(Mutex*, const Condition&, absl::Duration)>(Here());
  __tsan_release(this);
  const bool held = original(this, condition, timeout);
  __tsan_acquire(this);
  return held;
}

ABSL_NAMESPACE_END
}  // namespace absl
