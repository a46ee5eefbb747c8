#include "clients/cpp/limits_bench.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/human.h"
#include "clients/cpp/program.h"
#include "clients/cpp/progress_display.h"
#include "kernels/backend.h"
#include "kernels/cpu/machine_limits.h"
#include "tools/shell/standard_output.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr char kCommand[] = "engram-bench limits";

constexpr char kHelp[] =
    "engram-bench limits: measures what this machine's processors can do at\n"
    "most, by the instructions that the kernels use: a prompt is read no "
    "faster\n"
    "than its multiply-adds allow, and a token is not decoded before the\n"
    "weights have been read from memory.\n\n"
    "Usage: engram-bench limits [flags]\n\n"
    "Examples:\n"
    "  engram-bench limits\n"
    "  engram-bench limits --threads 1 --json\n\n"
    "Flags:\n%s\n"
    "Exit codes: 0 done; 1 something could not be measured; 2 wrong use.\n";

struct Options {
  int64_t threads = 0;
  int64_t memory = int64_t{1} << 30;
  int64_t rounds = 20;
  bool json = false;
  bool help = false;
};

void AddFlags(Options* options, FlagSet* flags) {
  flags->AddCount("threads", "that work at once (default: as many as it has)",
                  1, 1024, &options->threads);
  flags->AddCount("memory",
                  "bytes that are read in a round; more than all caches hold "
                  "(default: 1073741824)",
                  int64_t{1} << 20, int64_t{1} << 40, &options->memory);
  flags->AddCount("rounds", "of which the best is told (default: 20)", 1, 10000,
                  &options->rounds);
  flags->AddSwitch("json", "print JSON", &options->json);
  flags->AddSwitch("help", "print this help", &options->help);
}

struct Limits {
  int threads = 0;
  double read_rate = 0;          // bytes a second
  double multiply_add_rate = 0;  // floating-point operations a second
};

// Of the fastest round: others that run on the machine make one slower, and
// never faster.
absl::Duration FastestRound(int64_t rounds, absl::FunctionRef<void()> round) {
  absl::Duration fastest = absl::InfiniteDuration();
  for (int64_t i = 0; i < rounds; ++i) {
    const absl::Time begin = absl::Now();
    round();
    fastest = std::min(fastest, absl::Now() - begin);
  }
  return fastest;
}

absl::StatusOr<Limits> MeasureLimits(const Options& options) {
  BackendOptions cpu;
  cpu.kind = BackendKind::kCpu;
  ENGRAM_ASSIGN_OR_RETURN(cpu.pool,
                          MakeThreadPool(static_cast<int>(options.threads)));
  cpu::ThreadPool* const threads = cpu.pool.get();
  // In large pages, as weights are, and all of it there.
  ENGRAM_ASSIGN_OR_RETURN(const auto backend, MakeBackend(cpu));
  ENGRAM_ASSIGN_OR_RETURN(const auto memory, backend->Allocate(options.memory));
  const absl::Span<const float> values(memory->floats(),
                                       memory->bytes() / sizeof(float));
  Limits limits;
  limits.threads = threads->threads();
  ProgressDisplay display;
  display.Show(absl::StrCat(kCommand, ": multiply-adds"));
  int64_t operations = 0;
  const absl::Duration computed = FastestRound(
      options.rounds, [&] { operations = cpu::MultiplyAndAdd(threads); });
  limits.multiply_add_rate =
      static_cast<double>(operations) / absl::ToDoubleSeconds(computed);
  display.Show(absl::StrCat(kCommand, ": memory"));
  const absl::Duration read =
      FastestRound(options.rounds, [&] { cpu::ReadMemory(values, threads); });
  limits.read_rate =
      static_cast<double>(memory->bytes()) / absl::ToDoubleSeconds(read);
  display.End();
  return limits;
}

std::string Text(const Limits& limits) {
  return absl::StrFormat(
      "%d threads, %s\nmultiply-adds of float32  %s\nmemory that is read      "
      "%s\n",
      limits.threads, cpu::InstructionSet(),
      Rate(limits.multiply_add_rate, "FLOP/s"), Rate(limits.read_rate, "B/s"));
}

std::string JsonText(const Limits& limits) {
  const nlohmann::ordered_json json = {
      {"threads", limits.threads},
      {"instructions", cpu::InstructionSet()},
      {"fma_flops_per_second", limits.multiply_add_rate},
      {"dram_read_bytes_per_second", limits.read_rate}};
  return json.dump(2) + "\n";
}

}  // namespace

int RunLimitsBench(const std::vector<std::string>& arguments) {
  Options options;
  FlagSet flags;
  AddFlags(&options, &flags);
  const absl::StatusOr<std::vector<std::string>> others =
      flags.Parse(arguments);
  if (!others.ok()) return RefuseUse(kCommand, others.status().message());
  if (options.help) {
    Print(absl::StrFormat(kHelp, flags.Help()));
    return kExitOk;
  }
  if (!others->empty()) {
    return RefuseUse(
        kCommand, absl::StrCat("unexpected argument '", others->front(), "'"));
  }
  const absl::StatusOr<Limits> limits = MeasureLimits(options);
  if (!limits.ok()) {
    std::fprintf(stderr, "%s: %s\n", kCommand,
                 std::string(limits.status().message()).c_str());
    return kExitFailed;
  }
  Print(options.json ? JsonText(*limits) : Text(*limits));
  return kExitOk;
}

}  // namespace engram::client
