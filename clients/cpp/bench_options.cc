#include "clients/cpp/bench_options.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace engram::client {
namespace {

FlagSet::Setter LengthRangeSetter(LengthRange* target) {
  return [target](absl::string_view text) {
    absl::StatusOr<LengthRange> range = ParseLengthRange(text);
    if (range.ok()) *target = *range;
    return range.status();
  };
}

// What the program itself can hold and keep up with.
constexpr int64_t kMany = 100'000'000;
constexpr int64_t kManyAtATime = 100'000;
constexpr int64_t kManyConnections = 1'000;
constexpr double kRateMax = 1e6;

constexpr double kNoLimit = std::numeric_limits<double>::max();

FlagSet::Setter PositiveSetter(double* target, double most = kNoLimit) {
  return [=](absl::string_view text) {
    double value = 0;
    if (absl::SimpleAtod(text, &value) && value > 0 && value <= most) {
      *target = value;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is not a number above 0",
        most == kNoLimit ? "" : absl::StrCat(" and up to ", most)));
  };
}

}  // namespace

void BenchOptions::AddTo(FlagSet* flags) {
  flags->AddServer("Default: $ENGRAM_SERVER, else localhost:8001.", &server);
  flags->AddTls(&tls);
  flags->AddCaller(&caller);
  flags->Add("model", "NAME", "Default: the only one served.", &model);
  flags->Add("rate", "R",
             "Open loop: R requests (with --sessions: new sessions) arrive per "
             "second by a Poisson process, whether or not earlier ones are "
             "answered.",
             PositiveSetter(&rate, kRateMax));
  flags->AddCount("concurrency",
                  "Closed loop: N at a time, the next one when one is "
                  "answered. Default: 1; with --sessions all of them.",
                  1, kManyAtATime, &concurrency);
  flags->AddCount("requests",
                  "Measure N requests, at least 1. Default: 100 without "
                  "--duration and --sessions.",
                  1, kMany, &requests);
  flags->AddLimit("duration",
                  "Start no more after this time; those running are waited "
                  "for.",
                  &duration);
  flags->AddCount("warmup",
                  "Run N requests (sessions) before that are left out of the "
                  "figures. Default: 0.",
                  0, kMany, &warm_up);
  flags->Add("prompt-tokens", "N|A..B",
             "Length of prompts, which are random token ids. Default: 128.",
             LengthRangeSetter(&prompt_tokens));
  flags->Add("output-tokens", "N|A..B",
             "Tokens to sample; the model's end of text is ignored. Default: "
             "64.",
             LengthRangeSetter(&output_tokens));
  flags->AddCount("long-prompts",
                  "Beside the requests that are measured, keep N with long "
                  "prompts running, and report the measured ones alone. "
                  "Default: 0.",
                  0, kManyAtATime, &long_prompts);
  flags->Add("long-prompt-tokens", "N|A..B",
             "Length of these prompts. Default: 65536.",
             LengthRangeSetter(&long_prompt_tokens));
  flags->AddCount("sessions", "N sessions of --turns turns each.", 1,
                  kManyAtATime, &sessions);
  flags->AddCount("turns", "Turns per session. Default: 1.", 1, kMany, &turns);
  flags->Add("think-time", "DURATION",
             "From the end of a turn to the next one of the session. Default: "
             "0.",
             &think_time);
  flags->AddSwitch("keep-sessions",
                   "Leave the sessions on the server; otherwise they are "
                   "deleted in the end.",
                   &keep_sessions);
  flags->Add("temperature", "T", "Default: 0, the likeliest token always.",
             &temperature);
  flags->AddSeed("Of prompts, lengths and arrivals. Default: 1.", &seed);
  flags->AddCount("connections", "To spread requests over. Default: 1.", 1,
                  kManyConnections, &connections);
  flags->AddLimit("deadline", "For each request. Default: none.", &deadline);
  flags->Add("goodput-ttft", "MS",
             "A request is good if its first token comes within this time,",
             PositiveSetter(&goodput.time_to_first_token_ms));
  flags->Add("goodput-itl", "MS",
             "if the mean time between its tokens is at most this,",
             PositiveSetter(&goodput.inter_token_latency_ms));
  flags->Add("goodput-e2e", "MS", "and if all of it takes at most this.",
             PositiveSetter(&goodput.end_to_end_ms));
  flags->AddSwitch("json", "Print one JSON object with everything.", &json);
  flags->AddSwitch("help", "Show this text.", &help);
}

absl::Status BenchOptions::Complete() {
  const auto refuse = [](absl::string_view message) {
    return absl::InvalidArgumentError(message);
  };
  if (rate > 0 && concurrency > 0) {
    return refuse(
        "give --rate (open loop) or --concurrency (closed loop), "
        "not both");
  }
  if (sessions > 0 && requests > 0) {
    return refuse(
        "--sessions with --turns says how many requests there are; "
        "leave out --requests");
  }
  if (sessions == 0 && turns > 1) return refuse("--turns needs --sessions N");
  if (prompt_tokens.least == 0) {
    return refuse("--prompt-tokens: a prompt has at least one token");
  }
  if (long_prompt_tokens.least == 0) {
    return refuse("--long-prompt-tokens: a prompt has at least one token");
  }
  if (sessions == 0 && requests == 0 && duration == absl::InfiniteDuration()) {
    requests = 100;
  }
  if (rate == 0 && concurrency == 0) {
    concurrency = sessions > 0 ? sessions : 1;
  }
  return absl::OkStatus();
}

int64_t BenchOptions::Conversations() const {
  if (sessions > 0) return sessions;
  return requests > 0 ? requests : std::numeric_limits<int64_t>::max();
}

}  // namespace engram::client
