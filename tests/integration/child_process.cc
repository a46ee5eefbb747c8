#include "tests/integration/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "kernels/status.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram {

ChildProcess::ChildProcess(const std::string& path,
                           const std::vector<std::string>& arguments,
                           StandardError standard_error, rlim_t descriptors) {
  int output[2];
  ENGRAM_CHECK(pipe2(output, O_CLOEXEC) == 0);
  output_ = output[0];
  int errors[2] = {-1, -1};  // as pipe2 makes them
  if (standard_error == StandardError::kKept) {
    errors[0] = errors[1] = memfd_create("stderr", MFD_CLOEXEC);
    ENGRAM_CHECK(errors[0] >= 0);
  } else {
    ENGRAM_CHECK(pipe2(errors, O_CLOEXEC) == 0);
  }
  errors_ = errors[0];
  std::vector<std::string> words = {path};
  if (descriptors != RLIM_INFINITY) {
    // Before the program runs, which may ask at once.
    words = {"/bin/sh", "-c",
             absl::StrCat("ulimit -n ", descriptors, " && exec \"$@\""), "sh",
             path};
  }
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors[1], STDERR_FILENO);
  const int error =
      posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(output[1]);
  if (errors[1] != errors[0]) close(errors[1]);
  if (error != 0) std::fprintf(stderr, "cannot run %s\n", path.c_str());
  ENGRAM_CHECK(error == 0);
}

ChildProcess::~ChildProcess() {
  if (!waited_) {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(output_);
  close(errors_);
}

void ChildProcess::Signal(int signal) { kill(pid_, signal); }

std::optional<std::string> ChildProcess::ReadLine() {
  const absl::Time limit = absl::Now() + kTestLimit;
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    pollfd readable = {output_, POLLIN, 0};
    const int64_t wait = absl::ToInt64Milliseconds(limit - absl::Now());
    if (wait <= 0 || poll(&readable, 1, static_cast<int>(wait)) <= 0) {
      return std::nullopt;
    }
    char bytes[4096];
    const ssize_t count = read(output_, bytes, sizeof(bytes));
    if (count <= 0) {
      if (buffer_.empty()) return std::nullopt;
      return std::exchange(buffer_, "");
    }
    buffer_.append(bytes, static_cast<size_t>(count));
  }
}

int ChildProcess::Wait() {
  // Its standard output closes when it ends.
  const absl::Time limit = absl::Now() + kTestLimit;
  while (ReadLine().has_value()) {
  }
  if (absl::Now() >= limit) return -1;
  int status = 0;
  waitpid(pid_, &status, 0);
  waited_ = true;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string ChildProcess::ErrorOutput() const {
  std::string all;
  char bytes[4096];
  ssize_t count = 0;
  while ((count = pread(errors_, bytes, sizeof(bytes),
                        static_cast<off_t>(all.size()))) > 0) {
    all.append(bytes, static_cast<size_t>(count));
  }
  return all;
}

std::string ChildProcess::ReadErrors() {
  const absl::Time limit = absl::Now() + kTestLimit;
  std::string all;
  char bytes[4096];
  while (true) {
    pollfd readable = {errors_, POLLIN, 0};
    const int64_t wait = absl::ToInt64Milliseconds(limit - absl::Now());
    if (wait <= 0 || poll(&readable, 1, static_cast<int>(wait)) <= 0) break;
    const ssize_t count = read(errors_, bytes, sizeof(bytes));
    if (count <= 0) break;
    all.append(bytes, static_cast<size_t>(count));
  }
  return all;
}

int64_t ChildProcess::ResidentBytes() const {
  std::ifstream statm(absl::StrCat("/proc/", pid_, "/statm"));
  int64_t pages_in_all = 0;
  int64_t pages_resident = 0;
  statm >> pages_in_all >> pages_resident;
  return pages_resident * sysconf(_SC_PAGESIZE);
}

namespace {

std::vector<std::string> WithFreePorts(std::vector<std::string> arguments) {
  // In front, so that what the test gives comes last and holds.
  arguments.insert(arguments.begin(),
                   {"--grpc-address", "127.0.0.1:0", "--metrics-address",
                    "127.0.0.1:0", "--threads", "1"});
  return arguments;
}

}  // namespace

ServerProcess::ServerProcess(std::vector<std::string> arguments,
                             StandardError standard_error, rlim_t descriptors,
                             const std::string& program)
    : process_(program.empty() ? ProgramFile("bin/engram-server") : program,
               WithFreePorts(std::move(arguments)), standard_error,
               descriptors) {
  const std::string line = process_.ReadLine().value_or("");
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || words[0] != "listening") return;
  const std::pair<std::string, std::string> grpc =
      absl::StrSplit(words[1], absl::MaxSplits('=', 1));
  const std::pair<std::string, std::string> metrics =
      absl::StrSplit(words[2], absl::MaxSplits('=', 1));
  if (grpc.first != "grpc" || metrics.first != "metrics") return;
  grpc_address_ = grpc.second;
  metrics_address_ = metrics.second;
}

std::string ZooModel(const std::string& name) {
  return absl::StrCat(name, "=", SourceFile("model/zoo/" + name));
}

}  // namespace engram
