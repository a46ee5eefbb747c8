#include "clients/cpp/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/strip.h"
#include "clients/cpp/cancellation.h"

namespace engram::client {
namespace {

constexpr int kHistoryLines = 1000;

// libedit reads and shows characters as the locale has them, and the server
// takes UTF-8 only.
void UseUtf8() {
  std::setlocale(LC_CTYPE, "");
  if (absl::string_view(nl_langinfo(CODESET)) != "UTF-8") {
    std::setlocale(LC_CTYPE, "C.UTF-8");
  }
}

}  // namespace

bool LineEditor::Possible() {
  const char* terminal = std::getenv("TERM");
  return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && terminal != nullptr &&
         absl::string_view(terminal) != "dumb";
}

LineEditor::LineEditor(std::string prompt, const std::vector<std::string>& past,
                       Interrupt* interrupt)
    : prompt_(std::move(prompt)), interrupt_(interrupt) {
  UseUtf8();
  tcgetattr(STDIN_FILENO, &before_);
  history_ = history_init();
  HistEvent event;
  history(history_, &event, H_SETSIZE, kHistoryLines);
  history(history_, &event, H_SETUNIQUE, 1);
  for (const std::string& line : past) Remember(line);

  editor_ = el_init("engram", stdin, stdout, stderr);
  el_set(editor_, EL_CLIENTDATA, this);
  el_set(editor_, EL_PROMPT, &LineEditor::Prompt);
  el_set(editor_, EL_EDITOR, "emacs");
  // After a stop or a change of the window the line is drawn again.
  el_set(editor_, EL_SIGNAL, 1);
  el_set(editor_, EL_HIST, history, history_);
  el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_source(editor_, nullptr);
  // While a line is edited these are keys like any other; only their signals
  // would end the program.
  el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
  el_set(editor_, EL_ADDFN, "engram-interrupt", "Drops the line",
         &LineEditor::OnInterrupt);
  el_set(editor_, EL_ADDFN, "engram-stop", "Stops the program",
         &LineEditor::OnStop);
  el_set(editor_, EL_BIND, "^C", "engram-interrupt", nullptr);
  el_set(editor_, EL_BIND, "^Z", "engram-stop", nullptr);
}

LineEditor::~LineEditor() {
  el_end(editor_);
  history_end(history_);
}

char* LineEditor::Prompt(editline* editor) {
  LineEditor* self = nullptr;
  el_get(editor, EL_CLIENTDATA, &self);
  return const_cast<char*>(self->prompt_.c_str());
}

unsigned char LineEditor::OnInterrupt(editline* editor, int key) {
  LineEditor* self = nullptr;
  el_get(editor, EL_CLIENTDATA, &self);
  self->interrupted_ = true;
  // What is printed next goes below a line that may have been long.
  const LineInfo* line = el_line(editor);
  el_cursor(editor, static_cast<int>(line->lastchar - line->cursor));
  el_set(editor, EL_REFRESH);
  return CC_EOF;
}

unsigned char LineEditor::OnStop(editline* editor, int key) {
  raise(SIGTSTP);  // libedit gives the terminal back before it stops.
  return CC_REDISPLAY;
}

LineEditor::Result LineEditor::Read(std::string* line) {
  Cancellation at_prompt;
  at_prompt.Register([this] {
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    _exit(kExitInterrupted);
  });
  InterruptScope scope(interrupt_, &at_prompt);
  interrupted_ = false;
  // Before the prompt is there: what is typed at it is never taken by the
  // terminal itself.
  el_set(editor_, EL_PREP_TERM, 1);
  int bytes = 0;
  const char* read = el_gets(editor_, &bytes);
  if (interrupted_) return Result::kInterrupted;
  if (read == nullptr || bytes <= 0) return Result::kEnd;
  *line = std::string(absl::StripSuffix(
      absl::string_view(read, static_cast<size_t>(bytes)), "\n"));
  return Result::kLine;
}

void LineEditor::Remember(const std::string& line) {
  HistEvent event;
  history(history_, &event, H_ENTER, line.c_str());
}

}  // namespace engram::client
