// engram-server on a device that fails: the program itself, but for its
// MakeBackend().
//
// The environment's FAILING_CALL is the number of each back end's call that is
// the first to fail, as FaultyBackend counts them.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "kernels/status.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/wrapped_make_backend.h"

namespace engram {
namespace {

int64_t FailingCall() {
  const char* const text = std::getenv("FAILING_CALL");
  int64_t call = 0;
  ENGRAM_CHECK(text != nullptr && absl::SimpleAtoi(text, &call));
  return call;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) {
  static std::vector<std::unique_ptr<Backend>> real;
  ENGRAM_ASSIGN_OR_RETURN(real.emplace_back(), RealMakeBackend(options));
  auto faulty = std::make_unique<FaultyBackend>(real.back().get());
  faulty->FailFrom(FailingCall());
  return faulty;
}

}  // namespace engram
