// A session store by itself: two models, a clock that is turned by hand, and no
// engine.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/session_store.h"
#include "tests/support/fake_clock.h"

namespace engram {

inline constexpr size_t kStateBytes = 10000;  // of both models

class StoreTest : public ::testing::Test {
 protected:
  // Made when it is first asked for, with the limits there are then.
  SessionStore& store() {
    if (store_ == nullptr) {
      store_ = std::make_unique<SessionStore>(limits_, &clock_);
      store_->AddModel("m", {.state_bytes = kStateBytes});
      store_->AddModel("other", {.state_bytes = kStateBytes});
    }
    return *store_;
  }

  static void ExpectCode(const absl::Status& status, absl::StatusCode code,
                         const std::string& part) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(part));
  }

  FakeClock clock_;
  SessionLimits limits_;
  std::unique_ptr<SessionStore> store_;
};

}  // namespace engram
