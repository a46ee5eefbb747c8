// Generate, Score and Models on the zoo: what a client sees of one call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class Generate : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new TestServer(ZooOptions({kEnglish, kInduction}));
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  const TestClient& client() const { return server_->client(); }

  static TestServer* server_;
};

TestServer* Generate::server_ = nullptr;

TEST_F(Generate, StreamsStartedThenTokensInOrderThenCompleted) {
  v1::GenerateRequest request =
      TextTurn(kEnglish, "And God said, Let there be", 20);
  request.set_request_id("mine");
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_TRUE(answer.in_order);
  ASSERT_TRUE(answer.started.has_value());
  EXPECT_EQ(answer.started->request_id(), "mine");
  EXPECT_EQ(answer.started->session_id(), "");
  EXPECT_EQ(answer.started->version(), 0);
  EXPECT_EQ(answer.started->position(), 0);
  ASSERT_EQ(answer.tokens.size(), 20u);
  EXPECT_EQ(answer.tokens[0].index(), 0);
  EXPECT_FALSE(answer.tokens[0].has_logprob());
  ASSERT_TRUE(answer.completed.has_value());
  EXPECT_EQ(answer.completed->finish_reason(), v1::LENGTH);
}

TEST_F(Generate, ItsTextIsThatOfItsTokens) {
  v1::GenerateRequest request = TextTurn(kEnglish, "In the beginning", 60);
  request.mutable_sampling()->set_temperature(1.5);  // odd bytes too
  request.mutable_sampling()->set_seed(7);
  request.mutable_stopping()->set_ignore_eos(true);
  // No special token, which would add no text.
  (*request.mutable_sampling()->mutable_logit_bias())[0] = -100;
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  v1::DetokenizeRequest ids;
  ids.set_model(kEnglish);
  std::string bytes;
  for (const v1::Token& token : answer.tokens) {
    ids.add_token_ids(token.id());
    bytes += token.bytes();
  }
  const auto text = client().Detokenize(ids);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(answer.text(), text->text());
  EXPECT_EQ(bytes, text->bytes());
}

TEST_F(Generate, TellsUsageAndTiming) {
  const std::vector<int32_t> ids =
      client().Ids(kEnglish, "And it came to pass");
  v1::GenerateRequest request = TokenTurn(kEnglish, ids, 8);
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  const v1::Usage& usage = answer.completed->usage();
  EXPECT_EQ(usage.prompt_tokens(), static_cast<int64_t>(ids.size()));
  EXPECT_EQ(usage.cached_tokens(), 0);
  EXPECT_EQ(usage.generated_tokens(), 8);
  // The last sampled token is not fed.
  EXPECT_EQ(answer.completed->position(), static_cast<int64_t>(ids.size()) + 7);
  EXPECT_EQ(answer.completed->version(), 0);
  const v1::Timing& timing = answer.completed->timing();
  EXPECT_GE(timing.queue().nanos(), 0);
  EXPECT_GT(timing.prefill().seconds() * 1e9 + timing.prefill().nanos(), 0);
  EXPECT_GT(timing.decode().seconds() * 1e9 + timing.decode().nanos(), 0);
}

TEST_F(Generate, TellsLogProbabilitiesAndTheLikeliest) {
  v1::GenerateRequest request = TextTurn(kEnglish, "the LORD", 5);
  request.set_logprobs(3);
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  for (const v1::Token& token : answer.tokens) {
    EXPECT_TRUE(token.has_logprob());
    EXPECT_LE(token.logprob(), 0);
    ASSERT_EQ(token.top_size(), 3);
    // Greedy: the likeliest is the one that was taken.
    EXPECT_EQ(token.top(0).id(), token.id());
    EXPECT_EQ(token.top(0).logprob(), token.logprob());
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
  }
}

TEST_F(Generate, EndsBeforeAStopStringAndAfterAStopToken) {
  const std::string prompt = "And the LORD spake unto Moses, saying,";
  v1::GenerateRequest request = TextTurn(kEnglish, prompt, 40);
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer whole = client().Generate(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  ASSERT_GT(whole.text().size(), 12u);

  const std::string stop = whole.text().substr(6, 4);
  v1::GenerateRequest until_text = request;
  until_text.set_session_id("until_text");
  until_text.mutable_stopping()->add_stop(stop);
  const Answer stopped = client().Generate(until_text);
  ASSERT_TRUE(stopped.status.ok()) << stopped.status;
  EXPECT_EQ(stopped.completed->finish_reason(), v1::STOP);
  EXPECT_EQ(stopped.text(), whole.text().substr(0, whole.text().find(stop)));

  // Its session goes on from there, wherever a device was by then.
  v1::GenerateRequest counted = request;
  counted.set_session_id("counted");
  counted.mutable_stopping()->set_max_tokens(
      static_cast<int>(stopped.tokens.size()));
  ASSERT_TRUE(client().Generate(counted).status.ok());
  v1::GenerateRequest next = TextTurn(kEnglish, " And", 8);
  next.set_session_id("until_text");
  const Answer after_text = client().Generate(next);
  next.set_session_id("counted");
  const Answer after_count = client().Generate(next);
  ASSERT_TRUE(after_text.status.ok()) << after_text.status;
  EXPECT_EQ(after_text.ids(), after_count.ids());
  EXPECT_EQ(after_text.completed->position(),
            after_count.completed->position());

  v1::GenerateRequest until_token = request;
  until_token.mutable_stopping()->add_stop_token_ids(whole.ids()[3]);
  const Answer cut = client().Generate(until_token);
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.completed->finish_reason(), v1::STOP);
  EXPECT_EQ(cut.tokens.back().id(), whole.ids()[3]);
  EXPECT_EQ(cut.tokens.back().text(), "");
  EXPECT_LE(cut.tokens.size(), 4u);
}

TEST_F(Generate, AnEmptyModelNameWithTwoModelsIsRefusedWithTheirNames) {
  for (const absl::Status& status :
       {client().Generate(TextTurn("", "x", 1)).status,
        client().Score(TokenScore("", {1})).status(),
        client().GetModel("").status(),
        client().CreateSession(v1::CreateSessionRequest()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(kEnglish));
    EXPECT_THAT(std::string(status.message()), HasSubstr(kInduction));
  }
}

TEST_F(Generate, AnUnknownModelIsNotFound) {
  for (const absl::Status& status :
       {client().Generate(TextTurn("gpt", "x", 1)).status,
        client().Score(TokenScore("gpt", {1})).status(),
        client().GetModel("gpt").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"gpt\""));
    EXPECT_THAT(std::string(status.message()), HasSubstr(kEnglish));
  }
}

TEST_F(Generate, TheOnlyModelNeedNotBeNamed) {
  TestServer one(ZooOptions({kInduction}));
  EXPECT_TRUE(one.client().Generate(TextTurn("", "3 1 4", 1)).status.ok());
  EXPECT_EQ(one.client().GetModel("")->name(), kInduction);
}

TEST_F(Generate, ASessionsModelNeedNotBeNamedAndCannotBeChanged) {
  ASSERT_TRUE(client()
                  .Generate(OnSession(TextTurn(kInduction, "3 1", 0), "short"))
                  .status.ok());
  EXPECT_TRUE(
      client().Generate(OnSession(TextTurn("", "4", 0), "short")).status.ok());
  const Answer other =
      client().Generate(OnSession(TextTurn(kEnglish, "4", 0), "short"));
  EXPECT_EQ(other.status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Generate, TextOutsideTheVocabularyIsRefusedWithTheWord) {
  const Answer answer = client().Generate(TextTurn(kInduction, "1 two 3", 1));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(answer.status.message()), HasSubstr("two"));
}

TEST_F(Generate, TwoSeedsDifferAndOneIsRepeated) {
  v1::GenerateRequest request = TextTurn(kEnglish, "Now", 24);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer first = client().Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status;
  request.mutable_sampling()->set_seed(first.started->seed());
  EXPECT_EQ(client().Generate(request).ids(), first.ids());
  request.mutable_sampling()->set_seed(first.started->seed() + 1);
  EXPECT_NE(client().Generate(request).ids(), first.ids());
}

TEST_F(Generate, ScoreAgreesWithWhatGenerateSays) {
  const std::vector<int32_t> prompt =
      client().Ids(kEnglish, "And the earth was");
  v1::GenerateRequest request = TokenTurn(kEnglish, prompt, 12);
  request.set_logprobs(4);
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;

  std::vector<int32_t> all = prompt;
  for (int32_t id : answer.ids()) all.push_back(id);
  v1::ScoreRequest text = TokenScore(kEnglish, all);
  text.set_logprobs(4);
  const auto score = client().Score(text);
  ASSERT_TRUE(score.ok()) << score.status();
  ASSERT_EQ(score->tokens_size(), static_cast<int>(all.size()));
  EXPECT_FALSE(score->tokens(0).has_logprob());
  for (size_t i = 0; i < answer.tokens.size(); ++i) {
    const v1::Token& scored =
        score->tokens(static_cast<int>(prompt.size() + i));
    EXPECT_EQ(scored.logprob(), answer.tokens[i].logprob());
    ASSERT_EQ(scored.top_size(), 4);
    EXPECT_EQ(scored.top(3).logprob(), answer.tokens[i].top(3).logprob());
  }
  EXPECT_EQ(score->usage().prompt_tokens(), static_cast<int64_t>(all.size()));
}

TEST_F(Generate, ModelsTellWhatIsServed) {
  const auto list = client().ListModels();
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->models_size(), 2);
  for (const v1::ModelInfo& listed : list->models()) {
    const auto model = client().GetModel(listed.name());
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->SerializeAsString(), listed.SerializeAsString());
    EXPECT_EQ(model->family(), "mamba");
    EXPECT_GT(model->parameters(), 0);
    EXPECT_GT(model->vocabulary_size(), 0);
    EXPECT_GT(model->state_bytes(), 0);
    EXPECT_EQ(model->kv_bytes_per_token(), 0);
    EXPECT_EQ(model->backend(), "cpu");
    EXPECT_FALSE(model->weight_hash().empty());
    EXPECT_TRUE(model->has_tokenizer());
    EXPECT_EQ(model->chunk_tokens(), 1);
    ASSERT_EQ(model->devices_size(), 1);
    const v1::Device& device = model->devices(0);
    EXPECT_EQ(device.index(), 0);
    EXPECT_EQ(device.memory_limit(), 0);
    EXPECT_GT(device.memory_used(), model->parameters());
    EXPECT_EQ(device.memory_taken(), device.memory_used());
  }
}

TEST_F(Generate, TokenizeAndDetokenizeAreInverse) {
  const std::string text =
      "Thou shalt not steal; \xE2\x82\xAC \xF0\x9F\x90\x8D.";
  v1::TokenizeRequest request;
  request.set_model(kEnglish);
  request.set_text(text);
  EXPECT_EQ(client().Tokenize(request)->pieces_size(), 0);
  request.set_pieces(true);
  const auto tokens = client().Tokenize(request);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->pieces_size(), tokens->token_ids_size());
  std::string pieces;
  for (const std::string& piece : tokens->pieces()) pieces += piece;
  EXPECT_EQ(pieces, text);
  v1::DetokenizeRequest back;
  back.set_model(kEnglish);
  *back.mutable_token_ids() = tokens->token_ids();
  const auto whole = client().Detokenize(back);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->text(), text);
  back.add_token_ids(-1);
  EXPECT_EQ(client().Detokenize(back).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(Generate, SpecialTokensInATextAreTextUnlessAskedFor) {
  v1::TokenizeRequest request;
  request.set_model(kEnglish);
  request.set_text("<|endoftext|>");
  EXPECT_GT(client().Tokenize(request)->token_ids_size(), 1);
  request.set_parse_special_tokens(true);
  EXPECT_EQ(client().Tokenize(request)->token_ids_size(), 1);
}

}  // namespace
}  // namespace engram
