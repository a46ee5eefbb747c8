// engram health: whether a server serves, for scripts and container engines.
#include "absl/strings/str_cat.h"
#include "clients/cpp/health_check.h"
#include "clients/cpp/verb.h"
#include "tools/shell/standard_output.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram health [MODEL] [flags]",
    "Asks a server, or one of its models, whether it serves: prints SERVING "
    "and\n"
    "exits with 0, or what else it answers (NOT_SERVING while it drains), or "
    "why\n"
    "there is no answer, and exits with 1. Waits for 5 seconds unless "
    "--deadline\n"
    "says otherwise, and does not try again.",
    "  engram health\n"
    "  engram health mamba-english --server other:8001 --deadline 1s"};

// Who asks for health wants to know soon.
constexpr absl::Duration kDefaultDeadline = absl::Seconds(5);

}  // namespace

int RunHealth(Invocation invocation) {
  FlagSet flag_set;
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (arguments.positional().size() > 1) {
    return arguments.Refuse("give one MODEL at most");
  }
  const std::string model =
      arguments.positional().empty() ? "" : arguments.positional().front();
  const GlobalFlags& global = invocation.global;
  const absl::Duration deadline = global.deadline == absl::InfiniteDuration()
                                      ? kDefaultDeadline
                                      : global.deadline;
  const absl::StatusOr<std::string> health =
      CheckHealth(global.server, global.tls, model, deadline);
  if (!health.ok()) return ReportError(health.status(), global);
  Print(global.json ? absl::StrCat("{\"status\":\"", *health, "\"}\n")
                    : absl::StrCat(*health, "\n"));
  return *health == "SERVING" ? kExitOk : kExitFailed;
}

}  // namespace engram::client
