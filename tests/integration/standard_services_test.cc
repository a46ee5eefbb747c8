// What any gRPC tool expects of a server: health and reflection, used by name
// alone.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/reflected_descriptors.h"
#include "tests/integration/standard_services.pb.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

namespace pb = google::protobuf;
using ::testing::Contains;
using testing::HealthRequest;
using testing::HealthResponse;
using testing::ReflectionResponse;

constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";

class StandardServices : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new TestServer(ZooOptions({kEnglish, kInduction}));
  }
  static void TearDownTestSuite() { delete server_; }

  static TestServer* server_;
};

TestServer* StandardServices::server_ = nullptr;

TEST_F(StandardServices, HealthChecksTheServerAndEachModel) {
  for (const char* service : {"", kEnglish, kInduction}) {
    SCOPED_TRACE(service);
    HealthRequest request;
    request.set_service(service);
    HealthResponse response;
    ASSERT_TRUE(CallOnce(server_->address(), kCheck, request, &response).ok());
    EXPECT_EQ(response.status(), HealthResponse::SERVING);

    GenericCall watch(server_->address(), kWatch);
    ASSERT_TRUE(watch.Write(request));
    watch.WritesDone();
    ASSERT_TRUE(watch.Read(&response));
    EXPECT_EQ(response.status(), HealthResponse::SERVING);
  }
}

TEST(Health, WatchesAreToldOfADrainAndThenEnded) {
  TestServer server(ZooOptions({kInduction}));
  std::vector<std::unique_ptr<GenericCall>> watches;
  HealthResponse response;
  for (const char* service : {"", kInduction, "unknown"}) {
    HealthRequest request;
    request.set_service(service);
    watches.push_back(std::make_unique<GenericCall>(server.address(), kWatch));
    ASSERT_TRUE(watches.back()->Write(request));
    ASSERT_TRUE(watches.back()->Read(&response));
  }
  EXPECT_TRUE(server.server().Drain().ok());
  for (size_t i = 0; i < watches.size(); ++i) {
    SCOPED_TRACE(i);
    const bool known = i < 2;
    EXPECT_EQ(watches[i]->Read(&response), known);
    if (known) {
      EXPECT_EQ(response.status(), HealthResponse::NOT_SERVING);
      EXPECT_FALSE(watches[i]->Read(&response));
    }
    EXPECT_EQ(watches[i]->Finish().code(), absl::StatusCode::kUnavailable);
  }
}

TEST(Health, AWatchThatItsClientLeavesEnds) {
  TestServer server(ZooOptions({kInduction}));
  for (int i = 0; i < 20; ++i) {
    GenericCall watch(server.address(), kWatch);
    ASSERT_TRUE(watch.Write(HealthRequest()));
    HealthResponse response;
    if (i % 2 == 0) {
      ASSERT_TRUE(watch.Read(&response));
    }
  }
  HealthResponse response;
  EXPECT_TRUE(
      CallOnce(server.address(), kCheck, HealthRequest(), &response).ok());
  EXPECT_TRUE(server.server().Drain().ok());
}

// gRPC keeps a watch's request for as long as the watch goes on.
TEST_F(StandardServices, AWatchIsOfNoLongMessage) {
  HealthRequest request;
  request.set_service(std::string(1000, 'x'));
  HealthResponse response;
  GenericCall watch(server_->address(), kWatch);
  ASSERT_TRUE(watch.Write(request));
  watch.WritesDone();
  ASSERT_TRUE(watch.Read(&response));
  EXPECT_EQ(response.status(), HealthResponse::SERVICE_UNKNOWN);
  // A name, and a field 1000 that the message does not have.
  request.set_service(std::string(1100, 'x'));
  const std::string unknown =
      absl::StrCat("\xc2\x3e\xcc\x08", std::string(1100, 'x'));
  for (const std::string& bytes : {request.SerializeAsString(), unknown}) {
    GenericCall refused(server_->address(), kWatch);
    ASSERT_TRUE(refused.WriteBytes(bytes));
    refused.WritesDone();
    ASSERT_FALSE(refused.Read(&response));
    EXPECT_EQ(refused.Finish(), absl::NotFoundError("no such service"));
  }
}

// Their calls are gRPC's own, and have no end of themselves.
TEST(Reflection, AStreamThatIsOpenEndsWithTheServer) {
  TestServer server(ZooOptions({kInduction}));
  GenericCall call(server.address(), kReflection);
  testing::ReflectionRequest request;
  request.set_list_services("*");
  ASSERT_TRUE(call.Write(request));
  ReflectionResponse response;
  ASSERT_TRUE(call.Read(&response));
  EXPECT_TRUE(server.server().Drain().ok());
  EXPECT_FALSE(call.Read(&response));
  EXPECT_EQ(call.Finish().code(), absl::StatusCode::kUnavailable);
}

// Each keeps a thread.
TEST(Reflection, SoManyStreamsAreOpenAndNoMore) {
  TestServer server(ZooOptions({kInduction}));
  testing::ReflectionRequest request;
  request.set_list_services("*");
  std::vector<std::unique_ptr<GenericCall>> streams;
  int refused = 0;
  for (int i = 0; i < 80; ++i) {
    auto stream = std::make_unique<GenericCall>(server.address(), kReflection);
    stream->Write(request);  // it may be refused by then
    ReflectionResponse response;
    if (stream->Read(&response)) {
      streams.push_back(std::move(stream));
    } else {
      EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kResourceExhausted);
      ++refused;
    }
  }
  EXPECT_GE(streams.size(), 50);
  EXPECT_GE(refused, 80 - 64);
  EXPECT_TRUE(
      server.client().Generate(TokenTurn(kInduction, {1}, 1)).status.ok());
  // Whoever leaves makes room.
  streams.clear();
  EXPECT_TRUE(Eventually([&] {
    ReflectionResponse response;
    return CallOnce(server.address(), kReflection, request, &response).ok();
  }));
}

TEST(Reflection, ItCanBeSwitchedOff) {
  ServerOptions options = ZooOptions({kInduction});
  options.reflection = ReflectionMode::kOff;
  TestServer server(options);
  HealthResponse none;
  EXPECT_EQ(
      CallOnce(server.address(), kReflection, HealthRequest(), &none).code(),
      absl::StatusCode::kUnimplemented);
}

TEST_F(StandardServices, HealthDoesNotKnowOtherNames) {
  HealthRequest request;
  request.set_service("gpt");
  HealthResponse response;
  EXPECT_EQ(CallOnce(server_->address(), kCheck, request, &response).code(),
            absl::StatusCode::kNotFound);
  GenericCall watch(server_->address(), kWatch);
  ASSERT_TRUE(watch.Write(request));
  watch.WritesDone();
  ASSERT_TRUE(watch.Read(&response));
  EXPECT_EQ(response.status(), HealthResponse::SERVICE_UNKNOWN);
}

// Bytes that are no message of ours are an error, never an answer.
TEST_F(StandardServices, DamagedMessagesAreRefused) {
  // Field 1 of any kind of message, and not what any expects there.
  ReflectionResponse::Files damaged;
  damaged.add_file_descriptor_proto("\xff\xff\xff");
  for (const char* method :
       {"Generation/Generate", "Generation/Converse", "Generation/Score",
        "Sessions/Get", "Models/Tokenize"}) {
    SCOPED_TRACE(method);
    GenericCall call(server_->address(), absl::StrCat("/engram.v1.", method));
    ASSERT_TRUE(call.Write(damaged));
    call.WritesDone();
    HealthResponse none;
    EXPECT_FALSE(call.Read(&none));
    EXPECT_FALSE(call.Finish().ok());
  }
}

// A proxy routes by the metadata: where they differ, the session is elsewhere.
TEST_F(StandardServices, MetadataThatNameAnotherSessionAreRefused) {
  v1::CreateSessionRequest create;
  create.set_model(kInduction);
  create.set_session_id("group:one");
  v1::GenerateRequest turn =
      OnSession(TokenTurn(kInduction, {1}, 1), "group:one");
  v1::ScoreRequest score = TokenScore(kInduction, {1, 2}, "group:one");
  v1::GetSessionRequest get;
  get.set_session_id("group:one");
  v1::ForkSessionRequest fork;
  fork.set_session_id("group:one");
  v1::ExportRequest exported;
  exported.set_session_id("group:one");
  v1::DeleteSessionRequest remove;
  remove.set_session_id("group:one");
  const std::vector<std::pair<std::string, const pb::Message*>> calls = {
      {"Sessions/Create", &create}, {"Generation/Generate", &turn},
      {"Generation/Score", &score}, {"Sessions/Get", &get},
      {"Sessions/Fork", &fork},     {"Sessions/Export", &exported},
      {"Sessions/Delete", &remove}};
  for (const auto& [method, request] : calls) {
    SCOPED_TRACE(method);
    const std::string path = absl::StrCat("/engram.v1.", method);
    HealthResponse ignored;  // every message's fields are unknown to it
    const absl::Status refused =
        CallOnce(server_->address(), path, *request, &ignored,
                 {{"x-session-id", "group:two"}});
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_TRUE(absl::StrContains(refused.message(), "x-session-id"));
    GenericCall accepted(server_->address(), path,
                         {{"x-session-id", "group:one"}});
    ASSERT_TRUE(accepted.Write(*request));
    accepted.WritesDone();
    while (accepted.Read(&ignored)) {
    }
    EXPECT_TRUE(accepted.Finish().ok());
  }
}

TEST_F(StandardServices, AForkWithoutANameStaysInItsGroup) {
  for (const auto& [source, group] :
       std::vector<std::pair<std::string, std::string>>{{"alice", "alice:"},
                                                        {"bob:1:2", "bob:"}}) {
    ASSERT_TRUE(server_->client()
                    .Generate(OnSession(TokenTurn(kInduction, {1}, 1), source))
                    .status.ok());
    const auto fork = server_->client().Fork(source, "");
    ASSERT_TRUE(fork.ok()) << fork.status();
    EXPECT_TRUE(absl::StartsWith(fork->session_id(), group))
        << fork->session_id();
  }
  // A group that leaves no room for more is given up.
  const std::string longest(128, 'x');
  ASSERT_TRUE(server_->client()
                  .Generate(OnSession(TokenTurn(kInduction, {1}, 1), longest))
                  .status.ok());
  const auto fork = server_->client().Fork(longest, "");
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_LT(fork->session_id().size(), 128u);
}

// What generated code in other languages is called.
TEST_F(StandardServices, ProtosSayTheirPackagesInOtherLanguages) {
  for (const pb::FileDescriptor* file :
       {v1::GenerateRequest::descriptor()->file(),
        v1::Session::descriptor()->file(),
        v1::ModelInfo::descriptor()->file()}) {
    EXPECT_EQ(file->options().go_package(), "engram/v1;engramv1");
    EXPECT_EQ(file->options().java_package(), "engram.v1");
    EXPECT_EQ(file->options().csharp_namespace(), "Engram.V1");
  }
}

TEST_F(StandardServices, AnUnknownMethodIsUnimplemented) {
  HealthResponse none;
  EXPECT_EQ(CallOnce(server_->address(), "/engram.v1.Generation/Nothing",
                     HealthRequest(), &none)
                .code(),
            absl::StatusCode::kUnimplemented);
}

TEST_F(StandardServices, ReflectionListsEveryService) {
  const std::vector<std::string> services =
      ReflectedDescriptors(server_->address()).Services();
  for (const char* name :
       {"engram.v1.Generation", "engram.v1.Sessions", "engram.v1.Models",
        "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}) {
    EXPECT_THAT(services, Contains(name));
  }
}

TEST_F(StandardServices, EveryMethodIsReflected) {
  ReflectedDescriptors reflected(server_->address());
  const std::vector<std::pair<std::string, std::vector<std::string>>> expected =
      {{"engram.v1.Generation", {"Generate", "Converse", "Score"}},
       {"engram.v1.Sessions",
        {"Create", "Get", "List", "Delete", "Fork", "Checkpoint",
         "ListCheckpoints", "DeleteCheckpoint", "Export", "Import"}},
       {"engram.v1.Inspection", {"Describe", "ReadOut", "Attribute"}},
       {"engram.v1.Models", {"List", "Get", "Tokenize", "Detokenize"}},
       {"grpc.health.v1.Health", {"Check", "Watch"}}};
  for (const auto& [service, methods] : expected) {
    for (const std::string& method : methods) {
      EXPECT_NE(reflected.FindMethod(service, method), nullptr)
          << service << "." << method;
    }
  }
}

// As a tool does that was never compiled with the .proto files: messages are
// written and read as JSON with the names that the server told.
TEST_F(StandardServices, GenerateRunsByReflectionAlone) {
  ReflectedDescriptors reflected(server_->address());
  const pb::MethodDescriptor* method =
      reflected.FindMethod("engram.v1.Generation", "Generate");
  ASSERT_NE(method, nullptr);
  EXPECT_FALSE(method->client_streaming());
  EXPECT_TRUE(method->server_streaming());

  const auto request = reflected.New(method->input_type());
  ASSERT_TRUE(pb::util::JsonStringToMessage(
                  R"({"model": "mamba-english", "session_id": "reflected",
              "expected_version": 0, "text": "In the beginning",
              "sampling": {"temperature": 0.5, "seed": 4},
              "stopping": {"max_tokens": 3, "ignore_eos": true},
              "logprobs": 2})",
                  request.get())
                  .ok());
  GenericCall call(server_->address(), "/engram.v1.Generation/Generate");
  ASSERT_TRUE(call.Write(*request));
  call.WritesDone();
  std::vector<std::string> events;
  const auto response = reflected.New(method->output_type());
  std::string last;
  while (call.Read(response.get())) {
    const pb::FieldDescriptor* event =
        response->GetReflection()->GetOneofFieldDescriptor(
            *response, method->output_type()->FindOneofByName("event"));
    ASSERT_NE(event, nullptr);
    events.push_back(event->name());
    pb::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    last.clear();
    ASSERT_TRUE(pb::util::MessageToJsonString(*response, &last, options).ok());
  }
  const absl::Status status = call.Finish();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(events, ::testing::ElementsAre("started", "token", "token",
                                             "token", "completed"));
  EXPECT_THAT(last, ::testing::HasSubstr(R"("finish_reason":"LENGTH")"));
  EXPECT_THAT(last, ::testing::HasSubstr(R"("version":"1")"));
}

}  // namespace
}  // namespace engram
