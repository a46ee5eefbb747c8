// Looks into sessions of a whole server, by calls of engram.v1.Inspection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engram/v1/inspection.pb.h"
#include "tests/integration/generic_call.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kDescribe[] = "/engram.v1.Inspection/Describe";
constexpr char kReadOut[] = "/engram.v1.Inspection/ReadOut";
constexpr char kAttribute[] = "/engram.v1.Inspection/Attribute";
constexpr char kAblate[] = "/engram.v1.Inspection/Ablate";
// "=>" of kInduction, and the symbols around it.
constexpr char kPrompt[] = "3 1 => 7 0 12 13 5";

class InspectionTest : public ::testing::Test {
 protected:
  InspectionTest() : server_(Options()), client_(server_.address()) {}

  static ServerOptions Options() {
    ServerOptions options = ZooOptions({kInduction});
    options.max_inspected_tokens = 64;
    options.max_inspected_queries = 16;
    options.max_edits = 16;
    return options;
  }

  v1::Session MakeSession(const std::string& session_id, int max_tokens = 0) {
    const Answer answer = client_.Generate(
        OnSession(TextTurn(kInduction, kPrompt, max_tokens), session_id));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    return client_.GetSession(session_id).value();
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const std::string& session_id) {
    v1::DescribeRequest request;
    request.set_session_id(session_id);
    v1::DescribeResponse response;
    const absl::Status status =
        CallOnce(server_.address(), kDescribe, request, &response);
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::ReadOutResponse> ReadOut(
      const v1::ReadOutRequest& request) {
    v1::ReadOutResponse response;
    const absl::Status status =
        CallOnce(server_.address(), kReadOut, request, &response);
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::AttributeResponse> Attribute(
      const v1::AttributeRequest& request) {
    v1::AttributeResponse response;
    const absl::Status status =
        CallOnce(server_.address(), kAttribute, request, &response);
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::AblateResponse> Ablate(const v1::AblateRequest& request) {
    v1::AblateResponse response;
    const absl::Status status =
        CallOnce(server_.address(), kAblate, request, &response);
    if (!status.ok()) return status;
    return response;
  }
  void ExpectRefused(const v1::AblateRequest& request, absl::StatusCode code,
                     const std::string& words) {
    ExpectRefusal(Ablate(request).status(), code, words);
  }
  void ExpectRefused(const v1::ReadOutRequest& request, absl::StatusCode code,
                     const std::string& words) {
    ExpectRefusal(ReadOut(request).status(), code, words);
  }
  void ExpectRefused(const v1::AttributeRequest& request, absl::StatusCode code,
                     const std::string& words) {
    ExpectRefusal(Attribute(request).status(), code, words);
  }
  static void ExpectRefusal(const absl::Status& status, absl::StatusCode code,
                            const std::string& words) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }
  int32_t Id(const std::string& word) {
    return client_.Ids(kInduction, word).at(0);
  }

  TestServer server_;
  TestClient client_;
};

TEST_F(InspectionTest, DescribesEachStateOfEachLayer) {
  const v1::Session session = MakeSession("a", 1);
  const auto response = Describe("a");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->model(), kInduction);
  EXPECT_EQ(response->version(), 1);
  EXPECT_EQ(response->position(), session.position());
  EXPECT_EQ(response->trained_tokens(), 8192);
  EXPECT_EQ(response->warnings_size(), 0);
  EXPECT_TRUE(response->has_fading_token_id());
  EXPECT_NE(response->fading_token_text(), "");
  ASSERT_EQ(response->states_size(), 4);
  const char* const names[] = {"conv_state", "ssm_state"};
  for (int i = 0; i < 4; ++i) {
    const v1::StateSummary& state = response->states(i);
    EXPECT_EQ(state.layer(), i / 2);
    EXPECT_EQ(state.mixer(), "mamba");
    EXPECT_EQ(state.state(), names[i % 2]);
    EXPECT_EQ(state.values(), i % 2 == 0 ? 3 * 128 : 16 * 128);
    EXPECT_GT(state.norm(), 0);
    EXPECT_GE(state.largest(), state.median());
    EXPECT_EQ(state.window_tokens(), i % 2 == 0 ? 3 : 0);
    EXPECT_EQ(state.has_fading(), i % 2 == 1);
    EXPECT_LE(state.fading().tenth(), state.fading().median());
    EXPECT_LE(state.fading().nine_tenths(), state.fading().longest());
  }
}

TEST_F(InspectionTest, WarnsOfASessionThatHasReadMoreThanTheModelInTraining) {
  ASSERT_TRUE(client_
                  .Generate(OnSession(
                      TokenTurn(kInduction, RandomIds(8193, 16), 0), "long"))
                  .status.ok());
  const auto response = Describe("long");
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_GE(response->warnings_size(), 1);
  EXPECT_THAT(response->warnings(0), HasSubstr("never been this far"));
}

TEST_F(InspectionTest, DescribesASessionThatHasReadNothing) {
  v1::CreateSessionRequest create;
  create.set_model(kInduction);
  create.set_session_id("empty");
  ASSERT_TRUE(client_.CreateSession(create).ok());
  const auto response = Describe("empty");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->position(), 0);
  EXPECT_FALSE(response->has_fading_token_id());
  ASSERT_EQ(response->states_size(), 4);
  EXPECT_EQ(response->states(1).norm(), 0);
  EXPECT_FALSE(response->states(1).has_fading());
}

// The bigram that the model was trained on: after "=>" comes what came first.
TEST_F(InspectionTest, ReadsOutWhatFollowedATokenTheFirstTime) {
  MakeSession("a");
  const v1::Session before = client_.GetSession("a").value();
  v1::ReadOutRequest request;
  request.set_session_id("a");
  request.add_query_ids(Id("=>"));
  request.add_query_ids(Id("0"));
  request.set_top(16);
  const auto response = ReadOut(request);
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->queries_size(), 2);
  const v1::ReadOutQuery& query = response->queries(0);
  EXPECT_EQ(query.id(), Id("=>"));
  EXPECT_EQ(query.answer(0).id(), Id("7"));
  EXPECT_THAT(query.answer(0).text(), HasSubstr("7"));
  ASSERT_EQ(query.states_size(), 2);  // one of each layer
  double sum = 0;
  for (const v1::Alternative& one : query.states(1).answer()) {
    sum += std::exp(one.logprob());
  }
  EXPECT_NEAR(sum, 1, 1e-4);  // all 16 ids are told
  EXPECT_NE(response->queries(1).answer(0).logprob(),
            query.answer(0).logprob());
  const v1::Session after = client_.GetSession("a").value();
  EXPECT_EQ(after.version(), before.version());
  EXPECT_EQ(after.position(), before.position());
}

// By a session, by a session and a prompt, and by a prompt alone.
TEST_F(InspectionTest, AnswersTheSameOfTheSameTextHoweverItIsGiven) {
  MakeSession("a", 1);  // one token is pending
  const std::vector<int32_t> fed = client_.Ids(kInduction, kPrompt);
  const v1::Session session = client_.GetSession("a").value();
  EXPECT_TRUE(session.pending_token());
  v1::ReadOutRequest request;
  request.set_session_id("a");
  request.add_query_ids(3);
  request.set_text("4 5");
  request.set_top(3);
  const auto resumed = ReadOut(request);
  ASSERT_TRUE(resumed.ok()) << resumed.status();

  const Answer turn =
      client_.Generate(OnSession(TextTurn(kInduction, "4 5", 0), "a"));
  ASSERT_TRUE(turn.status.ok());
  request.clear_text();
  const auto fed_all = ReadOut(request);
  ASSERT_TRUE(fed_all.ok()) << fed_all.status();
  for (int i = 0; i < 3; ++i) {
    const v1::Alternative& one = resumed->queries(0).answer(i);
    EXPECT_EQ(one.id(), fed_all->queries(0).answer(i).id());
    EXPECT_NEAR(one.logprob(), fed_all->queries(0).answer(i).logprob(), 1e-3);
  }
  EXPECT_EQ(resumed->version(), 1);
  EXPECT_EQ(fed_all->version(), 2);

  v1::ReadOutRequest alone;
  alone.set_model(kInduction);
  alone.mutable_token_ids()->mutable_ids()->Add(fed.begin(), fed.end());
  alone.add_query_ids(Id("=>"));
  const auto answer = ReadOut(alone);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->queries(0).answer(0).id(), Id("7"));
  EXPECT_EQ(answer->position(), 0);
}

TEST_F(InspectionTest, RefusesWhatIsHostileWithValueAndLimit) {
  MakeSession("a");
  v1::ReadOutRequest request;
  request.set_session_id("a");
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(request, invalid, "query_ids is empty");
  request.add_query_ids(16);
  ExpectRefused(request, invalid, "query_ids[0] is 16, limit 0 to 15");
  request.set_query_ids(0, -1);
  ExpectRefused(request, invalid, "query_ids[0] is -1, limit 0 to 15");
  request.set_query_ids(0, 3);
  request.set_top(21);
  ExpectRefused(request, invalid, "top is 21, limit 0 to 20");
  request.set_top(1);
  for (int i = 0; i < 16; ++i) request.add_query_ids(3);
  ExpectRefused(request, invalid,
                "query_ids has 17 entries, limit 16 (--max-inspected-queries)");
  request.mutable_query_ids()->RemoveLast();
  for (int i = 0; i < 64; ++i) request.mutable_token_ids()->add_ids(3);
  EXPECT_TRUE(ReadOut(request).ok());
  request.mutable_token_ids()->add_ids(3);
  ExpectRefused(request, invalid,
                "the prompt has 65 tokens, limit 64 (--max-inspected-tokens)");
  request.mutable_token_ids()->clear_ids();
  request.mutable_token_ids()->add_ids(99);
  ExpectRefused(request, invalid, "prompt token[0] is 99, limit 0 to 15");
  request.clear_token_ids();
  request.set_session_id("unknown");
  ExpectRefused(request, absl::StatusCode::kNotFound, "unknown");
  request.set_session_id("bad id");
  ExpectRefused(request, invalid, "session_id");
  request.clear_session_id();
  ExpectRefused(request, invalid, "there is nothing to look at");
  request.set_model("other");
  ExpectRefused(request, absl::StatusCode::kNotFound, "other");
  EXPECT_EQ(Describe("unknown").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Describe("").status().code(), invalid);
}

// The answer to the second "=>" is lifted most by what the last layer's
// convolution read at the position after the first, and wrote a little later.
TEST_F(InspectionTest, AttributesAnAnswerToThePositionThatItComesFrom) {
  v1::AttributeRequest request;
  request.set_model(kInduction);
  request.set_text(absl::StrCat(kPrompt, " =>"));
  for (int32_t id = 0; id < 15; ++id) {
    if (id != Id("7")) request.add_against_ids(id);
  }
  for (const bool through : {false, true}) {
    SCOPED_TRACE(through);
    request.set_through_convolution(through);
    const auto response = Attribute(request);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->model(), kInduction);
    EXPECT_EQ(response->target_id(), Id("7"));
    EXPECT_THAT(response->target_piece(), HasSubstr("7"));
    EXPECT_GT(response->logit(), response->against());
    const int positions = response->token_ids_size();
    ASSERT_EQ(response->pieces_size(), positions);
    EXPECT_EQ(response->pieces(0), "3");
    EXPECT_EQ(response->token_ids(positions - 1), Id("=>"));
    ASSERT_EQ(response->layers_size(), 2);
    for (const v1::LayerAttribution& layer : response->layers()) {
      EXPECT_EQ(layer.mixer(), "mamba");
      EXPECT_EQ(layer.state(), "ssm_state");
      ASSERT_EQ(layer.contributions_size(), positions - 1);
      double sum = layer.before() + layer.local() + layer.bias();
      for (const float one : layer.contributions()) sum += one;
      EXPECT_NEAR(sum, layer.direct(), 1e-4 * std::abs(layer.direct()));
    }
    const auto& last = response->layers(1).contributions();
    EXPECT_EQ(std::max_element(last.begin(), last.end()) - last.begin(),
              through ? 3 : 5);
  }
}

// What a session has read is told as one number, and it stays as it is.
TEST_F(InspectionTest, AttributesToTheStateWhatWasReadBefore) {
  const v1::Session before = MakeSession("a", 1);
  ASSERT_TRUE(before.pending_token());
  v1::AttributeRequest request;
  request.set_session_id("a");
  request.set_text("4 =>");
  request.set_target_id(Id("7"));
  request.set_through_convolution(true);
  const auto response = Attribute(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->version(), before.version());
  EXPECT_EQ(response->position(), before.position());
  EXPECT_EQ(response->token_ids_size(), 3);  // the pending one first
  EXPECT_EQ(response->against(), 0);
  const v1::LayerAttribution& last = response->layers(1);
  EXPECT_NE(last.before(), 0);
  EXPECT_NE(last.bias(), 0);
  EXPECT_NEAR(last.before() + last.contributions(0) + last.contributions(1) +
                  last.local() + last.bias(),
              last.direct(), 1e-4 * std::abs(last.direct()));
  const v1::Session after = client_.GetSession("a").value();
  EXPECT_EQ(after.version(), before.version());
  EXPECT_EQ(after.position(), before.position());
}

TEST_F(InspectionTest, RefusesAHostileAttributionWithValueAndLimit) {
  MakeSession("a");
  v1::AttributeRequest request;
  request.set_session_id("a");
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(request, invalid, "the prompt is empty");
  request.mutable_token_ids()->add_ids(99);
  ExpectRefused(request, invalid, "prompt token[0] is 99, limit 0 to 15");
  request.mutable_token_ids()->set_ids(0, 3);
  for (const int32_t id : {-1, 16}) {
    request.set_target_id(id);
    ExpectRefused(request, invalid,
                  absl::StrCat("target_id is ", id, ", limit 0 to 15"));
  }
  request.set_target_id(3);
  for (int i = 0; i < 16; ++i) request.add_against_ids(4);
  EXPECT_TRUE(Attribute(request).ok());
  request.add_against_ids(4);
  ExpectRefused(
      request, invalid,
      "against_ids has 17 entries, limit 16 (--max-inspected-queries)");
  request.clear_against_ids();
  request.add_against_ids(16);
  ExpectRefused(request, invalid, "against_ids[0] is 16, limit 0 to 15");
  request.clear_against_ids();
  for (int i = 0; i < 64; ++i) request.mutable_token_ids()->add_ids(3);
  ExpectRefused(request, invalid,
                "the prompt has 65 tokens, limit 64 (--max-inspected-tokens)");
  request.mutable_token_ids()->mutable_ids()->Truncate(1);
  request.set_session_id("unknown");
  ExpectRefused(request, absl::StatusCode::kNotFound, "unknown");
  request.set_session_id("bad id");
  ExpectRefused(request, invalid, "session_id");
  request.clear_session_id();
  request.set_model("other");
  ExpectRefused(request, absl::StatusCode::kNotFound, "other");
}

// The first layer's convolution binds a token to those before, its state
// carries that to the second "=>". Each of them cut, the answer is another;
// what another position wrote is not missed, nor is what the second layer
// wrote.
TEST_F(InspectionTest, AnswersWithLayersEditedBesideTheAnswerWithout) {
  v1::AblateRequest request;
  request.set_model(kInduction);
  request.set_text(absl::StrCat(kPrompt, " =>"));
  request.set_logprobs(3);
  v1::Edit* const edit = request.add_edits();
  const auto edited = [&] {
    const auto response = Ablate(request);
    EXPECT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->untouched_size(), 1);
    EXPECT_EQ(response->untouched(0).id(), Id("7"));
    EXPECT_THAT(response->untouched(0).text(), HasSubstr("7"));
    EXPECT_EQ(response->untouched(0).top_size(), 3);
    EXPECT_EQ(response->untouched(0).top(0).logprob(),
              response->untouched(0).logprob());
    EXPECT_EQ(response->edited_size(), 1);
    EXPECT_EQ(response->token_ids_size(), 9);
    EXPECT_EQ(response->pieces(0), "3");
    return response->edited(0).id();
  };
  edit->set_layer(0);
  edit->mutable_local_scan();
  EXPECT_NE(edited(), Id("7"));
  edit->mutable_cut_tap()->set_tap(0);
  EXPECT_NE(edited(), Id("7"));
  edit->mutable_remove_write()->set_position(5);
  EXPECT_NE(edited(), Id("7"));
  edit->mutable_remove_write()->set_position(0);
  EXPECT_EQ(edited(), Id("7"));
  edit->mutable_keep_only()->add_positions(5);
  EXPECT_EQ(edited(), Id("7"));
  edit->set_layer(1);
  edit->mutable_local_scan();
  EXPECT_EQ(edited(), Id("7"));
  request.clear_edits();
  EXPECT_EQ(edited(), Id("7"));
}

// The answer without edits is the one that Generate gives, drawn by the same
// seed; and the session goes on as if nobody had looked.
TEST_F(InspectionTest, TheUntouchedAnswerIsWhatTheSessionWouldSay) {
  const v1::Session before = MakeSession("a", 1);
  ASSERT_TRUE(before.pending_token());
  v1::AblateRequest request;
  request.set_session_id("a");
  request.set_text("4 5");
  request.mutable_edits()->Add()->mutable_cut_tap()->set_tap(3);
  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_seed(11);
  request.mutable_stopping()->set_max_tokens(8);
  const auto response = Ablate(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->seed(), 11);
  EXPECT_EQ(response->version(), before.version());
  EXPECT_EQ(response->position(), before.position());
  EXPECT_EQ(response->token_ids_size(), 3);
  EXPECT_EQ(client_.GetSession("a")->position(), before.position());
  v1::GenerateRequest turn = OnSession(TextTurn(kInduction, "4 5", 8), "a");
  *turn.mutable_sampling() = request.sampling();
  const Answer answer = client_.Generate(turn);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  std::vector<int32_t> untouched, edited;
  for (const v1::Token& token : response->untouched()) {
    untouched.push_back(token.id());
    EXPECT_FALSE(token.has_logprob());
  }
  for (const v1::Token& token : response->edited()) {
    edited.push_back(token.id());
  }
  EXPECT_EQ(untouched, answer.ids());
  EXPECT_NE(edited, untouched);
}

TEST_F(InspectionTest, AnAblatedAnswerEndsAsATurnDoes) {
  v1::AblateRequest request;
  request.set_model(kInduction);
  request.set_text(absl::StrCat(kPrompt, " =>"));
  request.mutable_stopping()->set_max_tokens(5);
  request.mutable_stopping()->add_stop("7");
  auto response = Ablate(request);
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->untouched_size(), 1);
  EXPECT_THAT(response->untouched(0).text(), Not(HasSubstr("7")));
  request.mutable_stopping()->clear_stop();
  request.mutable_stopping()->add_stop_token_ids(Id("7"));
  response = Ablate(request);
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->untouched_size(), 1);
  EXPECT_EQ(response->untouched(0).text(), "");
  request.mutable_stopping()->clear_stop_token_ids();
  response = Ablate(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->untouched_size(), 5);
}

TEST_F(InspectionTest, RefusesAHostileAblationWithValueAndLimit) {
  MakeSession("a");
  v1::AblateRequest request;
  request.set_session_id("a");
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(request, invalid, "there is nothing to feed");
  request.mutable_token_ids()->add_ids(99);
  ExpectRefused(request, invalid, "prompt token[0] is 99, limit 0 to 15");
  request.mutable_token_ids()->set_ids(0, 3);
  v1::Edit* const edit = request.add_edits();
  ExpectRefused(request, invalid, "edits[0] says nothing to do");
  for (const int32_t layer : {-1, 2}) {
    edit->set_layer(layer);
    ExpectRefused(request, invalid,
                  absl::StrCat("edits[0].layer is ", layer, ", limit 0 to 1"));
  }
  edit->set_layer(1);
  edit->mutable_cut_tap()->set_tap(4);
  ExpectRefused(request, invalid, "edits[0]: tap is 4, limit 0 to 3");
  edit->mutable_remove_write()->set_position(int64_t{1} << 62);
  ExpectRefused(request, invalid,
                "edits[0]: position is 4611686018427387904, limit 0 to 0");
  edit->mutable_replace_write()->set_token_id(16);
  ExpectRefused(request, invalid,
                "edits[0].replace_write.token_id is 16, limit 0 to 15");
  edit->mutable_keep_only()->add_positions(-1);
  ExpectRefused(request, invalid, "edits[0]: positions is -1, limit 0 to 0");
  for (int i = 0; i < 64; ++i) edit->mutable_keep_only()->add_positions(0);
  ExpectRefused(request, invalid,
                "edits[0].keep_only.positions has 65 entries, limit 64");
  edit->mutable_local_scan();
  for (int i = 0; i < 15; ++i) *request.add_edits() = *edit;
  EXPECT_TRUE(Ablate(request).ok());
  for (int i = 16; i < 10000; ++i) *request.add_edits() = *edit;
  ExpectRefused(request, invalid,
                "edits has 10000 entries, limit 16 (--max-edits)");
  request.clear_edits();
  request.mutable_stopping()->set_max_tokens(65);
  ExpectRefused(request, invalid, "max_tokens is 65, limit 0 to 64");
  request.clear_stopping();
  request.mutable_sampling()->set_temperature(-1);
  ExpectRefused(request, invalid, "temperature is -1");
  request.clear_sampling();
  request.set_logprobs(21);
  ExpectRefused(request, invalid, "logprobs is 21, limit 0 to 20");
  request.clear_logprobs();
  EXPECT_TRUE(Ablate(request).ok());
  request.set_session_id("unknown");
  ExpectRefused(request, absl::StatusCode::kNotFound, "unknown");
  request.set_session_id("bad id");
  ExpectRefused(request, invalid, "session_id");
  request.clear_session_id();
  request.set_model("other");
  ExpectRefused(request, absl::StatusCode::kNotFound, "other");
}

TEST_F(InspectionTest, CallsAreCountedByMethod) {
  MakeSession("a");
  const std::vector<std::string> labels = {"method=\"Inspection.Describe\"",
                                           "code=\"OK\""};
  const MetricsPage before = server_.Metrics();
  ASSERT_TRUE(Describe("a").ok());
  const MetricsPage after = server_.Metrics();
  EXPECT_EQ(after.Sum("requests_total", labels),
            before.Sum("requests_total", labels) + 1);
  EXPECT_EQ(after.Samples("requests_total"), before.Samples("requests_total"));
}

// Every family, as it is served.
TEST(InspectionOfFamilies, IsOfEachLayerByItsOwnStates) {
  struct Family {
    const char* name;
    const char* folder;
    std::vector<std::string> states;
  };
  const std::vector<Family> families = {
      {"mamba",
       "mamba/odd",
       {"conv_state", "ssm_state", "conv_state", "ssm_state"}},
      {"mamba2",
       "mamba2/two_groups",
       {"conv_state", "ssm_state", "conv_state", "ssm_state", "conv_state",
        "ssm_state"}},
      {"h3",
       "h3/hybrid_rotary",
       {"shift_state", "diagonal_state", "keys_values", "shift_state",
        "diagonal_state"}},
      {"s4d", "s4d/plain", {"diagonal_state", "diagonal_state"}},
      {"attention", "attention/rotary", {"keys_values", "keys_values"}}};
  std::vector<std::pair<std::string, std::string>> models;
  for (const Family& family : families) {
    models.push_back({family.name, family.folder});
  }
  TestServer server(GoldenOptions(models));
  TestClient client(server.address());
  for (const Family& family : families) {
    SCOPED_TRACE(family.name);
    const Answer answer = client.Generate(
        OnSession(TokenTurn(family.name, {1, 2, 3, 4, 5}, 2), family.name));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    v1::DescribeRequest describe;
    describe.set_session_id(family.name);
    v1::DescribeResponse described;
    absl::Status status =
        CallOnce(server.address(), kDescribe, describe, &described);
    ASSERT_TRUE(status.ok()) << status;
    std::vector<std::string> states;
    for (const v1::StateSummary& state : described.states()) {
      states.push_back(state.state());
      EXPECT_GT(state.norm(), 0);
    }
    EXPECT_EQ(states, family.states);
    v1::ReadOutRequest read_out;
    read_out.set_session_id(family.name);
    read_out.add_query_ids(7);
    v1::ReadOutResponse read;
    status = CallOnce(server.address(), kReadOut, read_out, &read);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_GE(read.queries(0).states_size(), 2);
    v1::AttributeRequest attribute;
    attribute.set_session_id(family.name);
    attribute.mutable_token_ids()->add_ids(7);
    v1::AttributeResponse attributed;
    status = CallOnce(server.address(), kAttribute, attribute, &attributed);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(attributed.layers_size(), read.queries(0).states_size());
    EXPECT_EQ(attributed.pieces_size(), 0);  // there is no tokenizer
    v1::AblateRequest ablate;
    ablate.set_session_id(family.name);
    ablate.mutable_token_ids()->add_ids(7);
    ablate.add_edits()->mutable_local_scan();
    v1::AblateResponse ablated;
    status = CallOnce(server.address(), kAblate, ablate, &ablated);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(ablated.edited_size(), 1);
    EXPECT_EQ(ablated.untouched_size(), 1);
    EXPECT_EQ(ablated.pieces_size(), 0);
    EXPECT_EQ(ablated.untouched(0).bytes(), "");
  }
}

}  // namespace
}  // namespace engram
