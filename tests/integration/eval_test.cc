// engram-eval against the real server: its own code on models of the zoo, and
// the program with what it prints and its exit codes. The server is a process
// of its own: the client library of engram-eval and the server's are not made
// to be in one program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "clients/cpp/eval_run.h"
#include "tests/integration/child_process.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram::client {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class EvalTest : public ::testing::Test {
 protected:
  EvalTest()
      : server_({"--model", ZooModel(kInduction), "--model", ZooModel(kEnglish),
                 "--request-log", "off", "--drain-timeout", "0s"}),
        client_(OptionsFor(server_.grpc_address())) {}

  static ClientOptions OptionsFor(const std::string& address) {
    ClientOptions options;
    options.server = address;
    return options;
  }

  // Of mamba-induction, by its own vocabulary.
  static Evaluation Induction(int64_t length, int64_t count) {
    Evaluation evaluation;
    evaluation.model = kInduction;
    evaluation.settings = {EvalTask::kInductionHead, 16, length};
    evaluation.count = count;
    return evaluation;
  }

  absl::StatusOr<EvalResult> Run(const Evaluation& evaluation) {
    absl::StatusOr<std::vector<int32_t>> ids = FindSymbolIds(
        evaluation.model, evaluation.settings.vocabulary, &client_);
    if (!ids.ok()) return ids.status();
    EvalRun run;
    run.evaluation = evaluation;
    run.symbol_ids = *ids;
    run.session_prefix = "eval-test";
    Cancellation cancellation;
    return RunEvaluation(run, &client_, &cancellation);
  }

  struct Outcome {
    int exit_code = -1;
    std::string out;
    std::string err;
  };
  Outcome RunProgram(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--server", server_.grpc_address()});
    ChildProcess program(ProgramFile("bin/engram-eval"), arguments);
    Outcome outcome;
    while (std::optional<std::string> line = program.ReadLine()) {
      outcome.out += *line + "\n";
    }
    outcome.exit_code = program.Wait();
    outcome.err = program.ErrorOutput();
    return outcome;
  }

  int Sessions() { return client_.ListSessions({})->sessions_size(); }

  ServerProcess server_;
  Client client_;
};

TEST_F(EvalTest, MambaDoesTheInductionTask) {
  const auto result = Run(Induction(30, Scaled(200, 40)));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->count, Scaled(200, 40));
  EXPECT_GE(result->right * 100, result->count * 95);
}

TEST_F(EvalTest, ThroughSessionsInTurnsTheAnswersAreTheSame) {
  // What it was not trained for: a state that is not the same would answer
  // otherwise.
  Evaluation evaluation = Induction(0, Scaled(300, 50));
  evaluation.settings = {EvalTask::kAssociativeRecall, 10, 100};
  const auto at_once = Run(evaluation);
  evaluation.through_session = true;
  evaluation.turn_tokens = 9;
  const auto in_turns = Run(evaluation);
  ASSERT_TRUE(at_once.ok() && in_turns.ok());
  EXPECT_EQ(in_turns->right, at_once->right);
  EXPECT_EQ(in_turns->count, at_once->count);
  EXPECT_EQ(in_turns->prompt_tokens,
            evaluation.count * PromptSymbols(evaluation.settings));
  v1::GetModelRequest model;
  model.set_model(kInduction);
  EXPECT_EQ(in_turns->state_bytes, client_.GetModel(model)->state_bytes());
  // What it made is gone.
  EXPECT_EQ(in_turns->sessions_left, 0);
  EXPECT_EQ(Sessions(), 0);
}

TEST_F(EvalTest, ATaskThatAModelWasNotTrainedForIsLeftToChance) {
  Evaluation evaluation = Induction(0, Scaled(400, 100));
  evaluation.settings = {EvalTask::kAssociativeRecall, 10, 20};
  const auto result = Run(evaluation);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT(result->right * 2, result->count);
}

TEST_F(EvalTest, AModelWithoutTheSymbolsIsRefusedBeforeItIsAsked) {
  Evaluation evaluation = Induction(30, 10);
  evaluation.settings.vocabulary = 17;
  const absl::Status unknown_word = Run(evaluation).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(unknown_word)) << unknown_word;
  EXPECT_THAT(unknown_word.message(),
              AllOf(HasSubstr("model 'mamba-induction' lacks symbols of "
                              "vocabulary 17"),
                    HasSubstr("14")));
  evaluation.model = kEnglish;
  const absl::Status taken_apart = Run(evaluation).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(taken_apart)) << taken_apart;
  EXPECT_THAT(taken_apart.message(), HasSubstr("is not one token of it"));
  evaluation.model = "unknown";
  EXPECT_TRUE(absl::IsNotFound(Run(evaluation).status()));
}

TEST_F(EvalTest, TheProgramPrintsItsReport) {
  const Outcome text =
      RunProgram({"--model", kInduction, "--task", "induction-head",
                  "--vocabulary", "16", "--count", "50", "--through-session"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, StartsWith("mamba-induction at "));
  EXPECT_THAT(text.out, HasSubstr("\naccuracy "));
  EXPECT_THAT(text.out, HasSubstr(" of 50 right), 95 % interval "));
  EXPECT_THAT(text.out, HasSubstr("takes 19,712 bytes\n"));
  EXPECT_THAT(text.err, IsEmpty());
  const Outcome json =
      RunProgram({"--model", kInduction, "--task", "induction-head",
                  "--vocabulary", "16", "--count", "50", "--json"});
  EXPECT_EQ(json.exit_code, 0) << json.err;
  const auto report = nlohmann::json::parse(json.out);
  EXPECT_EQ(report["count"], 50);
  EXPECT_THAT(report["right"].get<int>(), Ge(47));
}

TEST_F(EvalTest, TheProgramMeasuresATable) {
  const Outcome outcome = RunProgram(
      {"table", "mamba-paper", "--max-length", "128", "--count", "20"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("| 128 "));
  EXPECT_THAT(outcome.out, HasSubstr("19,712"));
  EXPECT_THAT(outcome.out, HasSubstr("Not served: `mamba-induction-t256`"));
  // A line for each cell.
  EXPECT_THAT(outcome.err, HasSubstr("length 128: 20 of 20 answered"));
}

TEST_F(EvalTest, ExitCodesTellWrongUseFromWhatTheServerRefused) {
  const std::string task = "--task=induction-head";
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{},
                                             {"--task=copying"},
                                             {task, "--length=1"},
                                             {task, "more"},
                                             {"table"},
                                             {"table", "h4-paper"}}) {
    const Outcome outcome = RunProgram(wrong);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, StartsWith("engram-eval: "));
  }
  const Outcome refused = RunProgram({task, "--model", kInduction});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("lacks symbols of vocabulary 20"));
  // Longer than a request may be, while a session takes it in turns.
  const Outcome long_prompt =
      RunProgram({task, "--model", kInduction, "--vocabulary=16",
                  "--length=1048576", "--count=1"});
  EXPECT_EQ(long_prompt.exit_code, 1);
  EXPECT_THAT(long_prompt.err, HasSubstr("1048576"));
}

TEST_F(EvalTest, ASignalEndsTheProgramWithWhatThereIs) {
  ChildProcess program(
      ProgramFile("bin/engram-eval"),
      {"--task=induction-head", "--model", kInduction, "--vocabulary=16",
       "--count=10000000", "--concurrency=2", "--through-session", "--server",
       server_.grpc_address()});
  const absl::Time limit = absl::Now() + kTestLimit;
  while (Sessions() == 0) ASSERT_LT(absl::Now(), limit);
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_EQ(Sessions(), 0);
}

TEST_F(EvalTest, HelpTeachesByExamples) {
  const Outcome help = RunProgram({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("Examples:\n  engram-eval --model"));
  EXPECT_THAT(help.out, HasSubstr("Exit codes:"));
  const Outcome table = RunProgram({"table", "--help"});
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.out, HasSubstr("engram-eval table h3-paper"));
}

}  // namespace
}  // namespace engram::client
