// Lines typed at a terminal, with the keys that people know from their shell:
// cursor, history, search, words, in any script that UTF-8 has. A thin layer
// over libedit, which also reads ~/.editrc.
#pragma once

#include <termios.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "clients/cpp/interrupt.h"

struct editline;
struct history;

namespace engram::client {

// Thread-compatible; at most one at a time, since there is one terminal.
class LineEditor {
 public:
  enum class Result {
    kLine,
    kInterrupted,  // Ctrl-C: the line is dropped.
    kEnd,          // Ctrl-D in an empty line, or the terminal went away.
  };

  // Whether standard input and output are a terminal that can be edited on.
  static bool Possible();

  // `past`: lines that were typed earlier, the oldest first. A signal from
  // elsewhere ends the program while a line is read, with the terminal as it
  // was.
  LineEditor(std::string prompt, const std::vector<std::string>& past,
             Interrupt* interrupt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // The next line, UTF-8 and without its end.
  Result Read(std::string* line);

  // What Read() offers again.
  void Remember(const std::string& line);

 private:
  static char* Prompt(editline* editor);
  static unsigned char OnInterrupt(editline* editor, int key);
  static unsigned char OnStop(editline* editor, int key);

  const std::string prompt_;
  Interrupt* const interrupt_;
  termios before_;  // How the terminal was.
  editline* editor_ = nullptr;
  struct history* history_ = nullptr;
  bool interrupted_ = false;
};

}  // namespace engram::client
