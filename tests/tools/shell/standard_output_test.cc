// Each case is a process of its own: what could not be printed is remembered
// until a program ends.
#include "tools/shell/standard_output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>

namespace engram {
namespace {

using ::testing::ExitedWithCode;
using ::testing::HasSubstr;

constexpr char kNoSpace[] =
    "program: cannot write to standard output: No space left on device";

// What the test itself has printed and stdio still keeps is no part of it.
void CloseStandardOutput() {
  std::fflush(stdout);
  close(STDOUT_FILENO);
}

void ReplaceStandardOutput(const char* file) {
  std::fflush(stdout);
  const int opened = open(file, O_WRONLY);
  dup2(opened, STDOUT_FILENO);
}

class StandardOutputDeathTest : public ::testing::Test {
 protected:
  StandardOutputDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(StandardOutputDeathTest, EndsWithTheProgramsOwnCodeIfAllWasPrinted) {
  EXPECT_EXIT(std::exit(RunProgram("program",
                                   [] {
                                     Print("text");
                                     return 7;
                                   })),
              ExitedWithCode(7), "^$");
}

TEST_F(StandardOutputDeathTest, FailsIfTheDiskIsFull) {
  EXPECT_EXIT(
      {
        ReplaceStandardOutput("/dev/full");
        std::exit(RunProgram("program", [] {
          Print("text");
          return PrintStatus().ok() ? 5 : 0;
        }));
      },
      ExitedWithCode(1), kNoSpace);
}

TEST_F(StandardOutputDeathTest, FailsIfWhatStdioKeptCannotBeWritten) {
  EXPECT_EXIT(
      {
        ReplaceStandardOutput("/dev/full");
        std::exit(RunProgram("program", [] {
          std::printf("text");
          return 0;
        }));
      },
      ExitedWithCode(1), kNoSpace);
}

TEST_F(StandardOutputDeathTest, KeepsTheCodeOfAProgramThatFailedAnyway) {
  EXPECT_EXIT(
      {
        ReplaceStandardOutput("/dev/full");
        std::exit(RunProgram("program", [] {
          Print("text");
          return 2;
        }));
      },
      ExitedWithCode(2), kNoSpace);
}

TEST_F(StandardOutputDeathTest, NeverPrintsIntoWhatWasOpenedLater) {
  EXPECT_EXIT(
      {
        CloseStandardOutput();
        std::exit(RunProgram("program", [] {
          std::FILE* file = std::tmpfile();
          Print("text");
          std::fseek(file, 0, SEEK_END);
          return std::ftell(file) == 0 ? 0 : 9;
        }));
      },
      ExitedWithCode(1), "Bad file descriptor");
}

TEST_F(StandardOutputDeathTest, MayBeClosedIfNothingIsPrinted) {
  EXPECT_EXIT(
      {
        CloseStandardOutput();
        std::exit(RunProgram("program", [] { return 0; }));
      },
      ExitedWithCode(0), "");
}

TEST_F(StandardOutputDeathTest, EndsQuietlyIfTheReaderWentAway) {
  const auto print_to_nobody = [] {
    int ends[2];
    if (pipe(ends) != 0) std::exit(99);
    close(ends[0]);
    std::fflush(stdout);
    dup2(ends[1], STDOUT_FILENO);
    std::exit(RunProgram("program", [] {
      Print("text");
      return 0;
    }));
  };
  EXPECT_EXIT(print_to_nobody(), ::testing::KilledBySignal(SIGPIPE), "^$");
  EXPECT_EXIT(
      {
        signal(SIGPIPE, SIG_IGN);
        print_to_nobody();
      },
      ExitedWithCode(141), "^$");
}

}  // namespace
}  // namespace engram
