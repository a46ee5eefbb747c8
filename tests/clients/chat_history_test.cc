#include "clients/cpp/chat_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/support/temporary_folder.h"

namespace engram::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ChatHistoryTest : public ::testing::Test {
 protected:
  const TemporaryFolder folder_;
  const std::string file_ = folder_.File("state/engram/chat_history");
};

TEST_F(ChatHistoryTest, KeepsLinesForItsOwnerOnly) {
  EXPECT_THAT(*ChatHistory(file_).Load(), IsEmpty());
  EXPECT_TRUE(ChatHistory(file_).Append("one").ok());
  EXPECT_TRUE(ChatHistory(file_).Append("zw\xc3\xb6lf").ok());
  EXPECT_THAT(*ChatHistory(file_).Load(), ElementsAre("one", "zw\xc3\xb6lf"));
  struct stat status;
  ASSERT_EQ(stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(folder_.File("state/engram").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST_F(ChatHistoryTest, ForgetsTheOldestOfMany) {
  const size_t many = 2 * ChatHistory::kLinesMax + 1;
  std::filesystem::create_directories(folder_.File("state/engram"));
  {
    std::ofstream file(file_);
    for (size_t i = 0; i < many; ++i) file << i << "\n";
  }
  const std::vector<std::string> lines = *ChatHistory(file_).Load();
  EXPECT_THAT(lines, SizeIs(ChatHistory::kLinesMax));
  EXPECT_EQ(lines.back(), absl::StrCat(many - 1));
  // Also in the file, which holds no more than those now.
  std::ifstream file(file_);
  std::string first;
  std::getline(file, first);
  EXPECT_EQ(first, lines.front());
}

TEST_F(ChatHistoryTest, LeavesOutWhatIsNotUtf8) {
  std::filesystem::create_directories(folder_.File("state/engram"));
  std::ofstream(file_) << "good\nb\xff"
                          "d\n\nlast";
  EXPECT_THAT(*ChatHistory(file_).Load(), ElementsAre("good", "last"));
}

TEST_F(ChatHistoryTest, KeepsNothingWithoutAFile) {
  EXPECT_TRUE(ChatHistory("").Append("one").ok());
  EXPECT_THAT(*ChatHistory("").Load(), IsEmpty());
}

TEST_F(ChatHistoryTest, NamesAFileThatCannotBeWritten) {
  const absl::Status status = ChatHistory("/dev/null/history").Append("one");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("/dev/null/history: Not a directory"));
}

TEST_F(ChatHistoryTest, SaysIfOnlyAPartCouldBeWritten) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit four_bytes = {4, before.rlim_max};
  ASSERT_NE(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &four_bytes), 0);
  errno = 0;
  const absl::Status status = ChatHistory(file_).Append("a line");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("chat_history: File too large"));
}

TEST_F(ChatHistoryTest, LiesInTheFolderForStates) {
  setenv("HOME", "/home/somebody", /*replace=*/1);
  setenv("XDG_STATE_HOME", "/states", /*replace=*/1);
  EXPECT_EQ(DefaultChatHistoryFile(), "/states/engram/chat_history");
  setenv("XDG_STATE_HOME", "relative", /*replace=*/1);
  EXPECT_EQ(DefaultChatHistoryFile(),
            "/home/somebody/.local/state/engram/chat_history");
  unsetenv("XDG_STATE_HOME");
  unsetenv("HOME");
  EXPECT_EQ(DefaultChatHistoryFile(), "");
}

}  // namespace
}  // namespace engram::client
