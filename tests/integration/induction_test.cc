// The induction task through the whole server: recall of one symbol over any
// distance, which a server that loses, mixes up or rounds away the state of a
// session cannot do. See model/zoo/mamba-induction/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <random>

#include "absl/strings/str_cat.h"
#include "clients/cpp/eval_tasks.h"
#include "tests/integration/child_process.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr int kSymbols = 14;  // "0" to "13"; then "=>" and "."
constexpr int kPromptSeed = 1;

struct Prompt {
  std::string text;
  std::string answer;
};

// The prompt `number` of `length` symbols.
Prompt DrawPrompt(int length, int64_t number) {
  const client::TaskSettings settings = {client::EvalTask::kInductionHead,
                                         kSymbols + 2, length};
  const std::vector<std::string> symbols =
      client::SymbolsOf(settings.vocabulary);
  const client::Example example =
      client::DrawExample(settings, kPromptSeed, number);
  return {client::PromptText(example.prompt, symbols), symbols[example.answer]};
}

// "3" of " 3": a symbol after another one has a blank before it.
std::string SymbolOf(const Answer& answer) {
  std::string text = answer.text();
  if (!text.empty() && text[0] == ' ') text.erase(0, 1);
  return text;
}

// How many of `prompts` fresh prompts of `length` symbols are answered right.
int CountRight(TestServer* server, int length, int prompts) {
  constexpr int kAtOnce = 16;
  std::atomic<int> right = 0;
  RunAtOnce(kAtOnce, [&](int thread) {
    for (int i = thread; i < prompts; i += kAtOnce) {
      const Prompt prompt = DrawPrompt(length, i);
      const Answer answer =
          server->client().Generate(TextTurn("", prompt.text, 1));
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      if (SymbolOf(answer) == prompt.answer) ++right;
    }
  });
  return right;
}

TEST(Induction, OfAThousandPromptsOfEachLengthAtMostFiveAreWrong) {
  const int prompts = Scaled(1000, 20);
  TestServer server(ZooOptions({kInduction}));
  for (int length = 64; length <= 4096; length *= 2) {
    const int right = CountRight(&server, length, prompts);
    std::printf("%d of %d prompts of %d symbols right\n", right, prompts,
                length);
    EXPECT_GE(right * 1000, prompts * 995);
  }
}

// --- One session that reads a million symbols.

class LongSession : public ::testing::Test {
 protected:
  static constexpr int kTurnTokens = 1000;
  static constexpr int kWindowTurns = 10;  // 10,000 tokens are timed together

  LongSession()
      : server_({"--model", ZooModel(kInduction), "--request-log", "off",
                 "--drain-timeout", "0s"}),
        client_(server_.grpc_address()),
        symbols_(client_.Ids(kInduction, "0 1 2 3 4 5 6 7 8 9 10 11 12 13")) {}

  // Feeds the next random symbols; returns the seconds that the server took.
  double Feed(const std::string& session) {
    std::vector<int32_t> ids;
    for (int i = 0; i < kTurnTokens; ++i) {
      ids.push_back(symbols_[random_() % kSymbols]);
    }
    const Answer answer =
        client_.Generate(OnSession(TokenTurn("", ids, 0), session));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    if (!answer.completed.has_value()) return 0;
    const auto& prefill = answer.completed->timing().prefill();
    return static_cast<double>(prefill.seconds()) + prefill.nanos() * 1e-9;
  }

  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  // Time per token of `old` over that of `young`, each over a window of turns.
  // They take turns turn by turn, so that both see the same machine.
  double CompareTimes(const std::string& old, const std::string& young) {
    std::vector<double> old_seconds;
    std::vector<double> young_seconds;
    for (int i = 0; i < kWindowTurns; ++i) {
      young_seconds.push_back(Feed(young));
      old_seconds.push_back(Feed(old));
    }
    const double ratio = Median(old_seconds) / Median(young_seconds);
    std::printf("  us per token: young %.3f, old %.3f, ratio %.3f\n",
                Median(young_seconds) / kTurnTokens * 1e6,
                Median(old_seconds) / kTurnTokens * 1e6, ratio);
    return ratio;
  }

  ServerProcess server_;
  TestClient client_;
  const std::vector<int32_t> symbols_;
  std::mt19937 random_{20260101};
};

TEST_F(LongSession, AMillionSymbolsChangeNeitherSpeedNorMemoryNorAnswers) {
  const int turns = Scaled(1000, 60);
  const int prompts = Scaled(100, 20);
  // Warm-up; then the session as it was at the first 10,000 timed tokens stays
  // behind as a fork, to be timed again beside the last ones.
  for (int i = 0; i < 5; ++i) Feed("long");
  ASSERT_TRUE(client_.Fork("long", "young").ok());
  const int64_t state_bytes = client_.GetSession("long")->state_bytes();
  std::vector<double> first_seconds;
  for (int i = 0; i < kWindowTurns; ++i) first_seconds.push_back(Feed("long"));
  const int64_t resident_bytes = server_.process().ResidentBytes();

  std::vector<double> last_seconds;
  for (int turn = 5 + kWindowTurns; turn < turns; ++turn) {
    const double seconds = Feed("long");
    if (turn >= turns - kWindowTurns) last_seconds.push_back(seconds);
  }
  const int64_t resident_after = server_.process().ResidentBytes();
  const auto session = client_.GetSession("long");
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->position(), int64_t{turns} * kTurnTokens);
  EXPECT_EQ(session->version(), turns);
  EXPECT_EQ(session->state_bytes(), state_bytes);
  std::printf("after %lld symbols:\n",
              static_cast<long long>(session->position()));
  std::printf("  resident memory of the server: %.1f MiB, then %.1f MiB\n",
              static_cast<double>(resident_bytes) / (1 << 20),
              static_cast<double>(resident_after) / (1 << 20));
  // A sanitizer keeps freed memory back.
  if (!kSanitized) {
    EXPECT_LT(resident_after, resident_bytes + (4 << 20));
  }
  std::printf(
      "  us per token as it came: first 10,000 %.3f, last 10,000 %.3f\n",
      Median(first_seconds) / kTurnTokens * 1e6,
      Median(last_seconds) / kTurnTokens * 1e6);
  bool as_quick = false;
  for (int attempt = 0; attempt < 5 && !as_quick; ++attempt) {
    const std::string old = absl::StrCat("old-", attempt);
    const std::string young = absl::StrCat("young-", attempt);
    ASSERT_TRUE(client_.Fork("long", old).ok());
    ASSERT_TRUE(client_.Fork("young", young).ok());
    as_quick = CompareTimes(old, young) <= 1.2;
  }
  EXPECT_TRUE(as_quick) << "an old session is slower than a young one";

  int right = 0;
  for (int i = 0; i < prompts; ++i) {
    const std::string fork = absl::StrCat("question-", i);
    ASSERT_TRUE(client_.Fork("long", fork).ok());
    const Prompt prompt = DrawPrompt(256, 2'000'000 + i);
    const Answer answer =
        client_.Generate(OnSession(TextTurn("", prompt.text, 1), fork));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    if (SymbolOf(answer) == prompt.answer) ++right;
  }
  std::printf("  %d of %d prompts of 256 symbols right\n", right, prompts);
  EXPECT_GE(right * 100, prompts * 99);
}

}  // namespace
}  // namespace engram
