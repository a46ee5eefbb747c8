#include "clients/cpp/output_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temporary_folder.h"

namespace engram::client {
namespace {

using ::testing::HasSubstr;

class OutputFileTest : public ::testing::Test {
 protected:
  std::string Name(const std::string& name) const { return folder_.File(name); }
  bool Exists(const std::string& name) const {
    return access(Name(name).c_str(), F_OK) == 0;
  }
  std::string Content(const std::string& name) const {
    std::stringstream content;
    content << std::ifstream(Name(name)).rdbuf();
    return content.str();
  }

  const TemporaryFolder folder_;
};

TEST_F(OutputFileTest, IsThereOnceItIsWhole) {
  auto file = OutputFile::Create(Name("f"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("one").ok());
  ASSERT_TRUE((*file)->Append("two").ok());
  EXPECT_FALSE(Exists("f"));
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(Content("f"), "onetwo");
  EXPECT_FALSE(Exists("f.part"));
  struct stat status;
  ASSERT_EQ(stat(Name("f").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 077, 0);
}

TEST_F(OutputFileTest, LeavesWhatWasThereIfItIsNeverWhole) {
  folder_.Write("f", "before");
  {
    auto file = OutputFile::Create(Name("f"));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append("one").ok());
    EXPECT_TRUE(Exists("f.part"));
  }
  EXPECT_EQ(Content("f"), "before");
  EXPECT_FALSE(Exists("f.part"));
}

TEST_F(OutputFileTest, NamesTheFileThatCannotBeWritten) {
  const absl::Status none = OutputFile::Create(Name("no/f")).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.message()), HasSubstr("no/f.part'"));
}

}  // namespace
}  // namespace engram::client
