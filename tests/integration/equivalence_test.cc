// The equivalence promise over gRPC, for every family of models: however a text
// comes to a session, what follows is the same, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <ostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr int kAnswerTokens = 24;
// Past H3's filter of 64 taps and two full blocks of keys and values; the
// answer goes on into a fourth block.
constexpr int kPromptTokens = 80;
constexpr char kText[] =
    "And it came to pass in those days, that there went out a decree from the "
    "king, and all the people went up to be numbered, every one to his own "
    "city. And Joseph also went up out of Galilee, out of the city of "
    "Nazareth, "
    "into Judaea, unto the city of David, because he was of the house and "
    "lineage of David, to be numbered with Mary his wife.";
// Where a session is left and found again: inside a block and a filter, at the
// end of both, behind them.
constexpr size_t kBreaks[] = {20, 64, 75};

// What is served: a model of the zoo that reads kText, or a golden one that
// reads random ids.
struct Family {
  const char* name;
  const char* golden = nullptr;
};
constexpr Family kFamilies[] = {
    {kEnglish},
    {"mamba2", "mamba2/two_groups"},
    {"h3", "h3/plain"},
    {"h3-hybrid", "h3/hybrid_rotary"},
    {"s4d", "s4d/plain"},
    {"attention", "attention/rotary"},
    {"mamba2-hybrid", "mamba2/hybrid_biased"},
};

void PrintTo(const Family& family, std::ostream* out) { *out << family.name; }

ServerOptions Serve(const Family& family) {
  ServerOptions options = family.golden == nullptr
                              ? ZooOptions({family.name})
                              : GoldenOptions({{family.name, family.golden}});
  options.deterministic = true;
  return options;
}

class Equivalence : public ::testing::TestWithParam<Family> {
 protected:
  // Few slots, so that sessions keep moving; two threads per model.
  static void SetUpTestSuite() {
    ServerOptions options = ZooOptions({});
    for (const Family& family : kFamilies) {
      options.models.push_back(Serve(family).models[0]);
    }
    options.deterministic = true;
    options.slots = 2;
    options.threads = 2;
    options.max_batch_tokens = 24;  // the prompt does not fit into one step
    server_ = new TestServer(options);
  }
  static void TearDownTestSuite() {
    references_.clear();
    delete server_;
  }

  // What one call without memory says.
  struct Reference {
    std::vector<int32_t> prompt;
    Answer answer;
  };
  void SetUp() override {
    Reference& reference = references_[GetParam().name];
    if (reference.prompt.empty()) {
      reference.prompt = Prompt();
      ASSERT_GE(reference.prompt.size(), static_cast<size_t>(kPromptTokens));
      reference.answer = client().Generate(Turn(reference.prompt));
    }
    prompt_ = reference.prompt;
    reference_ = reference.answer;
    ASSERT_TRUE(reference_.status.ok()) << reference_.status;
    ASSERT_EQ(reference_.tokens.size(), static_cast<size_t>(kAnswerTokens));
  }

  static const TestClient& client() { return server_->client(); }

  static std::vector<int32_t> Prompt() {
    const Family& family = GetParam();
    if (family.golden == nullptr) return client().Ids(family.name, kText);
    return RandomIds(kPromptTokens,
                     client().GetModel(family.name)->vocabulary_size());
  }

  // The id of this family's session of the name.
  static std::string Id(const std::string& name) {
    return absl::StrCat(GetParam().name, ".", name);
  }

  // The last turn, which is the same everywhere; of no session if no id is
  // given.
  static v1::GenerateRequest Turn(const std::vector<int32_t>& prompt,
                                  const std::string& session = "",
                                  int max_tokens = kAnswerTokens) {
    v1::GenerateRequest request =
        TokenTurn(GetParam().name, prompt, max_tokens);
    request.set_session_id(session);
    request.set_logprobs(4);
    request.mutable_sampling()->set_temperature(0.8f);
    request.mutable_sampling()->set_top_k(40);
    request.mutable_sampling()->set_seed(11);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }

  std::vector<int32_t> Piece(size_t begin, size_t end) const {
    return {prompt_.begin() + begin, prompt_.begin() + end};
  }
  std::vector<int32_t> Rest(size_t begin) const {
    return Piece(begin, prompt_.size());
  }

  // Feeds a part of the prompt and samples nothing.
  void Feed(const std::string& session, size_t begin, size_t end) const {
    const Answer answer =
        client().Generate(Turn(Piece(begin, end), session, 0));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ASSERT_EQ(answer.completed->position(), static_cast<int64_t>(end));
  }

  // `tokens` are those of the reference from `first` on: ids, probabilities,
  // alternatives, exactly.
  void ExpectReference(const std::vector<v1::Token>& tokens,
                       size_t first = 0) const {
    ASSERT_EQ(tokens.size() + first, reference_.tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const v1::Token& expected = reference_.tokens[first + i];
      ASSERT_EQ(tokens[i].id(), expected.id()) << "token " << first + i;
      ASSERT_EQ(tokens[i].logprob(), expected.logprob());
      ASSERT_EQ(expected.top_size(), 4);
      for (int k = 0; k < expected.top_size(); ++k) {
        ASSERT_EQ(tokens[i].top(k).SerializeAsString(),
                  expected.top(k).SerializeAsString());
      }
    }
  }
  void ExpectReference(const Answer& answer) const {
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ExpectReference(answer.tokens);
    EXPECT_EQ(answer.text(), reference_.text());
    EXPECT_EQ(answer.completed->position(), reference_.completed->position());
  }

  std::vector<int32_t> prompt_;
  Answer reference_;

 private:
  static TestServer* server_;
  static std::map<std::string, Reference> references_;
};

TestServer* Equivalence::server_ = nullptr;
std::map<std::string, Equivalence::Reference> Equivalence::references_;

TEST_P(Equivalence, OfOneCallAndManyTurns) {
  for (const size_t piece : {1, 2, 7, 25}) {
    SCOPED_TRACE(absl::StrCat("pieces of ", piece));
    const std::string session = Id(absl::StrCat("pieces-", piece));
    size_t fed = 0;
    for (; fed + piece < prompt_.size(); fed += piece) {
      Feed(session, fed, fed + piece);
    }
    ExpectReference(client().Generate(Turn(Rest(fed), session)));
  }
}

TEST_P(Equivalence, OfOneTurnAndTheAnswerInSeveral) {
  std::vector<v1::Token> tokens;
  std::vector<int32_t> prompt = prompt_;
  for (const int part : {1, 2, 5, kAnswerTokens - 8}) {
    // The later turns go on from the pending token, without a prompt.
    const Answer answer =
        client().Generate(Turn(prompt, Id("answer-in-parts"), part));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    prompt.clear();
  }
  ExpectReference(tokens);
}

TEST_P(Equivalence, OfGenerateAndConverse) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(Turn(Piece(0, 10), Id("converse"), 0)));
  ASSERT_TRUE(stream->WriteTurn(Turn(Piece(10, 11), "", 0)));
  ASSERT_TRUE(stream->WriteTurn(Turn(Rest(11))));
  stream->WritesDone();
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  ExpectReference(stream->ReadTurn());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_P(Equivalence, OfAnAnswerInOneStreamAndOneThatWasResumed) {
  for (const bool on_session : {false, true}) {
    for (const int received : {1, 2, 13, kAnswerTokens - 1, kAnswerTokens}) {
      SCOPED_TRACE(absl::StrCat(on_session, " ", received));
      v1::GenerateRequest request = Turn(prompt_);
      if (on_session) {
        request.set_session_id(Id(absl::StrCat("resumed-", received)));
      }
      for (int i = 0; i < received; ++i) {
        request.add_received_token_ids(reference_.tokens[i].id());
      }
      const Answer answer = client().Generate(request);
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      ExpectReference(answer.tokens, received);
      std::string text;
      for (int i = 0; i < received; ++i) text += reference_.tokens[i].text();
      EXPECT_EQ(text + answer.text(), reference_.text());
      EXPECT_EQ(answer.completed->usage().generated_tokens(), kAnswerTokens);
      EXPECT_EQ(answer.completed->position(), reference_.completed->position());
    }
  }
}

TEST_P(Equivalence, OfAStreamThatBrokeAndItsRepeat) {
  v1::GenerateRequest request = Turn(prompt_, Id("broken"));
  request.set_request_id("broken-turn");
  const auto broken = client().StartGenerate(request);
  ASSERT_TRUE(broken->ReadStarted());
  v1::GenerateResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(broken->Read(&response));
  broken->Cancel();
  const Answer seen = broken->ReadAll();
  for (int32_t id : seen.ids()) request.add_received_token_ids(id);
  // Until the server has seen it, the turn still runs.
  Answer repeat;
  ASSERT_TRUE(Eventually([&] {
    repeat = client().Generate(request);
    return repeat.status.code() != absl::StatusCode::kAborted;
  }));
  ASSERT_TRUE(repeat.status.ok()) << repeat.status;
  std::vector<v1::Token> tokens = seen.tokens;
  tokens.insert(tokens.end(), repeat.tokens.begin(), repeat.tokens.end());
  ExpectReference(tokens);
}

TEST_P(Equivalence, OfASessionAndItsForks) {
  for (const size_t fed : kBreaks) {
    SCOPED_TRACE(fed);
    const std::string trunk = Id(absl::StrCat("trunk-", fed));
    const std::string forks[] = {Id(absl::StrCat("fork-1-", fed)),
                                 Id(absl::StrCat("fork-2-", fed))};
    Feed(trunk, 0, fed);
    ASSERT_TRUE(client().Fork(trunk, forks[0]).ok());
    // The trunk goes elsewhere, which its forks do not see.
    ASSERT_TRUE(client().Generate(Turn(Piece(0, 5), trunk, 3)).status.ok());
    ASSERT_TRUE(client().Fork(forks[0], forks[1]).ok());
    for (const std::string& fork : forks) {
      SCOPED_TRACE(fork);
      ExpectReference(client().Generate(Turn(Rest(fed), fork)));
    }
  }
}

TEST_P(Equivalence, OfASessionThatStayedAndOneThatWasEvictedToRam) {
  for (const size_t fed : kBreaks) {
    SCOPED_TRACE(fed);
    const std::string session = Id(absl::StrCat("evicted-", fed));
    Feed(session, 0, fed);
    ASSERT_EQ(client().GetSession(session)->tier(), "slot");
    for (const char* pusher : {"pusher-1-", "pusher-2-"}) {
      Feed(Id(absl::StrCat(pusher, fed)), 0, 70);
    }
    ASSERT_EQ(client().GetSession(session)->tier(), "ram");
    ExpectReference(client().Generate(Turn(Rest(fed), session)));
  }
}

TEST_P(Equivalence, OfRunningAloneAndAmong31Others) {
  ServerOptions options = Serve(GetParam());
  options.slots = 32;
  options.threads = 2;
  // The others are as long as all of them fit side by side.
  options.kv_memory = int64_t{256} << 20;
  TestServer crowded(options);
  std::vector<std::unique_ptr<GenerateStream>> others;
  for (int i = 0; i < 31; ++i) {
    v1::GenerateRequest request = EndlessTurn("");
    request.mutable_sampling()->set_seed(i);
    if (crowded.client().GetModel("")->kv_bytes_per_token() > 0) {
      request.mutable_stopping()->set_max_tokens(1 << 14);
    }
    others.push_back(crowded.client().StartGenerate(request));
    ASSERT_TRUE(others.back()->ReadStarted());
  }
  // They are drained while they run beside it.
  std::vector<std::thread> readers;
  for (auto& other : others) {
    readers.emplace_back([&other] { other->ReadAll(); });
  }
  EXPECT_TRUE(crowded.AwaitLoad(31, 0));
  const Answer answer = crowded.client().Generate(Turn(prompt_));
  EXPECT_GE(crowded.Metrics().Sum("num_requests_running"), 31);
  for (auto& other : others) other->Cancel();
  for (std::thread& reader : readers) reader.join();
  ExpectReference(answer);
}

TEST_P(Equivalence, Of32CallsAtOnceOfWhichEachIsItsOwn) {
  std::vector<Answer> answers(32);
  RunAtOnce(32, [&](int i) {
    // Half of them the reference, half of them shifted by some tokens.
    answers[i] = client().Generate(Turn(i % 2 == 0 ? prompt_ : Rest(i)));
  });
  for (size_t i = 0; i < answers.size(); i += 2) ExpectReference(answers[i]);
}

TEST_P(Equivalence, OfScoresOfAWholeTextAndOfItsEndOnASession) {
  v1::ScoreRequest whole = TokenScore(GetParam().name, prompt_);
  whole.set_logprobs(3);
  const auto expected = client().Score(whole);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const size_t fed :
       {size_t{1}, size_t{16}, size_t{64}, prompt_.size() - 1}) {
    SCOPED_TRACE(fed);
    const std::string session = Id(absl::StrCat("score-", fed));
    Feed(session, 0, fed);
    v1::ScoreRequest tail = TokenScore(GetParam().name, Rest(fed), session);
    tail.set_logprobs(3);
    const auto score = client().Score(tail);
    ASSERT_TRUE(score.ok()) << score.status();
    EXPECT_EQ(score->position(), static_cast<int64_t>(fed));
    ASSERT_EQ(score->tokens_size(),
              expected->tokens_size() - static_cast<int>(fed));
    for (int i = 0; i < score->tokens_size(); ++i) {
      const v1::Token& one = expected->tokens(static_cast<int>(fed) + i);
      ASSERT_TRUE(score->tokens(i).has_logprob());
      ASSERT_EQ(score->tokens(i).logprob(), one.logprob()) << i;
      ASSERT_EQ(score->tokens(i).top(2).logprob(), one.top(2).logprob());
    }
    // It changed nothing.
    EXPECT_EQ(client().GetSession(session)->version(), 1);
  }
}

TEST_P(Equivalence, OfScoresAfterAPendingToken) {
  constexpr int kSaid = 5;
  const std::string session = Id("score-pending");
  const Answer said = client().Generate(Turn(prompt_, session, kSaid));
  ASSERT_TRUE(said.status.ok()) << said.status;
  const std::vector<int32_t> more = Piece(3, 12);
  std::vector<int32_t> whole = prompt_;
  for (int32_t id : said.ids()) whole.push_back(id);
  whole.insert(whole.end(), more.begin(), more.end());
  const auto expected = client().Score(TokenScore(GetParam().name, whole));
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto score = client().Score(TokenScore(GetParam().name, more, session));
  ASSERT_TRUE(score.ok()) << score.status();
  ASSERT_EQ(score->tokens_size(), static_cast<int>(more.size()));
  for (int i = 0; i < score->tokens_size(); ++i) {
    ASSERT_EQ(score->tokens(i).logprob(),
              expected->tokens(static_cast<int>(prompt_.size()) + kSaid + i)
                  .logprob());
  }
  EXPECT_TRUE(client().GetSession(session)->pending_token());
}

INSTANTIATE_TEST_SUITE_P(Families, Equivalence, ::testing::ValuesIn(kFamilies),
                         [](const ::testing::TestParamInfo<Family>& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace engram
