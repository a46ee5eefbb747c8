// A back end that counts what is copied from place to place on its device.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "tests/support/forwarding_backend.h"

namespace engram {

class CopyingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  int copies() const { return copies_; }

  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    ++copies_;
    return ForwardingBackend::Copy(target, source, bytes);
  }

 private:
  int copies_ = 0;
};

}  // namespace engram
