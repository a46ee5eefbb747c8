// Sequences with slots of a ScriptedModel, and what follows their steps,
// without an engine.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "server/sequence_progress.h"
#include "tests/server/test_engine.h"

namespace engram {

class StartedSequences : public ::testing::Test {
 protected:
  // One that has its slot and was told so; `room` is for so many events.
  std::unique_ptr<Sequence> Start(Request request, size_t room = 8) {
    auto sequence =
        std::make_unique<Sequence>(std::move(request), nullptr,
                                   std::make_shared<TokenStream>(room, [] {}));
    sequence->arrival = clock_.Now();
    EXPECT_TRUE(*states_.TryLoad(sequence.get()));
    sequence->start_time = clock_.Now();
    Prepare(sequence.get(), script_.vocabulary_size());
    outbox_.Tell(sequence->stream, MakeStarted(*sequence));
    return sequence;
  }

  FakeClock clock_;
  Script script_{16};
  ScriptedModel model_{&script_, TestEngineOptions().model};
  SessionStore sessions_{{}, &clock_};
  StateKeeper states_{&model_.states(), CapacityOf(model_.info()),
                      sessions_.AddModel("m", CapacityOf(model_.info())),
                      &sessions_};
  Delivery delivery_{0};
  EngineOutbox outbox_{&delivery_};
  SequenceEnds ends_{"m",      &states_, &sessions_,
                     &outbox_, &clock_,  [](const RequestSummary&) {}};
  SequenceProgress progress_{&outbox_, /*answer_bytes=*/1024};
};

}  // namespace engram
