#include "clients/cpp/input_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_folder.h"

namespace engram::client {
namespace {

using ::testing::HasSubstr;

std::string Refusal(const std::string& name) {
  const absl::Status status = ReadTextFile(name).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  return std::string(status.message());
}

class InputFile : public ::testing::Test {
 protected:
  void Write(const std::string& content) { folder_.Write("input", content); }

  const TemporaryFolder folder_;
  const std::string name_ = folder_.File("input");
};

TEST_F(InputFile, IsReadAsItIs) {
  const std::string content("a\r\n\0\xc3\xa9", 6);
  Write(content);
  EXPECT_EQ(*ReadTextFile(name_), content);
  Write("");
  EXPECT_EQ(*ReadTextFile(name_), "");
}

TEST_F(InputFile, IsRefusedByNameIfItCannotBeRead) {
  EXPECT_THAT(Refusal("/no/such/file"), HasSubstr("No such file"));
  EXPECT_THAT(Refusal("/tmp"), HasSubstr("Is a directory"));
  EXPECT_THAT(Refusal(""), HasSubstr("No such file"));
}

TEST_F(InputFile, IsRefusedIfItIsNotUtf8) {
  Write("caf\xe9 au lait");
  EXPECT_THAT(Refusal(name_), HasSubstr("byte 4 (0xe9) is not UTF-8"));
}

TEST_F(InputFile, IsRefusedIfItNeverEnds) {
  EXPECT_THAT(Refusal("/dev/zero"), HasSubstr("more than 268435456 bytes"));
}

}  // namespace
}  // namespace engram::client
