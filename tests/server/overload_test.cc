// Ten times as many requests as can be served: what is accepted must still be
// served in time. On a clock and a model whose steps take a fixed time, so that
// the figures are the same everywhere.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <string>
#include <variant>

#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tools/status/retry_after.h"

namespace engram {
namespace {

constexpr absl::Duration kGoodFirstToken = absl::Milliseconds(500);
constexpr absl::Duration kRun = absl::Seconds(20);

struct Figures {
  double good_per_second = 0;  // first token in time
  double answered_per_second = 0;
  int64_t accepted = 0;
  int64_t refused = 0;
};

struct Load {
  int prompt_tokens = 0;
  int output_tokens = 0;
  int slots = 0;
};

// A server of its own for each run.
class Overload {
 public:
  explicit Overload(const Load& load) : load_(load), engine_(Options(load)) {
    engine_.model.SetDuringStep([this] {
      int tokens = 10;
      for (const auto& row : engine_.model.last_step()) tokens += row.tokens;
      engine_.clock.Advance(tokens * absl::Microseconds(100));
    });
  }

  // Arrivals at `rate` a second for kRun, whatever becomes of them.
  Figures Run(double rate) {
    const absl::Time begin = engine_.clock.Now();
    const absl::Duration gap = absl::Seconds(1) / rate;
    absl::Time next = begin;
    while (engine_.clock.Now() < begin + kRun) {
      for (; next <= engine_.clock.Now(); next += gap) Arrive();
      if (!engine_.engine.RunOnce()) {
        engine_.clock.Set(std::max(next, engine_.clock.Now()));
      }
      ReadAll();
    }
    const double seconds = absl::ToDoubleSeconds(engine_.clock.Now() - begin);
    figures_.good_per_second = good_ / seconds;
    figures_.answered_per_second = answered_ / seconds;
    return figures_;
  }

 private:
  struct Call {
    absl::Time arrival;
    Reader reader;
    bool begun = false;
  };

  static TestEngineOptions Options(const Load& load) {
    TestEngineOptions options;
    options.model = {.slots = load.slots,
                     .max_batch_tokens = 512,
                     .max_logits_rows = load.slots + 64};
    options.admission.max_queue_time = absl::Seconds(2);
    return options;
  }

  void Arrive() {
    auto admitted = engine_.admission.Submit(TestEngine::Generate(
        Tokens(load_.prompt_tokens, 1), load_.output_tokens));
    if (!admitted.ok()) {
      EXPECT_TRUE(RetryAfter(admitted.status()).has_value());
      ++figures_.refused;
      return;
    }
    ++figures_.accepted;
    calls_.push_back(
        {engine_.clock.Now(),
         Reader(std::get<std::shared_ptr<TokenStream>>(*admitted))});
  }

  void ReadAll() {
    for (auto call = calls_.begin(); call != calls_.end();) {
      call->reader.Read();
      if (!call->begun && !call->reader.tokens().empty()) {
        call->begun = true;
        good_ += engine_.clock.Now() - call->arrival <= kGoodFirstToken;
      }
      answered_ += call->reader.ended() && call->reader.status().ok();
      call = call->reader.ended() ? calls_.erase(call) : std::next(call);
    }
  }

  const Load load_;
  TestEngine engine_;
  std::list<Call> calls_;
  Figures figures_;
  int64_t good_ = 0;
  int64_t answered_ = 0;
};

class OverloadTest : public ::testing::TestWithParam<Load> {};

TEST_P(OverloadTest, LeavesMostOfTheGoodputOfAServerAtItsCapacity) {
  const double capacity = Overload(GetParam()).Run(1e4).answered_per_second;
  const Figures at_capacity = Overload(GetParam()).Run(0.95 * capacity);
  const Figures overloaded = Overload(GetParam()).Run(10 * capacity);
  RecordProperty("capacity", std::to_string(capacity));
  EXPECT_GE(at_capacity.good_per_second, 0.8 * capacity);
  EXPECT_GE(overloaded.good_per_second, 0.8 * at_capacity.good_per_second)
      << "capacity " << capacity << ", good " << at_capacity.good_per_second
      << " and " << overloaded.good_per_second << ", accepted "
      << overloaded.accepted << ", refused " << overloaded.refused;
  EXPECT_GT(overloaded.refused, 5 * overloaded.accepted);
}

INSTANTIATE_TEST_SUITE_P(Loads, OverloadTest,
                         ::testing::Values(Load{64, 32, 64}, Load{16, 100, 8},
                                           Load{500, 2, 64}, Load{8, 8, 4}));

}  // namespace
}  // namespace engram
