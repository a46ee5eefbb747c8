// The engine under random clients (simulation.h), many seeds of it.
//
//     engine_simulation_test                    the default seeds
//     engine_simulation_test --seed=17          one of them again
//
// ENGRAM_SIMULATION_SEED is another way to name one seed, and
// ENGRAM_SIMULATION_SEEDS how many there are, counted from 1.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "tests/simulation/simulation.h"
#include "tests/support/sanitizers.h"

namespace engram {
namespace {

std::optional<uint64_t> only_seed;

// Sanitizers make a run many times as slow: they get fewer seeds.
constexpr uint64_t kAllSeeds = 200;
constexpr uint64_t kSeeds = kSanitized ? 20 : kAllSeeds;

uint64_t Number(absl::string_view name, absl::string_view text) {
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) {
    std::cerr << name << ": \"" << text << "\" is not a number\n";
    std::exit(2);
  }
  return number;
}

// True if the run of this seed went well.
bool RunSeed(uint64_t seed, SimulationCounts* counts) {
  SCOPED_TRACE("replay with --seed=" + std::to_string(seed));
  counts->Add(Simulation(seed).Run());
  if (!::testing::Test::HasFailure()) return true;
  std::cout << "failed: seed " << seed << "; replay with --seed=" << seed
            << "\n";
  return false;
}

void Print(const SimulationCounts& counts) {
  std::cout << counts.steps << " steps, " << counts.replays << " replays, "
            << counts.resumed << " resumed, " << counts.forks << " forks, "
            << counts.checkpoints << " checkpoints, " << counts.from_checkpoints
            << " from checkpoints, " << counts.departed << " departed, "
            << counts.parked << " steps with parked ones, "
            << counts.with_spares << " steps with spare slots, "
            << counts.overdue << " overdue, " << counts.told
            << " told to read, " << counts.moves << " moves, " << counts.held
            << " steps with held slots, " << counts.over_quota
            << " over a quota\n";
  for (const auto& [code, count] : counts.ends) {
    std::cout << "  ended " << code << ": " << count << "\n";
  }
  for (const auto& [code, count] : counts.refusals) {
    std::cout << "  refused " << code << ": " << count << "\n";
  }
  for (const auto& [code, count] : counts.fork_refusals) {
    std::cout << "  fork refused " << code << ": " << count << "\n";
  }
  for (const auto& [code, count] : counts.checkpoint_refusals) {
    std::cout << "  checkpoint refused " << code << ": " << count << "\n";
  }
}

TEST(EngineSimulation, HoldsItsPromisesUnderRandomClients) {
  SimulationCounts counts;
  if (only_seed.has_value()) {
    RunSeed(*only_seed, &counts);
    Print(counts);
    return;
  }
  const char* chosen = std::getenv("ENGRAM_SIMULATION_SEEDS");
  const uint64_t seeds =
      chosen == nullptr ? kSeeds : Number("ENGRAM_SIMULATION_SEEDS", chosen);
  std::cout << "seeds 1 to " << seeds
            << (kSanitized ? " (fewer: built with a sanitizer)" : "")
            << "; ENGRAM_SIMULATION_SEEDS sets another number\n";
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    if (!RunSeed(seed, &counts)) return;
  }
  Print(counts);
  if (seeds < kSeeds) return;
  // What a run is there for came more than once a seed.
  const auto often = static_cast<int64_t>(seeds);
  EXPECT_GT(counts.replays, often);
  EXPECT_GT(counts.resumed, often);
  EXPECT_GT(counts.forks, often);
  EXPECT_GT(counts.checkpoints, often);
  EXPECT_GT(counts.from_checkpoints, often);
  EXPECT_GT(counts.departed, often);
  EXPECT_GT(counts.parked, often);
  EXPECT_GT(counts.with_spares, often);
  EXPECT_GT(counts.overdue, often);
  EXPECT_GT(counts.told, often);
  EXPECT_GT(counts.moves, often);
  EXPECT_GT(counts.held, often);
  EXPECT_GT(counts.over_quota, often);
  if (seeds < kAllSeeds) return;
  // And every way to end and to be refused was taken, the rarest too.
  for (const char* code : {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL",
                           "RESOURCE_EXHAUSTED", "UNAVAILABLE"}) {
    EXPECT_GT(counts.ends[code], 0) << code;
  }
  for (const char* code :
       {"ABORTED", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT",
        "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}) {
    EXPECT_GT(counts.refusals[code], 0) << code;
  }
  for (const char* code :
       {"ALREADY_EXISTS", "NOT_FOUND", "RESOURCE_EXHAUSTED"}) {
    EXPECT_GT(counts.fork_refusals[code], 0) << "fork " << code;
  }
  for (const char* code : {"ALREADY_EXISTS", "FAILED_PRECONDITION", "NOT_FOUND",
                           "RESOURCE_EXHAUSTED"}) {
    EXPECT_GT(counts.checkpoint_refusals[code], 0) << "checkpoint " << code;
  }
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* seed = std::getenv("ENGRAM_SIMULATION_SEED")) {
    engram::only_seed = engram::Number("ENGRAM_SIMULATION_SEED", seed);
  }
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      engram::only_seed = engram::Number("--seed", argv[++i]);
    } else if (absl::ConsumePrefix(&argument, "--seed=")) {
      engram::only_seed = engram::Number("--seed", argument);
    } else {
      std::cerr << "unknown argument \"" << argument << "\"\n";
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
