// The equivalence promise over gRPC: however a text comes to a session, what
// follows is the same, bit for bit.
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr int kAnswerTokens = 24;

class Equivalence : public ::testing::Test {
 protected:
  // Few slots, so that sessions keep moving; two threads per model.
  static void SetUpTestSuite() {
    ServerOptions options = ZooOptions({kEnglish});
    options.slots = 2;
    options.threads = 2;
    options.max_batch_tokens = 24;  // the prompt does not fit into one step
    server_ = new TestServer(options);
    prompt_ = new std::vector<int32_t>(server_->client().Ids(
        kEnglish,
        "And it came to pass in those days, that there went out a decree from "
        "the king, and all the people went up to be numbered, every one to "
        "his own city. And Joseph also went up out of"));
    reference_ = new Answer(server_->client().Generate(Turn(*prompt_)));
    ASSERT_TRUE(reference_->status.ok()) << reference_->status;
    ASSERT_EQ(reference_->tokens.size(), static_cast<size_t>(kAnswerTokens));
  }
  static void TearDownTestSuite() {
    delete reference_;
    delete prompt_;
    delete server_;
  }

  // The last turn, which is the same everywhere.
  static v1::GenerateRequest Turn(const std::vector<int32_t>& prompt,
                                  const std::string& session = "",
                                  int max_tokens = kAnswerTokens) {
    v1::GenerateRequest request = TokenTurn(kEnglish, prompt, max_tokens);
    request.set_session_id(session);
    request.set_logprobs(4);
    request.mutable_sampling()->set_temperature(0.8f);
    request.mutable_sampling()->set_top_k(40);
    request.mutable_sampling()->set_seed(11);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }

  static const TestClient& client() { return server_->client(); }

  static std::vector<int32_t> Piece(size_t begin, size_t end) {
    return {prompt_->begin() + begin, prompt_->begin() + end};
  }

  // Feeds a part of the prompt and samples nothing.
  static void Feed(const std::string& session, size_t begin, size_t end) {
    const Answer answer =
        client().Generate(Turn(Piece(begin, end), session, 0));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ASSERT_EQ(answer.completed->position(), static_cast<int64_t>(end));
  }

  // `tokens` are those of the reference from `first` on: ids, probabilities,
  // alternatives, exactly.
  static void ExpectReference(const std::vector<v1::Token>& tokens,
                              size_t first = 0) {
    ASSERT_EQ(tokens.size() + first, reference_->tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const v1::Token& expected = reference_->tokens[first + i];
      ASSERT_EQ(tokens[i].id(), expected.id()) << "token " << first + i;
      ASSERT_EQ(tokens[i].logprob(), expected.logprob());
      for (int k = 0; k < expected.top_size(); ++k) {
        ASSERT_EQ(tokens[i].top(k).SerializeAsString(),
                  expected.top(k).SerializeAsString());
      }
    }
  }
  static void ExpectReference(const Answer& answer) {
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ExpectReference(answer.tokens);
    EXPECT_EQ(answer.text(), reference_->text());
    EXPECT_EQ(answer.completed->position(), reference_->completed->position());
  }

  static TestServer* server_;
  static std::vector<int32_t>* prompt_;
  static Answer* reference_;
};

TestServer* Equivalence::server_ = nullptr;
std::vector<int32_t>* Equivalence::prompt_ = nullptr;
Answer* Equivalence::reference_ = nullptr;

TEST_F(Equivalence, OfOneCallAndManyTurns) {
  for (const size_t piece : {1, 2, 7, 25}) {
    SCOPED_TRACE(absl::StrCat("pieces of ", piece));
    const std::string session = absl::StrCat("pieces-", piece);
    size_t fed = 0;
    for (; fed + piece < prompt_->size(); fed += piece) {
      Feed(session, fed, fed + piece);
    }
    ExpectReference(
        client().Generate(Turn(Piece(fed, prompt_->size()), session)));
  }
}

TEST_F(Equivalence, OfOneTurnAndTheAnswerInSeveral) {
  const std::string session = "answer-in-parts";
  std::vector<v1::Token> tokens;
  std::vector<int32_t> prompt = *prompt_;
  for (const int part : {1, 2, 5, kAnswerTokens - 8}) {
    // The later turns go on from the pending token, without a prompt.
    const Answer answer = client().Generate(Turn(prompt, session, part));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    prompt.clear();
  }
  ExpectReference(tokens);
}

TEST_F(Equivalence, OfGenerateAndConverse) {
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(Turn(Piece(0, 10), "converse", 0)));
  ASSERT_TRUE(stream->WriteTurn(Turn(Piece(10, 11), "", 0)));
  ASSERT_TRUE(stream->WriteTurn(Turn(Piece(11, prompt_->size()))));
  stream->WritesDone();
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  ASSERT_TRUE(stream->ReadTurn().completed.has_value());
  ExpectReference(stream->ReadTurn());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(Equivalence, OfAnAnswerInOneStreamAndOneThatWasResumed) {
  for (const bool on_session : {false, true}) {
    for (const int received : {1, 2, 13, kAnswerTokens - 1, kAnswerTokens}) {
      SCOPED_TRACE(absl::StrCat(on_session, " ", received));
      v1::GenerateRequest request = Turn(*prompt_);
      if (on_session) request.set_session_id(absl::StrCat("resumed-", received));
      for (int i = 0; i < received; ++i) {
        request.add_received_token_ids(reference_->tokens[i].id());
      }
      const Answer answer = client().Generate(request);
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      ExpectReference(answer.tokens, received);
      std::string text;
      for (int i = 0; i < received; ++i) text += reference_->tokens[i].text();
      EXPECT_EQ(text + answer.text(), reference_->text());
      EXPECT_EQ(answer.completed->usage().generated_tokens(), kAnswerTokens);
      EXPECT_EQ(answer.completed->position(),
                reference_->completed->position());
    }
  }
}

TEST_F(Equivalence, OfAStreamThatBrokeAndItsRepeat) {
  v1::GenerateRequest request = Turn(*prompt_, "broken");
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

TEST_F(Equivalence, OfASessionAndItsForks) {
  Feed("trunk", 0, 20);
  ASSERT_TRUE(client().Fork("trunk", "fork-1").ok());
  // The trunk goes elsewhere, which its forks do not see.
  ASSERT_TRUE(client().Generate(Turn(Piece(0, 5), "trunk", 3)).status.ok());
  ASSERT_TRUE(client().Fork("fork-1", "fork-2").ok());
  for (const char* fork : {"fork-1", "fork-2"}) {
    SCOPED_TRACE(fork);
    ExpectReference(client().Generate(Turn(Piece(20, prompt_->size()), fork)));
  }
}

TEST_F(Equivalence, OfASessionThatStayedAndOneThatWasEvictedToRam) {
  Feed("evicted", 0, 30);
  ASSERT_EQ(client().GetSession("evicted")->tier(), "slot");
  for (const char* other : {"pusher-1", "pusher-2"}) Feed(other, 0, 5);
  ASSERT_EQ(client().GetSession("evicted")->tier(), "ram");
  ExpectReference(
      client().Generate(Turn(Piece(30, prompt_->size()), "evicted")));
}

TEST_F(Equivalence, OfRunningAloneAndAmong31Others) {
  ServerOptions options = ZooOptions({kEnglish});
  options.slots = 32;
  options.threads = 2;
  TestServer crowded(options);
  std::vector<std::unique_ptr<GenerateStream>> others;
  for (int i = 0; i < 31; ++i) {
    v1::GenerateRequest request = EndlessTurn("");
    request.mutable_sampling()->set_seed(i);
    others.push_back(crowded.client().StartGenerate(request));
    ASSERT_TRUE(others.back()->ReadStarted());
  }
  // They are drained while they run beside it.
  std::vector<std::thread> readers;
  for (auto& other : others) {
    readers.emplace_back([&other] { other->ReadAll(); });
  }
  ASSERT_TRUE(crowded.AwaitLoad(31, 0));
  const Answer answer = crowded.client().Generate(Turn(*prompt_));
  for (auto& other : others) other->Cancel();
  for (std::thread& reader : readers) reader.join();
  ExpectReference(answer);
}

TEST_F(Equivalence, Of32CallsAtOnceOfWhichEachIsItsOwn) {
  std::vector<Answer> answers(32);
  RunAtOnce(32, [&](int i) {
    // Half of them the reference, half of them shifted by some tokens.
    answers[i] = client().Generate(
        Turn(i % 2 == 0 ? *prompt_ : Piece(i, prompt_->size())));
  });
  for (size_t i = 0; i < answers.size(); i += 2) ExpectReference(answers[i]);
}

TEST_F(Equivalence, OfScoresOfAWholeTextAndOfItsEndOnASession) {
  v1::ScoreRequest whole = TokenScore(kEnglish, *prompt_);
  whole.set_logprobs(3);
  const auto expected = client().Score(whole);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const size_t fed : {size_t{1}, size_t{16}, prompt_->size() - 1}) {
    SCOPED_TRACE(fed);
    const std::string session = absl::StrCat("score-", fed);
    Feed(session, 0, fed);
    v1::ScoreRequest tail =
        TokenScore(kEnglish, Piece(fed, prompt_->size()), session);
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

TEST_F(Equivalence, OfScoresAfterAPendingToken) {
  constexpr int kSaid = 5;
  const Answer said =
      client().Generate(Turn(*prompt_, "score-pending", kSaid));
  ASSERT_TRUE(said.status.ok()) << said.status;
  const std::vector<int32_t> more = Piece(3, 12);
  std::vector<int32_t> whole = *prompt_;
  for (int32_t id : said.ids()) whole.push_back(id);
  whole.insert(whole.end(), more.begin(), more.end());
  const auto expected = client().Score(TokenScore(kEnglish, whole));
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto score = client().Score(TokenScore(kEnglish, more, "score-pending"));
  ASSERT_TRUE(score.ok()) << score.status();
  ASSERT_EQ(score->tokens_size(), static_cast<int>(more.size()));
  for (int i = 0; i < score->tokens_size(); ++i) {
    ASSERT_EQ(score->tokens(i).logprob(),
              expected->tokens(static_cast<int>(prompt_->size()) + kSaid + i)
                  .logprob());
  }
  EXPECT_TRUE(client().GetSession("score-pending")->pending_token());
}

}  // namespace
}  // namespace engram
