// A program run by its path, with its output; ended with the object.
//
// Thread-compatible.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace engram {

// Where a program's standard error goes: kept, or into a pipe that is full
// until somebody reads it.
enum class StandardError { kKept, kUnread };

class ChildProcess {
 public:
  // Aborts if `path` cannot be started. `descriptors`: at most so many, from
  // its first moment on.
  ChildProcess(const std::string& path,
               const std::vector<std::string>& arguments,
               StandardError standard_error = StandardError::kKept,
               rlim_t descriptors = RLIM_INFINITY);
  ~ChildProcess();  // kills it if it still runs
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal);
  // The next line of its standard output, without the newline if it has one;
  // nothing at the end, or if none comes within kTestLimit.
  std::optional<std::string> ReadLine();
  // Waits for its end, and returns its exit code; 128 + n if signal n ended it,
  // -1 if it did not end within kTestLimit.
  int Wait();
  // What it has written to standard error so far. REQUIRES: kKept.
  std::string ErrorOutput() const;
  // Reads standard error to its end, or until kTestLimit. REQUIRES: kUnread.
  std::string ReadErrors();
  // Bytes of memory it has in RAM now.
  int64_t ResidentBytes() const;

 private:
  pid_t pid_ = -1;
  bool waited_ = false;
  int output_ = -1;  // the read end of its standard output
  int errors_ = -1;  // a file without name, or the read end of a pipe
  std::string buffer_;
};

// The server's program as `engram-server` is run by hand, without threads that
// help the engines unless `arguments` say otherwise, on free ports. `program`:
// a path; empty: the server's.
class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> arguments,
                         StandardError standard_error = StandardError::kKept,
                         rlim_t descriptors = RLIM_INFINITY,
                         const std::string& program = "");

  ChildProcess& process() { return process_; }
  // Empty if it did not come up.
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& metrics_address() const { return metrics_address_; }

 private:
  ChildProcess process_;
  std::string grpc_address_;
  std::string metrics_address_;
};

// --model NAME=FOLDER of a model in the zoo.
std::string ZooModel(const std::string& name);

}  // namespace engram
