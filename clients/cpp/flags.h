// Flags of a command line: "--name value" or "--name=value", checked, with a
// suggestion for what was misspelt and a help text made from the same list.
//
// Each verb of `engram` has flags of its own, which abseil's flags, global to a
// program, cannot express; hence this small parser.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "clients/cpp/caller_options.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// A set of flags, each bound to a variable that outlives the set. All values
// but names of files must be UTF-8, since they are sent as such.
// Thread-compatible.
class FlagSet {
 public:
  // Takes the text given for a flag; an error is reported with the flag's name.
  using Setter = std::function<absl::Status(absl::string_view)>;

  struct Flag {
    std::string name;
    std::string value_name;  // Empty: a switch.
    std::string help;
    Setter set;
    bool is_file = false;  // The value names a file.
  };

  // A flag with a value. `value_name` stands for the value in the help text.
  void Add(std::string name, std::string value_name, std::string help,
           Setter set);

  void Add(std::string name, std::string value_name, std::string help,
           std::string* target);
  void Add(std::string name, std::string value_name, std::string help,
           std::optional<std::string>* target);
  void Add(std::string name, std::string value_name, std::string help,
           int32_t* target);
  void Add(std::string name, std::string value_name, std::string help,
           int64_t* target);
  void Add(std::string name, std::string value_name, std::string help,
           std::optional<int64_t>* target);
  void Add(std::string name, std::string value_name, std::string help,
           float* target);
  void Add(std::string name, std::string value_name, std::string help,
           double* target);
  void Add(std::string name, std::string value_name, std::string help,
           absl::Duration* target);
  // Repeatable: each value is appended.
  void Add(std::string name, std::string value_name, std::string help,
           std::vector<std::string>* target);
  // Token ids, such as "1,2,3": those of the last value, or if it is
  // repeatable, of all.
  void AddTokenIds(std::string name, std::string value_name, std::string help,
                   std::optional<std::vector<int32_t>>* target);
  void AddTokenIds(std::string name, std::string value_name, std::string help,
                   std::vector<int32_t>* target);
  // A text with backslash escapes, which are resolved; likewise.
  void AddEscaped(std::string name, std::string value_name, std::string help,
                  std::string* target);
  void AddEscaped(std::string name, std::string value_name, std::string help,
                  std::vector<std::string>* target);
  // The name of a file. Its value_name is FILE.
  void AddFile(std::string name, std::string help,
               std::optional<std::string>* target);
  void AddFile(std::string name, std::string help, std::string* target);
  // Where the server is, checked and with its port.
  void AddServer(std::string help, std::string* target);
  // Whether and how TLS is spoken to it.
  void AddTls(TlsOptions* target);
  // As whom it is called.
  void AddCaller(CallerOptions* target);
  // A whole number from `least` to `most`.
  void AddCount(std::string name, std::string help, int64_t least, int64_t most,
                int64_t* target);
  void AddCount(std::string name, std::string help, int64_t least, int64_t most,
                std::optional<int64_t>* target);
  // A duration above zero.
  void AddLimit(std::string name, std::string help, absl::Duration* target);
  // Whatever is drawn by chance: the same seed draws the same.
  void AddSeed(std::string help, uint64_t* target);
  // A flag without a value; "--name=false" takes it back.
  void AddSwitch(std::string name, std::string help, bool* target);

  // Reads flags up to the first argument that is none and returns how many
  // arguments that were. "--" ends the flags and is counted.
  absl::StatusOr<size_t> ParseLeading(
      absl::Span<const std::string> arguments) const;

  // Reads flags anywhere among `arguments` and returns the other arguments.
  absl::StatusOr<std::vector<std::string>> Parse(
      absl::Span<const std::string> arguments) const;

  // One entry per flag, in the order of adding.
  std::string Help() const;

  // In the order of adding.
  const std::vector<Flag>& flags() const { return flags_; }

 private:
  const Flag* Find(absl::string_view name) const;
  // Reads the flag at arguments[position] and returns the position after it.
  absl::StatusOr<size_t> ParseOne(absl::Span<const std::string> arguments,
                                  size_t position) const;
  absl::Status UnknownFlag(absl::string_view name) const;

  std::vector<Flag> flags_;
};

// Comma-separated token ids, such as "1,2,3".
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text);

// Resolves the backslash escapes of C, such as \n, \t, \\ and \x41; like any
// other value, what comes of it must be UTF-8.
absl::StatusOr<std::string> Unescape(absl::string_view text);

}  // namespace engram::client
