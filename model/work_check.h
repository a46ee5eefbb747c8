// WorkCheck: what long work asks now and then, whether anybody still wants it.
//
// Not thread-safe; one per piece of work.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "absl/status/status.h"

namespace engram {

class WorkCheck {
 public:
  // OK: go on; else why the work is to end, which is what it then returns.
  using Ask = std::function<absl::Status()>;

  explicit WorkCheck(Ask ask) : ask_(std::move(ask)) {}

  // Another `bytes` are done. Asks once every kBytes, which is some
  // milliseconds of tokenising.
  absl::Status Done(size_t bytes) {
    done_ += bytes;
    if (done_ < kBytes) return absl::OkStatus();
    done_ = 0;
    return ask_();
  }

 private:
  static constexpr size_t kBytes = 16 << 10;

  const Ask ask_;
  size_t done_ = 0;
};

}  // namespace engram
