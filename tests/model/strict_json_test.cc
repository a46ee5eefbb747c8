#include "model/strict_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// `depth` arrays, one in the other.
std::string Nested(int depth) {
  return absl::StrCat(std::string(depth, '['), std::string(depth, ']'));
}

// One array of `count` numbers.
std::string Numbers(int count) {
  std::string text = "[0";
  for (int i = 1; i < count; ++i) text += ",0";
  return text + "]";
}

void ExpectRefused(const std::string& text, const std::string& why) {
  const absl::Status status = ParseStrictJson(text, "a.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith("a.json: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(StrictJson, GivesTheValueOfAText) {
  const auto value = ParseStrictJson(
      R"({"a": [1, -2, 2.5, true, null, "x"], "b": {"a": {}}})", "a.json");
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(value->at("a").size(), 6u);
  EXPECT_EQ(value->at("a").at(1), -2);
  EXPECT_EQ(value->at("a").at(5), "x");
  EXPECT_TRUE(value->at("b").at("a").is_object());
}

TEST(StrictJson, TellsWhereATextStopsToBeJson) {
  ExpectRefused("", "not JSON at byte");
  ExpectRefused("{\"a\": 1", "not JSON at byte 8");
  ExpectRefused("[1] [2]", "not JSON at byte 5");
  ExpectRefused("{\"a\": NaN}", "not JSON at byte");
  ExpectRefused("[\"\xff\"]", "not JSON at byte");
}

TEST(StrictJson, RefusesAKeyThatIsThereTwiceInOneObject) {
  ExpectRefused(R"({"a": 1, "b": 2, "a": 1})", "key \"a\" is there twice");
  ExpectRefused(R"([{"x": {"a": 1, "a": 2}}])", "key \"a\" is there twice");
  EXPECT_TRUE(
      ParseStrictJson(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})", "a.json")
          .ok());
}

TEST(StrictJson, RefusesDeepNestingBeforeItCostsStack) {
  EXPECT_TRUE(ParseStrictJson(Nested(64), "a.json").ok());
  ExpectRefused(Nested(65), "JSON nested deeper than 64");
  ExpectRefused(std::string(10'000'000, '['), "JSON nested deeper than 64");
}

TEST(StrictJson, RefusesMoreValuesThanAnyModelHas) {
  // The array itself is one.
  EXPECT_TRUE(ParseStrictJson(Numbers(3'999'999), "a.json").ok());
  ExpectRefused(Numbers(4'000'000), "more than 4000000 JSON values");
}

TEST(StrictJson, SaysWhatStandsThereInPlaceOfJson) {
  ExpectRefused("version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "git-lfs");
}

TEST(ReadSmallFile, GivesAFileUpToItsLimit) {
  const TemporaryFolder folder;
  folder.Write("a", "twelve bytes");
  const std::string path = folder.File("a");
  EXPECT_EQ(ReadSmallFile(path, 12).value(), "twelve bytes");
  const absl::Status longer = ReadSmallFile(path, 11).status();
  EXPECT_EQ(longer,
            absl::DataLossError(absl::StrCat(path, ": 12 bytes, limit 11")));
}

TEST(ReadSmallFile, TellsThatThereIsNone) {
  const TemporaryFolder folder;
  folder.Write("a", "");
  for (const char* name : {"none", "a/none"}) {
    const std::string path = folder.File(name);
    const absl::Status status = ReadSmallFile(path, 12).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST(ReadSmallFile, NeitherReadsNorWaitsForWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  const std::string pipe = folder.File("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(ReadSmallFile(pipe, 12).status(),
            absl::DataLossError(absl::StrCat(pipe, ": not a regular file")));
  EXPECT_EQ(ReadSmallFile(folder.path(), 12).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace engram
