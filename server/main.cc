// engram-server: flags, signals, exit code. No logic.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "model/quantised_folder.h"
#include "server/log.h"
#include "server/make_key.h"
#include "server/options.h"
#include "server/quantize.h"
#include "server/server.h"
#include "tools/shell/environment.h"
#include "tools/shell/standard_output.h"

namespace {

// Blocked before any thread starts, so that only main waits for them.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// Until a signal comes, or a model's device fails.
void WaitForEnd(const sigset_t& signals, const engram::Server& server) {
  const timespec interval = {0, 200'000'000};
  while (!server.failed() && sigtimedwait(&signals, nullptr, &interval) < 0) {
  }
}

// What is said last is worth waiting for, but not for ever.
constexpr absl::Duration kLastLinesWait = absl::Seconds(1);

int End(const absl::Status& status) {
  if (!status.ok()) {
    engram::Log(engram::LogLevel::kError, "fatal",
                {{"code", absl::StatusCodeToString(status.code())},
                 {"message", std::string(status.message())}});
  }
  engram::FlushLog(kLastLinesWait);
  return status.ok() ? 0 : 1;
}

int PrintAndEnd(const std::string& text) {
  return engram::RunProgram("engram-server", [&] {
    engram::Print(text);
    return 0;
  });
}

int RefuseUse(const absl::Status& status) {
  std::fprintf(stderr, "engram-server: %s\n",
               std::string(status.message()).c_str());
  return 2;
}

int PrintKeyAndEnd(const std::vector<std::string>& arguments) {
  const auto made = engram::MakeKey(arguments);
  if (!made.ok()) return RefuseUse(made.status());
  std::fputs(
      "The first line is the key, which is shown this once and kept nowhere: "
      "it is for the clients' --api-key-file. The second is its entry in the "
      "server's --keys FILE: {\"keys\": [ENTRY, ...]}.\n",
      stderr);
  return PrintAndEnd(made->key + "\n" + made->entry + "\n");
}

int QuantizeAndEnd(const std::vector<std::string>& arguments) {
  const auto task = engram::ReadQuantizeTask(arguments);
  if (!task.ok()) return RefuseUse(task.status());
  const absl::Status status =
      engram::WriteQuantisedFolder(task->source, task->format, task->target);
  if (status.ok()) return 0;
  std::fprintf(stderr, "engram-server: %s\n",
               std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") {
      return PrintAndEnd(engram::HelpText());
    }
    if (argument == "--version") {
      return PrintAndEnd("engram-server " ENGRAM_VERSION "\n");
    }
  }
  if (engram::AsksForKey(arguments)) return PrintKeyAndEnd(arguments);
  if (engram::AsksToQuantize(arguments)) return QuantizeAndEnd(arguments);
  // A reader of the log that goes away must not take the server with it.
  signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = BlockSignals();
  const absl::Status known =
      engram::CheckVariables(engram::CurrentEnvironment());
  if (!known.ok()) return RefuseUse(known);
  const auto options = engram::ParseOptions(
      arguments, [](const char* name) { return std::getenv(name); });
  if (!options.ok()) return RefuseUse(options.status());
  engram::SetLogMemory(static_cast<size_t>(options->log_memory));
  engram::LogStandardError();
  auto server = engram::Server::Start(*options);
  if (!server.ok()) return End(server.status());
  std::printf("listening grpc=%s metrics=%s\n",
              (*server)->grpc_address().c_str(),
              (*server)->metrics_address().c_str());
  std::fflush(stdout);

  WaitForEnd(signals, **server);
  // A second signal ends the process at once.
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  return End((*server)->Drain());
}
