// States that move as files: what goes on from one says what would have been
// said where it was, and what is refused leaves nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/moved_states.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Code = absl::StatusCode;

constexpr char kOtherWeights[] = "mamba-induction-t256";  // of kInduction

v1::GenerateRequest SeededTurn(const std::string& model,
                               const std::vector<int32_t>& prompt) {
  v1::GenerateRequest turn = TokenTurn(model, prompt, 5);
  turn.set_logprobs(1);
  turn.mutable_sampling()->set_temperature(0.9f);
  turn.mutable_sampling()->set_seed(7);
  turn.mutable_sampling()->set_repetition_penalty(1.3f);
  turn.mutable_stopping()->set_ignore_eos(true);
  return turn;
}

void ExpectEqual(const Answer& said, const Answer& elsewhere) {
  ASSERT_TRUE(said.status.ok()) << said.status;
  ASSERT_TRUE(elsewhere.status.ok()) << elsewhere.status;
  EXPECT_EQ(said.ids(), elsewhere.ids());
  EXPECT_EQ(said.logprobs(), elsewhere.logprobs());
  EXPECT_EQ(said.completed->position(), elsewhere.completed->position());
  EXPECT_EQ(said.completed->version(), elsewhere.completed->version());
}

// --- From one server to another.

ServerOptions EveryFamily() {
  return GoldenOptions({{"mamba", "mamba/odd"},
                        {"mamba2", "mamba2/odd"},
                        {"h3", "h3/plain"},
                        {"hybrid", "h3/hybrid_rotary"},
                        {"s4d", "s4d/plain"},
                        {"attention", "attention/rotary"}});
}

TEST(MovedStates, GoOnBitForBitAsWhereTheyWere) {
  const ServerOptions options = EveryFamily();
  TestServer here(options);
  TestServer there(options);
  for (const auto& [model, folder] : options.models) {
    SCOPED_TRACE(model);
    ASSERT_TRUE(
        here.client()
            .Generate(OnSession(SeededTurn(model, RandomIds(40, 30)), model))
            .status.ok());
    const std::string file = Export(here.address(), model);
    const auto moved = Import(there.address(), HeaderFor(model), file);
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->session().model(), model);
    EXPECT_EQ(moved->session().version(), 1);
    EXPECT_EQ(moved->session().position(), 44);
    EXPECT_TRUE(moved->session().pending_token());
    // What is there is what was here, and its file the same.
    EXPECT_EQ(Export(there.address(), model), file);
    v1::ImportRequest kept;
    kept.mutable_header()->set_checkpoint_id(model);
    ASSERT_TRUE(Import(there.address(), kept, file).ok());
    ASSERT_TRUE(there.client().Fork(model, absl::StrCat(model, "-fork")).ok());

    const v1::GenerateRequest next = SeededTurn(model, {3, 1, 2});
    const Answer said = here.client().Generate(OnSession(next, model));
    ExpectEqual(said, there.client().Generate(OnSession(next, model)));
    ExpectEqual(said, there.client().Generate(
                          OnSession(next, absl::StrCat(model, "-fork"))));
    v1::GenerateRequest from = OnSession(next, absl::StrCat(model, "-kept"));
    from.set_from_checkpoint(model);
    ExpectEqual(said, there.client().Generate(from));
  }
}

// --- Into one server.

// Two models of the same shapes, and a file of a session of the first.
class Imports : public ::testing::Test {
 protected:
  Imports() : options_(ZooOptions({kInduction, kOtherWeights})) {}

  // Made when it is first asked for, with the options there are then.
  TestServer& server() {
    if (server_ == nullptr) {
      server_ = std::make_unique<TestServer>(options_);
      const Answer said = server_->client().Generate(
          OnSession(TokenTurn(kInduction, {1, 2, 3}, 2), "source"));
      EXPECT_TRUE(said.status.ok()) << said.status;
      file_ = Export(server_->address(), "source");
    }
    return *server_;
  }
  const std::string& file() {
    server();
    return file_;
  }
  void ExpectRefused(const absl::StatusOr<v1::ImportResponse>& imported,
                     Code code, const ::testing::Matcher<std::string>& why,
                     const std::string& session_id = "s") {
    EXPECT_EQ(imported.status().code(), code) << imported.status();
    EXPECT_THAT(std::string(imported.status().message()), why);
    ExpectNoTrace(session_id);
  }
  // The client may know of the end before the server has let all go.
  void ExpectNoTrace(const std::string& session_id = "s") {
    EXPECT_EQ(server().client().GetSession(session_id).status().code(),
              Code::kNotFound);
    EXPECT_TRUE(
        Eventually([&] { return server().Metrics().Sum("reply_bytes") == 0; }));
  }
  double Counted(const std::string& code) {
    return server().Metrics().Sum(
        "requests_total",
        {"method=\"Sessions.Import\"", absl::StrCat("code=\"", code, "\"")});
  }

  ServerOptions options_;

 private:
  std::unique_ptr<TestServer> server_;
  std::string file_;
};

TEST_F(Imports, AreSessionsAsTheHeaderSays) {
  v1::ImportRequest header = HeaderFor("s");
  (*header.mutable_header()->mutable_labels())["k"] = "v";
  header.mutable_header()->mutable_time_to_live()->set_seconds(3600);
  const auto imported = Import(server().address(), header, file());
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->session().session_id(), "s");
  EXPECT_EQ(imported->session().model(), kInduction);
  EXPECT_EQ(imported->session().tier(), "ram");
  const auto told = server().client().GetSession("s");
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->labels().at("k"), "v");
  EXPECT_EQ(told->expire_time().seconds() - told->last_used_time().seconds(),
            3600);
  EXPECT_TRUE(Eventually([&] { return Counted("OK") == 1; }));
}

TEST_F(Imports, AreRefusedWhereTheyAreNotWhole) {
  for (const size_t bytes : {size_t{4}, size_t{100}, file().size() - 1}) {
    ExpectRefused(Import(server().address(),
                         {HeaderFor("s"), Part(file().substr(0, bytes))}),
                  Code::kInvalidArgument, HasSubstr("ends after"));
  }
  std::string damaged = file();
  damaged.back() ^= 1;
  ExpectRefused(Import(server().address(), HeaderFor("s"), damaged),
                Code::kInvalidArgument, HasSubstr("is damaged"));
  EXPECT_TRUE(Eventually([&] { return Counted("INVALID_ARGUMENT") == 4; }));
}

TEST_F(Imports, AreRefusedAtAnotherModel) {
  v1::ImportRequest header = HeaderFor("s");
  header.mutable_header()->set_model(kOtherWeights);
  const auto own = server().client().GetModel(kOtherWeights);
  const auto other = server().client().GetModel(kInduction);
  ExpectRefused(
      Import(server().address(), header, file()), Code::kInvalidArgument,
      AllOf(HasSubstr("has weight_hash"), HasSubstr(other->weight_hash()),
            HasSubstr(own->weight_hash()),
            HasSubstr("--import-unchecked-weights")));
  header.mutable_header()->set_model("nothing");
  ExpectRefused(Import(server().address(), header, file()), Code::kNotFound,
                HasSubstr("nothing"));
}

TEST_F(Imports, OfOtherWeightsAreTakenIfTheServerIsToldTo) {
  options_.import_unchecked_weights = true;
  v1::ImportRequest header = HeaderFor("s");
  header.mutable_header()->set_model(kOtherWeights);
  const auto imported = Import(server().address(), header, file());
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->session().model(), kOtherWeights);
  EXPECT_TRUE(server()
                  .client()
                  .Generate(OnSession(TokenTurn("", {1}, 1), "s"))
                  .status.ok());
}

TEST_F(Imports, ReplaceASessionOnlyIfToldTo) {
  const absl::Status exists =
      Import(server().address(), HeaderFor("source"), file()).status();
  EXPECT_EQ(exists, absl::AlreadyExistsError("session \"source\" exists"));
  ASSERT_TRUE(server()
                  .client()
                  .Generate(OnSession(TokenTurn("", {4}, 1), "source"))
                  .status.ok());
  const auto replaced =
      Import(server().address(), HeaderFor("source", /*replace=*/true), file());
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_EQ(replaced->session().version(), 1);
  EXPECT_EQ(Export(server().address(), "source"), file());
}

TEST_F(Imports, DoNotReplaceASessionThatRuns) {
  const auto running = server().client().StartGenerate(
      OnSession(EndlessTurn(kInduction), "source"));
  ASSERT_TRUE(running->ReadStarted());
  const absl::Status status =
      Import(server().address(), HeaderFor("source", /*replace=*/true), file())
          .status();
  EXPECT_EQ(status.code(), Code::kAborted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("has a running turn"));
  running->Cancel();
  EXPECT_FALSE(running->ReadAll().status.ok());
}

TEST_F(Imports, DoNotReplaceATurnThatCameMeanwhile) {
  GenericCall call(server().address(), kImportMethod);
  ASSERT_TRUE(call.Write(HeaderFor("source", /*replace=*/true)));
  ASSERT_TRUE(call.Write(Part(file())));
  // The header has been read when memory is held for what came behind it.
  ASSERT_TRUE(
      Eventually([&] { return server().Metrics().Sum("reply_bytes") > 0; }));
  ASSERT_TRUE(server()
                  .client()
                  .Generate(OnSession(TokenTurn("", {4}, 1), "source"))
                  .status.ok());
  call.WritesDone();
  v1::ImportResponse none;
  EXPECT_FALSE(call.Read(&none));
  const absl::Status status = call.Finish();
  EXPECT_EQ(status.code(), Code::kAborted) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is at version 2 and was at 1"));
}

TEST_F(Imports, ThatAreGivenUpLeaveNothing) {
  {
    GenericCall call(server().address(), kImportMethod);
    ASSERT_TRUE(call.Write(HeaderFor("s")));
    ASSERT_TRUE(call.Write(Part(file().substr(0, file().size() / 2))));
    ASSERT_TRUE(
        Eventually([&] { return server().Metrics().Sum("reply_bytes") > 0; }));
  }
  ExpectNoTrace();
}

TEST(ImportsThatStop, EndWithTheirTime) {
  ServerOptions options = ZooOptions({kInduction});
  options.slow_reader_timeout = absl::Seconds(1);
  TestServer server(options);
  GenericCall call(server.address(), kImportMethod);
  call.Write(HeaderFor("s"));
  // Less than a header's length.
  call.Write(Part("1234"));
  v1::ImportResponse none;
  EXPECT_FALSE(call.Read(&none));
  const absl::Status status = call.Finish();
  EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("no part of the state came for 1s"));
}

TEST_F(Imports, EndWhenTheServerIsStopping) {
  GenericCall call(server().address(), kImportMethod);
  ASSERT_TRUE(call.Write(HeaderFor("s")));
  ASSERT_TRUE(call.Write(Part(file().substr(0, file().size() / 2))));
  ASSERT_TRUE(
      Eventually([&] { return server().Metrics().Sum("reply_bytes") > 0; }));
  EXPECT_TRUE(server().server().Drain().ok());
  v1::ImportResponse none;
  EXPECT_FALSE(call.Read(&none));
  const absl::Status status = call.Finish();
  EXPECT_EQ(status.code(), Code::kUnavailable) << status;
}

TEST_F(Imports, HaveNoPlaceWhereThereIsNoReplyMemory) {
  ASSERT_FALSE(file().empty());
  ServerOptions options = ZooOptions({kInduction});
  options.reply_memory = static_cast<int64_t>(file().size());
  TestServer small(options);
  const absl::Status status =
      Import(small.address(), HeaderFor("s"), file()).status();
  EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--reply-memory"));
}

TEST_F(Imports, AreAHeaderAndThenBytes) {
  const auto invalid = [&](const std::vector<v1::ImportRequest>& messages,
                           const std::string& why) {
    ExpectRefused(Import(server().address(), messages), Code::kInvalidArgument,
                  HasSubstr(why));
  };
  invalid({}, "without a header");
  invalid({Part("x")}, "the first message of an Import is to be its header");
  invalid({HeaderFor("s"), HeaderFor("s")}, "and no other");
  invalid({v1::ImportRequest()}, "is to be its header");
  invalid({HeaderFor("s"), Part("")}, "a part of the state has no bytes");
  invalid({HeaderFor("s")}, "ends after 0 bytes");
  invalid({HeaderFor("")}, "session_id");
  v1::ImportRequest header;
  header.mutable_header()->set_checkpoint_id("c");
  header.mutable_header()->mutable_time_to_live()->set_seconds(1);
  invalid({header}, "a checkpoint stays until it is deleted");
}

}  // namespace
}  // namespace engram
