#include "server/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Quantize, IsAskedForByItsFlag) {
  EXPECT_TRUE(AsksToQuantize({"--weights", "int8", "--quantize=floats"}));
  EXPECT_FALSE(AsksToQuantize({"--weights", "int8", "--model", "--quantizes"}));
}

TEST(Quantize, ReadsFoldersAndFormat) {
  const auto task = ReadQuantizeTask(
      {"--quantize", "floats", "--into=new", "--weights", "int4"});
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->source, "floats");
  EXPECT_EQ(task->target, "new");
  EXPECT_EQ(task->format, WeightFormat::kInt4);
}

TEST(Quantize, SaysWhatIsWrongAndHowItIsDone) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--quantize", "a", "--weights", "int8"}, "--into is missing"},
      {{"--quantize", "a", "--into", "b"}, "--weights is missing"},
      {{"--quantize", "a", "--into", "b", "--weights", "f16"},
       "--weights is \"f16\""},
      {{"--quantize", "a", "--into", "b", "--model", "c"},
       "unknown argument \"--model\""},
      {{"--quantize", "a", "--quantize", "b"}, "--quantize is there twice"}};
  for (const auto& [arguments, problem] : cases) {
    const absl::Status status = ReadQuantizeTask(arguments).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << problem;
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr(problem), HasSubstr("--into FOLDER --weights int8")));
  }
}

}  // namespace
}  // namespace engram
