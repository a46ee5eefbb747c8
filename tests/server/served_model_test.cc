#include "server/served_model.h"

#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ServedModelsTest : public ::testing::Test {
 protected:
  ServedModelsTest() : sessions_({}, &clock_), models_(&sessions_) {}

  void Add(const std::string& name) {
    auto model = std::make_unique<ServedModel>();
    model->name = name;
    model->number = sessions_.AddModel(name, {.state_bytes = 8});
    models_.Add(std::move(model));
  }

  FakeClock clock_;
  SessionStore sessions_;
  ServedModels models_;
};

TEST_F(ServedModelsTest, FindsAModelByName) {
  Add("a");
  Add("b");
  EXPECT_EQ((*models_.Find("b"))->name, "b");
}

TEST_F(ServedModelsTest, TakesTheOnlyOneIfNoneIsNamed) {
  Add("a");
  EXPECT_EQ((*models_.Find(""))->name, "a");
  EXPECT_EQ((*models_.Find("", Named("new"), Named("")))->name, "a");
}

TEST_F(ServedModelsTest, TakesTheModelOfTheSessionIfNoneIsNamed) {
  Add("a");
  Add("b");
  ASSERT_TRUE(sessions_.Create(EmptySession("s", 1)).ok());
  EXPECT_EQ((*models_.Find("", Named("s"), Named("")))->name, "b");
}

TEST_F(ServedModelsTest, TakesTheModelOfTheCheckpointIfThereIsNoSession) {
  Add("a");
  Add("b");
  ASSERT_TRUE(sessions_.Create(EmptySession("of a", 0)).ok());
  ASSERT_TRUE(sessions_.Create(EmptySession("of b", 1)).ok());
  CommittedTurns turns;
  turns.position = 1;
  ASSERT_TRUE(sessions_
                  .InstallCheckpoint(*sessions_.Find(Named("of b")),
                                     {.id = "c"}, turns, MakeBlock(8))
                  .ok());
  EXPECT_EQ((*models_.Find("", Named("new"), Named("c")))->name, "b");
  EXPECT_EQ((*models_.Find("", Named("of a"), Named("c")))->name, "a");
  EXPECT_EQ((*models_.Find("a", Named("new"), Named("c")))->name, "a");
  EXPECT_EQ(models_.Find("", Named("new"), Named("d")).status(),
            absl::NotFoundError("there is no checkpoint \"d\""));
}

TEST_F(ServedModelsTest, ListsTheNamesIfItMustBeNamed) {
  Add("a");
  Add("b");
  const absl::Status status = models_.Find("").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a, b"));
}

TEST_F(ServedModelsTest, ListsTheNamesIfThereIsNoSuchModel) {
  Add("a");
  Add("b");
  const absl::Status status = models_.Find("c").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("\"c\""), HasSubstr("a, b")));
}

}  // namespace
}  // namespace engram
