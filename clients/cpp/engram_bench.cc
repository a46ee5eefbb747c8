// engram-bench: the load generator.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/bench_load.h"
#include "clients/cpp/bench_options.h"
#include "clients/cpp/bench_report.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/client.h"
#include "clients/cpp/engine_bench.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/interrupt.h"
#include "clients/cpp/limits_bench.h"
#include "clients/cpp/program.h"
#include "clients/cpp/progress_display.h"
#include "clients/cpp/resumable_turn.h"
#include "tools/shell/standard_output.h"

namespace engram::client {
namespace {

constexpr char kProgram[] = "engram-bench";

constexpr char kHelp[] =
    "engram-bench: puts load on an Engram server and measures it.\n\n"
    "Latencies count from the moment a request was due, not from when it was\n"
    "sent, so that a server which falls behind is not spared.\n\n"
    "Usage: engram-bench [flags]\n"
    "       engram-bench engine [flags] [MODEL...]   measures steps without a "
    "server\n"
    "       engram-bench limits [flags]              measures what the machine "
    "can do\n"
    "       engram-bench --version\n\n"
    "Examples:\n"
    "  engram-bench --model mamba-english --concurrency 8 --requests 200\n"
    "  engram-bench --rate 20 --duration 60s --warmup 50 --prompt-tokens "
    "64..512\n"
    "  engram-bench --sessions 64 --turns 5 --think-time 200ms --json\n"
    "  engram-bench --rate 50 --requests 1000 --goodput-ttft 200 --goodput-itl "
    "30\n\n"
    "Flags:\n%s\n"
    "Ctrl-C ends the load early and still reports.\n\n"
    "Exit codes: 0 done; 1 no request succeeded; 2 wrong use; 130 "
    "interrupted.\n";

void DeleteSessions(const std::vector<std::string>& ids, Client* client) {
  int failed = 0;
  for (const std::string& id : ids) {
    v1::DeleteSessionRequest request;
    request.set_session_id(id);
    const absl::Status status = client->DeleteSession(request).status();
    // The turn that would have made it may have failed.
    failed += !status.ok() && !absl::IsNotFound(status);
    // A server that is gone has no sessions to delete one by one.
    if (absl::IsUnavailable(status)) break;
  }
  if (failed > 0) {
    absl::FPrintF(stderr, "engram-bench: sessions were left on the server\n");
  }
}

int Run(BenchOptions options, Interrupt* interrupt) {
  WarnOfCaller(kProgram, options.caller);
  ClientOptions client_options;
  client_options.server = options.server;
  client_options.tls = options.tls;
  client_options.caller = options.caller;
  client_options.retries = 1;
  Client client(client_options);
  v1::GetModelRequest model_request;
  model_request.set_model(options.model);
  absl::StatusOr<v1::ModelInfo> model = client.GetModel(model_request);
  if (!model.ok()) {
    return ReportFailedCall(kProgram, kProgram, model.status(), options.server);
  }
  options.model = model->name();

  ProgressDisplay display;
  BenchProgress before;
  BenchLoad load;
  load.options = options;
  load.vocabulary_size = model->vocabulary_size();
  load.session_prefix = absl::StrCat("bench-", FreshId().substr(0, 8));
  load.progress_interval = display.interval();
  load.on_progress = [&](const BenchProgress& progress) {
    display.Show(ProgressLine(before, progress));
    before = progress;
  };
  Cancellation cancellation;
  absl::StatusOr<LoadResult> result;
  {
    InterruptScope scope(interrupt, &cancellation);
    result = RunLoad(load, &cancellation);
  }
  display.End();
  if (!result.ok()) {
    return ReportFailedCall(kProgram, kProgram, result.status(),
                            options.server);
  }

  const Measurements measurements = Measure(result->turns, options.goodput);
  Print(options.json ? absl::StrCat(ReportJson(options, measurements), "\n")
                     : ReportText(options, measurements));
  if (!options.keep_sessions) DeleteSessions(result->session_ids, &client);
  if (cancellation.cancelled()) return kExitInterrupted;
  return measurements.succeeded > 0 ? kExitOk : kExitFailed;
}

int Main(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] == "engine") {
    return RunEngineBench({arguments.begin() + 1, arguments.end()});
  }
  if (!arguments.empty() && arguments[0] == "limits") {
    return RunLimitsBench({arguments.begin() + 1, arguments.end()});
  }
  Interrupt interrupt;
  BenchOptions options;
  FlagSet flags;
  options.AddTo(&flags);
  absl::StatusOr<std::vector<std::string>> others = flags.Parse(arguments);
  if (!others.ok()) return RefuseUse(kProgram, others.status().message());
  if (options.help) {
    Print(absl::StrFormat(kHelp, flags.Help()));
    return kExitOk;
  }
  if (!others->empty()) {
    return RefuseUse(
        kProgram, absl::StrCat("unexpected argument '", others->front(), "'"));
  }
  absl::Status status = options.Complete();
  if (!status.ok()) return RefuseUse(kProgram, status.message());
  return Run(std::move(options), &interrupt);
}

}  // namespace
}  // namespace engram::client

int main(int argc, char** argv) {
  return engram::client::RunClientProgram(engram::client::kProgram, argc, argv,
                                          engram::client::Main);
}
