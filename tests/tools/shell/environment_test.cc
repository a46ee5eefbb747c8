#include "tools/shell/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace engram {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

absl::Status Check(const std::string& entry) {
  return CheckEnvironment({entry}, {"ENGRAM_SLOTS", "ENGRAM_MAX_QUEUE"});
}

TEST(Environment, TakesWhatAnyProgramKnows) {
  for (const char* entry :
       {"ENGRAM_SLOTS=3", "ENGRAM_SERVER=localhost", "ENGRAM_TLS=true",
        "ENGRAM_CA=file", "ENGRAM_CERTIFICATE=file", "ENGRAM_KEY=file",
        "ENGRAM_SERVER_NAME=localhost", "ENGRAM_API_KEY_FILE=key",
        "ENGRAM_TENANT=a", "ENGRAM_SIMULATION_SEEDS=9",
        "ENGRAM_TEST_ANYTHING=1", "ENGRAM_EMULATION_SEED=2",
        "ENGRAM_PROXY=:8000", "ENGRAM_2_GRPC=8001", "PATH=/bin",
        "ENGRAMME_X=1"}) {
    EXPECT_TRUE(Check(entry).ok()) << entry;
  }
}

TEST(Environment, RefusesWhatNoneKnowsByName) {
  struct Case {
    const char* entry;
    const char* error;
  };
  for (const Case& wrong :
       {Case{"ENGRAM_SLOT=3",
             "ENGRAM_SLOT is that of no flag; did you mean "
             "ENGRAM_SLOTS?"},
        Case{"ENGRAM_MAXQUEUE=3", "did you mean ENGRAM_MAX_QUEUE?"},
        Case{"ENGRAM_SEVER=localhost", "did you mean ENGRAM_SERVER?"},
        Case{"ENGRAM_=", "ENGRAM_ is that of no"},
        Case{"ENGRAM_SOMETHING_ELSE=", "ENGRAM_SOMETHING_ELSE is that of no"},
        Case{"ENGRAM_GRPC_PORT=8001", "ENGRAM_GRPC_PORT is that of no"}}) {
    const absl::Status status = Check(wrong.entry);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong.entry;
    EXPECT_THAT(std::string(status.message()), HasSubstr(wrong.error));
  }
}

// A service of this name puts them into every container of its namespace.
TEST(Environment, TakesTheAddressesThatKubernetesSets) {
  for (const char* entry :
       {"ENGRAM_SERVICE_HOST=10.0.0.1", "ENGRAM_SERVICE_PORT=8001",
        "ENGRAM_SERVICE_PORT_GRPC=8001", "ENGRAM_PORT=tcp://10.0.0.1:8001",
        "ENGRAM_PORT_8001_TCP=tcp://10.0.0.1:8001",
        "ENGRAM_PORT_8001_TCP_PROTO=tcp", "ENGRAM_PORT_8001_TCP_PORT=8001",
        "ENGRAM_PORT_8001_TCP_ADDR=10.0.0.1",
        "ENGRAM_SERVER_SERVICE_HOST=10.0.0.1"}) {
    EXPECT_TRUE(Check(entry).ok()) << entry;
  }
}

TEST(Environment, IsThatOfTheProcess) {
  setenv("ENGRAM_TEST_PRESENT", "yes", /*replace=*/1);
  EXPECT_THAT(CurrentEnvironment(), Contains("ENGRAM_TEST_PRESENT=yes"));
}

}  // namespace
}  // namespace engram
