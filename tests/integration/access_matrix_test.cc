// Every method that the server tells of by reflection, called by whoever may
// and by whoever may not. A method without a row here fails the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engram/v1/inspection.pb.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/reflected_descriptors.h"
#include "tests/integration/standard_services.pb.h"
#include "tests/support/key_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

namespace pb = google::protobuf;

// A role that a method asks for, and one more key that has it not.
struct Asked {
  const char* by;       // a key that may call it; nullptr: no key is needed
  const char* without;  // a key that may not, although it is good
  const char* lack;     // what it is told that it lacks
};

constexpr Asked kNothing = {nullptr, nullptr, nullptr};
constexpr Asked kAnyKey = {"bare", nullptr, nullptr};
constexpr Asked kGenerate = {"writer", "keeper", "has no role \"generate\""};
constexpr Asked kSessions = {"keeper", "writer", "has no role \"sessions\""};
constexpr Asked kInspect = {"viewer", "writer", "has no role \"inspect\""};
constexpr Asked kOperator = {"operator", "admin", "is not one of tenant \"*\""};

struct Row {
  const char* path;
  const char* name;  // as refusals have it
  Asked asked;
  // What it is called with, on a session of this id if it takes any.
  std::function<std::string(const std::string& session_id)> message;
  bool takes_session = false;
  absl::StatusCode let_in = absl::StatusCode::kOk;
  // On a session that never was.
  absl::StatusCode nobodys = absl::StatusCode::kNotFound;
};

std::string Empty(const std::string&) { return ""; }

template <typename Request>
std::string OfSession(const std::string& session_id) {
  Request request;
  request.set_session_id(session_id);
  return request.SerializeAsString();
}

// Only on a session that there is.
v1::GenerateRequest TurnOn(const std::string& session_id) {
  v1::GenerateRequest turn =
      OnSession(TokenTurn(kInduction, {1}, 1), session_id);
  turn.set_expected_version(1);
  return turn;
}

v1::CheckpointSessionRequest CheckpointOf(const std::string& session_id,
                                          const std::string& checkpoint_id) {
  v1::CheckpointSessionRequest request;
  request.set_session_id(session_id);
  request.set_checkpoint_id(checkpoint_id);
  return request;
}

std::vector<Row> Table() {
  const auto generate = [](const std::string& id) {
    return TurnOn(id).SerializeAsString();
  };
  const auto converse = [](const std::string& id) {
    v1::ConverseRequest request;
    *request.mutable_turn() = TurnOn(id);
    return request.SerializeAsString();
  };
  const auto score = [](const std::string& id) {
    return TokenScore(kInduction, {1, 2}, id).SerializeAsString();
  };
  const auto create = [](const std::string&) {
    v1::CreateSessionRequest request;
    request.set_model(kInduction);
    return request.SerializeAsString();
  };
  const auto checkpoint = [](const std::string& id) {
    return CheckpointOf(id, "another").SerializeAsString();
  };
  const auto delete_checkpoint = [](const std::string& id) {
    v1::DeleteCheckpointRequest request;
    request.set_checkpoint_id(id);
    return request.SerializeAsString();
  };
  // Without a state, where the id is free.
  const auto import = [](const std::string& id) {
    v1::ImportRequest request;
    request.mutable_header()->set_session_id(id);
    return request.SerializeAsString();
  };
  const auto read_out = [](const std::string& id) {
    v1::ReadOutRequest request;
    request.set_model(kInduction);
    request.set_session_id(id);
    request.add_query_ids(3);
    return request.SerializeAsString();
  };
  const auto attribute = [](const std::string& id) {
    v1::AttributeRequest request;
    request.set_model(kInduction);
    request.set_session_id(id);
    request.mutable_token_ids()->add_ids(3);
    return request.SerializeAsString();
  };
  const auto ablate = [](const std::string& id) {
    v1::AblateRequest request;
    request.set_model(kInduction);
    request.set_session_id(id);
    request.mutable_token_ids()->add_ids(3);
    request.add_edits()->mutable_local_scan();
    return request.SerializeAsString();
  };
  const auto tokenize = [](const std::string&) {
    v1::TokenizeRequest request;
    request.set_model(kInduction);
    request.set_text("1 2");
    return request.SerializeAsString();
  };
  const auto reflection = [](const std::string&) {
    testing::ReflectionRequest request;
    request.set_list_services("*");
    return request.SerializeAsString();
  };
  const auto not_found = absl::StatusCode::kNotFound;
  // In the words of gRPC, of numbers that are nobody's.
  const auto internal = absl::StatusCode::kInternal;
  const auto ok = absl::StatusCode::kOk;
  // A turn would begin a session, but for the version that it expects.
  const auto expected = absl::StatusCode::kFailedPrecondition;
  const auto channelz = [&](const char* path, absl::StatusCode code) {
    return Row{path, path, kOperator, Empty, false, code, ok};
  };
  return {
      {"/engram.v1.Generation/Generate", "Generate", kGenerate, generate, true,
       ok, expected},
      {"/engram.v1.Generation/Converse", "Converse", kGenerate, converse, true,
       ok, expected},
      {"/engram.v1.Generation/Score", "Score", kGenerate, score, true},
      {"/engram.v1.Sessions/Create", "Sessions.Create", kSessions, create},
      {"/engram.v1.Sessions/Get", "Sessions.Get", kSessions,
       OfSession<v1::GetSessionRequest>, true},
      {"/engram.v1.Sessions/List", "Sessions.List", kSessions, Empty},
      {"/engram.v1.Sessions/Fork", "Sessions.Fork", kSessions,
       OfSession<v1::ForkSessionRequest>, true},
      {"/engram.v1.Sessions/Checkpoint", "Sessions.Checkpoint", kSessions,
       checkpoint, true},
      {"/engram.v1.Sessions/ListCheckpoints", "Sessions.ListCheckpoints",
       kSessions, Empty},
      {"/engram.v1.Sessions/DeleteCheckpoint", "Sessions.DeleteCheckpoint",
       kSessions, delete_checkpoint, true},
      {"/engram.v1.Sessions/Export", "Sessions.Export", kSessions,
       OfSession<v1::ExportRequest>, true},
      {"/engram.v1.Sessions/Import", "Sessions.Import", kSessions, import, true,
       absl::StatusCode::kAlreadyExists, absl::StatusCode::kInvalidArgument},
      {"/engram.v1.Sessions/Delete", "Sessions.Delete", kSessions,
       OfSession<v1::DeleteSessionRequest>, true},
      {"/engram.v1.Inspection/Describe", "Inspection.Describe", kInspect,
       OfSession<v1::DescribeRequest>, true},
      {"/engram.v1.Inspection/ReadOut", "Inspection.ReadOut", kInspect,
       read_out, true},
      {"/engram.v1.Inspection/Attribute", "Inspection.Attribute", kInspect,
       attribute, true},
      {"/engram.v1.Inspection/Ablate", "Inspection.Ablate", kInspect, ablate,
       true},
      {"/engram.v1.Models/List", "Models.List", kAnyKey, Empty},
      {"/engram.v1.Models/Get", "Models.Get", kAnyKey, Empty},
      {"/engram.v1.Models/Tokenize", "Tokenize", kAnyKey, tokenize},
      {"/engram.v1.Models/Detokenize", "Detokenize", kAnyKey, Empty},
      {"/grpc.health.v1.Health/Check", "", kNothing, Empty},
      {"/grpc.health.v1.Health/Watch", "", kNothing, Empty},
      {kReflection, kReflection, kAnyKey, reflection},
      channelz("/grpc.channelz.v1.Channelz/GetServers", ok),
      channelz("/grpc.channelz.v1.Channelz/GetTopChannels", ok),
      channelz("/grpc.channelz.v1.Channelz/GetServer", internal),
      channelz("/grpc.channelz.v1.Channelz/GetServerSockets", internal),
      channelz("/grpc.channelz.v1.Channelz/GetChannel", not_found),
      channelz("/grpc.channelz.v1.Channelz/GetSubchannel", not_found),
      channelz("/grpc.channelz.v1.Channelz/GetSocket", not_found),
  };
}

class AccessMatrix : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const char* const admin = R"("roles": ["admin"])";
    folder_->Write(
        "keys",
        KeysText({KeyEntry("bare", "acme"),
                  KeyEntry("writer", "acme", R"("roles": ["generate"])"),
                  KeyEntry("keeper", "acme", R"("roles": ["sessions"])"),
                  KeyEntry("viewer", "acme", R"("roles": ["inspect"])"),
                  KeyEntry("admin", "acme", admin),
                  KeyEntry("other", "other", admin),
                  KeyEntry("operator", "*", admin),
                  KeyEntry("expired", "acme",
                           R"("roles": ["admin"],
                              "expires": "2001-02-03T04:05:06Z")")}));
    ServerOptions options = ZooOptions({kInduction});
    options.keys = folder_->File("keys");
    options.reflection = ReflectionMode::kKeyed;
    server_ = new TestServer(options);
  }
  static void TearDownTestSuite() {
    delete server_;
    delete folder_;
  }

  static CallMetadata Showing(const char* key) {
    if (key == nullptr) return {};
    return {{"authorization", AuthorizationOf(key)}};
  }

  struct Outcome {
    // How the call ends, or OK once it has answered and only goes on.
    absl::Status status;
    int answers = 0;
  };

  static Outcome Call(const Row& row, const CallMetadata& metadata,
                      const std::string& session_id = "") {
    GenericCall call(server_->address(), row.path, metadata);
    call.WriteBytes(row.message(session_id));
    call.WritesDone();
    Outcome outcome;
    testing::HealthResponse ignored;  // every message's fields are unknown
    while (call.Read(&ignored)) {
      ++outcome.answers;
      if (absl::EndsWith(row.path, "/Watch")) return outcome;
    }
    outcome.status = call.Finish();
    return outcome;
  }

  static void ExpectRefused(const Row& row, const CallMetadata& metadata,
                            const absl::Status& status) {
    const Outcome outcome = Call(row, metadata);
    EXPECT_EQ(outcome.status, status);
    EXPECT_EQ(outcome.answers, 0);
  }

  // A session of the tenant of `key`, and a checkpoint of the same id.
  static void MakeSession(const std::string& session_id, const char* key) {
    v1::GenerateRequest turn =
        OnSession(TokenTurn(kInduction, {1}, 1), session_id);
    GenericCall call(server_->address(), "/engram.v1.Generation/Generate",
                     Showing(key));
    ASSERT_TRUE(call.Write(turn));
    call.WritesDone();
    testing::HealthResponse ignored;
    while (call.Read(&ignored)) {
    }
    const absl::Status status = call.Finish();
    ASSERT_TRUE(status.ok()) << status;
    const absl::Status kept = CallOnce(
        server_->address(), "/engram.v1.Sessions/Checkpoint",
        CheckpointOf(session_id, session_id), &ignored, Showing("keeper"));
    ASSERT_TRUE(kept.ok()) << kept;
  }

  static TemporaryFolder* folder_;
  static TestServer* server_;
};

TemporaryFolder* AccessMatrix::folder_ = nullptr;
TestServer* AccessMatrix::server_ = nullptr;

TEST_F(AccessMatrix, TheTableHasEveryMethodThatThereIs) {
  std::set<std::string> reflected;
  {
    ReflectedDescriptors descriptors(server_->address(), Showing("bare"));
    for (const std::string& name : descriptors.Services()) {
      const pb::ServiceDescriptor* service = descriptors.FindService(name);
      ASSERT_NE(service, nullptr) << name;
      for (int i = 0; i < service->method_count(); ++i) {
        reflected.insert(
            absl::StrCat("/", name, "/", service->method(i)->name()));
      }
    }
  }
  std::set<std::string> known;
  for (const Row& row : Table()) known.insert(row.path);
  EXPECT_EQ(reflected, known);
}

TEST_F(AccessMatrix, WithoutAKeyThatIsKnownNothingIsAnswered) {
  for (const Row& row : Table()) {
    if (row.asked.by == nullptr) continue;
    SCOPED_TRACE(row.path);
    ExpectRefused(row, {},
                  absl::UnauthenticatedError(
                      "no key: send metadata authorization: Bearer KEY"));
    ExpectRefused(row, Showing("nobody"),
                  absl::UnauthenticatedError("unknown key"));
    ExpectRefused(row, Showing("expired"),
                  absl::UnauthenticatedError(
                      "key \"expired\" expired at 2001-02-03T04:05:06Z"));
  }
}

TEST_F(AccessMatrix, WithoutTheRoleNothingIsAnswered) {
  for (const Row& row : Table()) {
    if (row.asked.without == nullptr) continue;
    SCOPED_TRACE(row.path);
    ExpectRefused(
        row, Showing(row.asked.without),
        absl::PermissionDeniedError(absl::StrCat(
            row.name, ": key \"", row.asked.without, "\" ", row.asked.lack)));
  }
}

TEST_F(AccessMatrix, WhoMayIsLetIn) {
  for (const Row& row : Table()) {
    SCOPED_TRACE(row.path);
    const std::string session_id = absl::StrCat("right-", row.name);
    if (row.takes_session) MakeSession(session_id, "writer");
    const Outcome outcome = Call(row, Showing(row.asked.by), session_id);
    EXPECT_EQ(outcome.status.code(), row.let_in) << outcome.status;
    EXPECT_EQ(outcome.answers > 0, outcome.status.ok());
  }
}

// What a call is told of a session of another tenant, and of none.
TEST_F(AccessMatrix, AnotherTenantsSessionIsAsOneThatNeverWas) {
  MakeSession("theirs", "writer");
  for (const Row& row : Table()) {
    if (!row.takes_session) continue;
    SCOPED_TRACE(row.path);
    const Outcome theirs = Call(row, Showing("other"), "theirs");
    const Outcome nobodys = Call(row, Showing("other"), "nobody");
    EXPECT_EQ(theirs.status.code(), row.nobodys) << theirs.status;
    EXPECT_EQ(
        absl::StrReplaceAll(theirs.status.message(), {{"theirs", "nobody"}}),
        nobodys.status.message());
    EXPECT_EQ(nobodys.status.code(), row.nobodys) << nobodys.status;
    EXPECT_EQ(theirs.answers, 0);
    EXPECT_EQ(nobodys.answers, 0);
  }
}

// A stream may be older than the file of keys: each turn is asked again. How a
// stream ends on which `first` had a turn when the keys were `before`, and that
// would have another when they are `after`.
absl::Status EndOfStreamWhoseKeysChange(const std::vector<std::string>& before,
                                        const std::vector<std::string>& after) {
  TemporaryFolder folder;
  folder.Write("keys", KeysText(before));
  ServerOptions options = ZooOptions({kInduction});
  options.keys = folder.File("keys");
  TestServer server(options);
  GenericCall stream(server.address(), "/engram.v1.Generation/Converse",
                     {{"authorization", AuthorizationOf("first")}});
  v1::ConverseRequest turn;
  *turn.mutable_turn() = TokenTurn(kInduction, {1}, 1);
  EXPECT_TRUE(stream.Write(turn));
  v1::ConverseResponse response;
  while (!response.has_completed()) {
    if (!stream.Read(&response)) return stream.Finish();
  }
  folder.Write("keys", KeysText(after));
  const double count = static_cast<double>(after.size());
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("keys") == count; }));
  EXPECT_TRUE(stream.Write(turn));
  if (stream.Read(&response)) return absl::OkStatus();  // it goes on
  return stream.Finish();
}

TEST(Access, AKeyThatIsGoneBeginsNoTurnOnAStreamThatIsOpen) {
  const std::string first =
      KeyEntry("first", "acme", R"("roles": ["generate"])");
  const std::string other = KeyEntry("other", "acme");
  EXPECT_EQ(EndOfStreamWhoseKeysChange({first, other}, {other}),
            absl::UnauthenticatedError("unknown key"));
}

TEST(Access, AKeyThatIsAnotherTenantsNowBeginsNoTurnOnAStreamThatIsOpen) {
  const char* const generate = R"("roles": ["generate"])";
  EXPECT_EQ(EndOfStreamWhoseKeysChange({KeyEntry("first", "acme", generate),
                                        KeyEntry("other", "acme")},
                                       {KeyEntry("first", "other", generate)}),
            absl::UnauthenticatedError(
                "the key is another tenant's now; open a new stream"));
}

// A path is the client's to choose, of any length.
TEST_F(AccessMatrix, AMethodThatThereIsNotIsRefusedUnderOneNameForAll) {
  const std::vector<std::string> labels = {"method=\"unknown\"",
                                           "code=\"UNAUTHENTICATED\""};
  const MetricsPage before = server_->Metrics();
  testing::HealthResponse none;
  for (int i = 0; i < 100; ++i) {
    const absl::Status status =
        CallOnce(server_->address(), absl::StrCat("/no.such.Service/", i),
                 testing::HealthRequest(), &none);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
  }
  const absl::Status denied =
      CallOnce(server_->address(), "/no.such.Service/Steal",
               testing::HealthRequest(), &none, Showing("operator"));
  EXPECT_EQ(denied.code(), absl::StatusCode::kPermissionDenied) << denied;
  const MetricsPage after = server_->Metrics();
  EXPECT_EQ(before.Samples("requests_total"), after.Samples("requests_total"));
  EXPECT_EQ(after.Sum("requests_total", labels),
            before.Sum("requests_total", labels) + 100);
}

TEST_F(AccessMatrix, RefusalsAreCountedByMethodAndCode) {
  const MetricsPage before = server_->Metrics();
  const std::vector<std::string> unauthenticated = {
      "method=\"Sessions.Get\"", "code=\"UNAUTHENTICATED\"", "model=\"\""};
  const std::vector<std::string> denied = {"method=\"Sessions.Get\"",
                                           "code=\"PERMISSION_DENIED\""};
  for (const Row& row : Table()) {
    if (std::string(row.name) != "Sessions.Get") continue;
    Call(row, {});
    Call(row, Showing("writer"));
  }
  const MetricsPage after = server_->Metrics();
  // Of the two that there are, only one is known to be of a tenant.
  const std::vector<std::string> theirs = {"tenant=\"acme\"",
                                           "code=\"PERMISSION_DENIED\""};
  EXPECT_EQ(after.Sum("tenant_requests_total", theirs),
            before.Sum("tenant_requests_total", theirs) + 1);
  for (const auto& labels : {unauthenticated, denied}) {
    EXPECT_EQ(after.Sum("requests_total", labels),
              before.Sum("requests_total", labels) + 1);
  }
  EXPECT_THAT(before.Samples("requests_total"),
              ::testing::ElementsAreArray(after.Samples("requests_total")));
  EXPECT_EQ(after.Sum("keys"), 8);
  EXPECT_EQ(after.Sum("keys_reload_failures_total"), 0);
}

}  // namespace
}  // namespace engram
