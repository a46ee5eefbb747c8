// engram chat: a conversation, line by line.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clients/cpp/chat_history.h"
#include "clients/cpp/line_editor.h"
#include "clients/cpp/resumable_turn.h"
#include "clients/cpp/turn_flags.h"
#include "clients/cpp/turn_output.h"
#include "clients/cpp/verb.h"
#include "tools/shell/closest_word.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram chat [--model NAME] [--session ID] [flags]",
    "Reads lines from standard input; the model goes on from each and "
    "remembers\n"
    "everything on a session. Ctrl-C stops an answer (what was said is kept), "
    "at\n"
    "the prompt it drops the line, and twice in a row or Ctrl-D it ends the "
    "chat.\n"
    "On a terminal lines are edited and remembered as in a shell. Lines that "
    "begin\n"
    "with a slash are commands:\n"
    "  /fork NAME   go on in a copy; the session so far stays as it is\n"
    "  /help        list the commands\n"
    "  /quit        end; the session stays on the server\n"
    "  //text       a line that begins with one slash",
    "  engram chat --model mamba-english\n"
    "  engram chat --session mine --max-tokens 60 --stop '\\n'\n"
    "  engram chat --line-prefix '\\nQ: ' --line-suffix '\\nA:' --stop "
    "'\\nQ:'\n"
    "  printf 'In the beginning\\nAnd\\n' | engram chat --model mamba-english"};

constexpr absl::string_view kCommands =
    "/fork NAME  go on in a copy of the session\n"
    "/help       this list\n"
    "/quit       end; the session stays on the server\n"
    "An empty line lets the model say more.\n";

struct ChatFlags {
  ChatFlags() {
    turn.temperature = 0.7f;
    turn.keep_partial = true;
  }

  void AddTo(FlagSet* flags) {
    turn.AddTo(flags);
    flags->AddEscaped("line-prefix", "TEXT",
                      "Put before each line; on a new session without its line "
                      "breaks. Default: \\n.",
                      &line_prefix);
    flags->AddEscaped("line-suffix", "TEXT",
                      "Put after each line. Default: nothing.", &line_suffix);
    flags->AddFile("history",
                   "Where lines typed at a terminal are kept for the next "
                   "time; '': nowhere. Default: engram/chat_history in "
                   "$XDG_STATE_HOME, else in ~/.local/state.",
                   &history);
    flags->AddSwitch("no-history", "Keep no lines.", &no_history);
  }

  std::string HistoryFile() const {
    return no_history ? "" : history.value_or(DefaultChatHistoryFile());
  }

  TurnFlags turn;
  std::string line_prefix = "\n";
  std::string line_suffix;
  std::optional<std::string> history;
  bool no_history = false;
};

// Where lines come from: a person who edits them, or anything else that can be
// read. Thread-compatible.
class ChatLines {
 public:
  ChatLines(const std::string& history_file, Interrupt* interrupt)
      : history_(history_file) {
    if (!LineEditor::Possible()) return;
    absl::StatusOr<std::vector<std::string>> past = history_.Load();
    if (!past.ok()) Warn(past.status());
    editor_ = std::make_unique<LineEditor>(
        "> ", past.value_or(std::vector<std::string>()), interrupt);
  }

  bool edited() const { return editor_ != nullptr; }

  LineEditor::Result Read(std::string* line) {
    if (!edited()) {
      return std::getline(std::cin, *line) ? LineEditor::Result::kLine
                                           : LineEditor::Result::kEnd;
    }
    const LineEditor::Result result = editor_->Read(line);
    if (result == LineEditor::Result::kLine && !line->empty()) {
      editor_->Remember(*line);
      const absl::Status status = history_.Append(*line);
      if (!status.ok()) Warn(status);
    }
    return result;
  }

 private:
  // Once: a full disk stays full, and the chat goes on without.
  void Warn(const absl::Status& status) {
    if (!warned_) absl::FPrintF(stderr, "engram: %s\n", status.message());
    warned_ = true;
  }

  const ChatHistory history_;
  std::unique_ptr<LineEditor> editor_;
  bool warned_ = false;
};

// One conversation. Thread-compatible.
class Conversation {
 public:
  Conversation(const Invocation& invocation, v1::GenerateRequest turn,
               std::string line_prefix, std::string line_suffix,
               const std::string& history_file)
      : global_(invocation.global),
        interrupt_(invocation.interrupt),
        client_(MakeClientOptions(global_)),
        turn_(std::move(turn)),
        line_prefix_(std::move(line_prefix)),
        line_suffix_(std::move(line_suffix)),
        lines_(history_file, interrupt_),
        on_terminal_(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {}

  int Run() {
    absl::Status status = ReadVersion();
    if (!status.ok()) return ReportError(status, global_);
    if (on_terminal_) {
      absl::FPrintF(stderr, "Session %s, version %d. /help lists commands.\n",
                    turn_.session_id(), version_);
    }
    std::string line;
    while (!quit_) {
      Cancellation between;
      std::optional<InterruptScope> scope;
      if (lines_.edited()) scope.emplace(interrupt_, &between);
      if (!ReadLine(&between, &line)) break;
      if (absl::StartsWith(line, "/") && !absl::StartsWith(line, "//")) {
        status = Command(line);
      } else {
        status = Say(absl::StripPrefix(line, "/"));
      }
      if (!PrintStatus().ok()) return kExitFailed;
      if (interrupted_ && !on_terminal_) return kExitInterrupted;
      if (status.ok() || interrupted_) continue;
      ReportError(status, global_);
      // A person sees the error and may go on; a script must not go on as if
      // the line had been answered.
      if (!on_terminal_) return kExitFailed;
    }
    return left_by_interrupt_ ? kExitInterrupted : kExitOk;
  }

 private:
  // False: the chat ends. `between` is what a Ctrl-C cancels that comes while
  // no line is read.
  bool ReadLine(Cancellation* between, std::string* line) {
    for (int interrupts = 0; interrupts < 2;) {
      if (on_terminal_ && !lines_.edited()) Print("> ");
      const LineEditor::Result result = interrupts > 0 && between->cancelled()
                                            ? LineEditor::Result::kInterrupted
                                            : lines_.Read(line);
      switch (result) {
        case LineEditor::Result::kLine:
          return true;
        case LineEditor::Result::kEnd:
          if (on_terminal_) Print("\n");
          return false;
        case LineEditor::Result::kInterrupted:
          Print("^C\n");
          if (++interrupts == 1) {
            absl::FPrintF(stderr,
                          "Ctrl-C once more or Ctrl-D ends the chat; the "
                          "session stays.\n");
          }
      }
    }
    left_by_interrupt_ = true;
    return false;
  }

  absl::Status ReadVersion() {
    absl::StatusOr<int64_t> version = client_.SessionVersion(
        turn_.session_id(), {.deadline = global_.deadline});
    if (version.ok()) version_ = *version;
    return version.status();
  }

  void SetPrompt(absl::string_view line) {
    turn_.clear_prompt();
    // An empty line: go on from the pending token.
    if (line.empty() && version_ > 0) return;
    absl::string_view prefix = line_prefix_;
    while (version_ == 0 && absl::ConsumePrefix(&prefix, "\n")) {
    }
    turn_.set_text(absl::StrCat(prefix, line, line_suffix_));
  }

  // After an answer that was interrupted the server may have kept the part that
  // was said, or be about to: how far it went is known only when its turn has
  // ended, which is a matter of milliseconds.
  absl::Status Say(absl::string_view line) {
    if (!interrupted_) return RunTurn(line);
    const absl::Time give_up = absl::Now() + absl::Seconds(5);
    while (true) {
      ENGRAM_RETURN_IF_ERROR(ReadVersion());
      interrupted_ = false;
      absl::Status status = RunTurn(line);
      const bool not_ended_yet =
          absl::IsAborted(status) || absl::IsFailedPrecondition(status);
      if (!not_ended_yet || absl::Now() >= give_up) return status;
      absl::SleepFor(absl::Milliseconds(50));
    }
  }

  absl::Status RunTurn(absl::string_view line) {
    SetPrompt(line);
    turn_.set_expected_version(version_);
    turn_.set_request_id(FreshId());
    TurnOutput output(global_.json);
    Cancellation cancellation;
    InterruptScope scope(interrupt_, &cancellation);
    const absl::Status end =
        client_.Generate(turn_,
                         [&](const v1::GenerateResponse& response) {
                           if (!output.Show(response).ok())
                             cancellation.Cancel();
                         },
                         {global_.deadline, &cancellation});
    if (!global_.json) Print("\n");
    ENGRAM_RETURN_IF_ERROR(output.status());
    interrupted_ = cancellation.cancelled();
    ENGRAM_RETURN_IF_ERROR(end);
    version_ = output.completed().version();
    turn_.clear_from_checkpoint();  // Only a new session starts from one.
    if (global_.verbose) output.ShowStatistics();
    return absl::OkStatus();
  }

  absl::Status Command(absl::string_view line) {
    if (line == "/quit") {
      quit_ = true;
      return absl::OkStatus();
    }
    if (line == "/help") {
      absl::FPrintF(stderr, "%s", kCommands);
      return absl::OkStatus();
    }
    if (absl::ConsumePrefix(&line, "/fork ")) return Fork(std::string(line));
    return absl::InvalidArgumentError(absl::StrCat(
        "unknown command ", line,
        DidYouMean(line, {"/fork NAME", "/fork", "/help", "/quit"}),
        " A line that begins with a slash is written with two."));
  }

  absl::Status Fork(const std::string& name) {
    v1::ForkSessionRequest request;
    request.set_session_id(turn_.session_id());
    request.set_new_session_id(name);
    ENGRAM_ASSIGN_OR_RETURN(
        const v1::Session fork,
        client_.ForkSession(request, {.deadline = global_.deadline}));
    turn_.set_session_id(fork.session_id());
    version_ = fork.version();
    absl::FPrintF(stderr, "Now on session %s, version %d.\n",
                  turn_.session_id(), version_);
    return absl::OkStatus();
  }

  const GlobalFlags global_;
  Interrupt* const interrupt_;
  Client client_;
  v1::GenerateRequest turn_;
  const std::string line_prefix_;
  const std::string line_suffix_;
  ChatLines lines_;
  const bool on_terminal_;
  int64_t version_ = 0;
  bool interrupted_ = false;
  bool quit_ = false;
  bool left_by_interrupt_ = false;
};

}  // namespace

int RunChat(Invocation invocation) {
  ChatFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (!arguments.positional().empty()) {
    return arguments.Refuse(
        absl::StrCat("unexpected argument '", arguments.positional()[0], "'"));
  }
  v1::GenerateRequest turn = flags.turn.MakeRequest();
  if (turn.session_id().empty()) {
    turn.set_session_id(absl::StrCat("chat-", FreshId().substr(0, 8)));
  }
  return Conversation(invocation, std::move(turn), flags.line_prefix,
                      flags.line_suffix, flags.HistoryFile())
      .Run();
}

}  // namespace engram::client
