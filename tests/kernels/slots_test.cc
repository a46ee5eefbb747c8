// Rows whose state goes to another slot than it came from, and rows without
// tokens: every operation that keeps a state does with them as it must, for
// every back end that this build has.
#include <functional>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using SlotsTest = BackendUnderTestSuite;

constexpr int kLong = 70;  // tokens, more than any state has of them
constexpr int kShort = 2;  // and fewer
constexpr int kTokens = kLong + kShort + 1;
constexpr int64_t kSlots = 6;

// An operation with the inputs of kTokens tokens.
struct Operation {
  const char* name;
  int64_t channels;
  int64_t state_floats;  // of a slot
  // Updates the states of all slots.
  std::function<Floats(Backend&, SlotRows, Floats&)> run;
};

template <class Case>
Operation Of(const char* name, const Case& operation, int64_t channels) {
  return {name, channels, operation.StateFloats(),
          [operation](Backend& backend, SlotRows rows, Floats& states) {
            return operation.Run(backend, rows, states);
          }};
}

std::vector<Operation> Operations() {
  const ConvCase conv(67, 4);
  const Floats x = RandomFloats(5, kTokens * 67);
  return {
      {"CausalConv1d", 67, conv.WindowFloats(),
       [=](Backend& backend, SlotRows rows, Floats& states) {
         return conv.Run(backend, rows, x, states);
       }},
      Of("SelectiveScan", ScanCase(67, 5, kTokens), 67),
      Of("SelectiveScan of many states", ScanCase(19, 70, kTokens), 19),
      Of("SsdScan", SsdScanCase(3, 1, 17, 5, kTokens), 51),
      Of("SsdScan of many states", SsdScanCase(2, 1, 7, 130, kTokens), 14),
      Of("ShiftMultiply", ShiftMultiplyCase(67, 64, kTokens), 67),
      Of("DiagonalScan", DiagonalScanCase(67, 5, kTokens), 67),
      Of("DiagonalScan of many pairs", DiagonalScanCase(19, 40, kTokens), 19)};
}

void ExpectSlot(const Floats& states, int slot, const Floats& expected,
                int expected_slot, int64_t floats) {
  SCOPED_TRACE(testing::Message() << "slot " << slot);
  ExpectSameBits(Slice(states, slot, 1, floats),
                 Slice(expected, expected_slot, 1, floats));
}

TEST_P(SlotsTest, AStateThatGoesToAnotherSlotIsTheSameAndTheOldOneSurvives) {
  for (const Operation& operation : Operations()) {
    SCOPED_TRACE(operation.name);
    const Floats before = RandomFloats(6, kSlots * operation.state_floats);
    Floats in_place = before;
    const Floats expected = operation.run(
        backend(),
        std::vector<SlotRow>{
            {0, 0, kLong}, {1, kLong, kShort}, {2, kLong + kShort, 1}},
        in_place);
    Floats apart = before;
    const Floats y = operation.run(
        backend(),
        std::vector<SlotRow>{
            {0, 0, kLong, 5}, {1, kLong, kShort, 4}, {2, kLong + kShort, 1, 3}},
        apart);
    ExpectSameBits(y, expected);
    for (const int slot : {0, 1, 2}) {
      ExpectSlot(apart, slot, before, slot, operation.state_floats);
      ExpectSlot(apart, 5 - slot, in_place, slot, operation.state_floats);
    }
  }
}

TEST_P(SlotsTest, RowsWithoutTokensLeaveOrCopyTheirState) {
  for (const Operation& operation : Operations()) {
    SCOPED_TRACE(operation.name);
    const Floats before = RandomFloats(6, kSlots * operation.state_floats);
    Floats alone = before;
    const Floats expected =
        operation.run(backend(), std::vector<SlotRow>{{1, 0, kTokens}}, alone);
    Floats states = before;
    // Slot 0 is for all who fill up a step.
    const Floats y = operation.run(backend(),
                                   std::vector<SlotRow>{{0, 0, 0},
                                                        {1, 0, kTokens},
                                                        {0, kTokens, 0},
                                                        {2, kTokens, 0, 3},
                                                        {0, kTokens, 0}},
                                   states);
    ExpectSameBits(y, expected);
    ExpectSlot(states, 1, alone, 1, operation.state_floats);
    for (const int slot : {0, 2, 4, 5}) {
      ExpectSlot(states, slot, before, slot, operation.state_floats);
    }
  }
}

TEST_P(SlotsTest, CopiesOfAStateThatWasNotFedAreTheState) {
  for (const Operation& operation : Operations()) {
    SCOPED_TRACE(operation.name);
    const Floats before = RandomFloats(6, kSlots * operation.state_floats);
    Floats states = before;
    (void)operation.run(
        backend(),
        std::vector<SlotRow>{{2, 0, 0, 3}, {2, 0, 0, 4}, {1, 0, kTokens}},
        states);
    ExpectSlot(states, 3, before, 2, operation.state_floats);
    ExpectSlot(states, 4, before, 2, operation.state_floats);
  }
}

TEST_P(SlotsTest, ShiftedInputsLieInARingByPosition) {
  const int64_t channels = 3, taps = 8, tokens = 2;
  const ShiftMultiplyCase shift(channels, taps, tokens);
  const Floats before = RandomFloats(6, shift.StateFloats());
  DeviceShares states(backend(), before, shift.StateFloats());
  DeviceFloats k(backend(), shift.k), v(backend(), shift.v);
  DeviceFloats filter(backend(), shift.filter);
  DeviceFloats p(backend(), Floats(tokens * channels));
  ShiftMultiplyArguments arguments;
  arguments.channels = channels;
  arguments.taps = taps;
  arguments.k = {k.data(), channels};
  arguments.v = {v.data(), channels};
  arguments.filter = filter.data();
  arguments.shift_state = states.shares();
  arguments.p = {p.data(), channels};
  // Positions 13 and 14 have places 6 and 0 of 7.
  const SlotRow row = {.tokens = tokens, .position = 13};
  backend().ShiftMultiply(Prepare(backend(), {row}), arguments);
  const Floats after = states.ToHost();
  ExpectSameBits(Slice(after, 6, 1, channels), Slice(shift.k, 0, 1, channels));
  ExpectSameBits(Slice(after, 0, 1, channels), Slice(shift.k, 1, 1, channels));
  ExpectSameBits(Slice(after, 1, 5, channels), Slice(before, 1, 5, channels));
}

INSTANTIATE_TEST_SUITE_P(All, SlotsTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace engram
