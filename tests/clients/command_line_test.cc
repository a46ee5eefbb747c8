// The program `engram` itself, against a scripted server: what it sends, what
// it prints where, and its exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/clients/scripted_server.h"
#include "tests/support/folders.h"
#include "tests/support/temporary_folder.h"

namespace engram::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int kAnswerTokens = 3;

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

std::string Content(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

// Runs a program of ours by the shell, with `arguments` quoted for it.
Outcome RunProgram(absl::string_view program, absl::string_view arguments,
                   absl::string_view before = "") {
  const TemporaryFolder folder;
  const std::string out = folder.File("out");
  const std::string err = folder.File("err");
  const std::string command =
      absl::StrCat(before, "'", ProgramFile(absl::StrCat("bin/", program)),
                   "' > '", out, "' 2> '", err, "' ", arguments);
  const int status = std::system(command.c_str());
  Outcome outcome;
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.out = Content(out);
  outcome.err = Content(err);
  return outcome;
}

Outcome RunEngram(absl::string_view arguments, absl::string_view before = "") {
  return RunProgram("engram", arguments, before);
}

TEST(CommandLine, PrintsTheTextAndNothingElse) {
  ScriptedServer server(kAnswerTokens, {});
  const Outcome outcome = RunEngram(absl::StrCat(
      "--server ", server.address(),
      " generate --model m --prompt 'a b' --max-tokens=3 --temperature 0.5"
      " --top-k 5 --top-p .9 --min-p .1 --seed 7 --stop '\\n' --stop x"
      " --logit-bias 4=-5 --keep-partial --priority -3"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "0 1 2 ");
  EXPECT_EQ(outcome.err, "");
  ASSERT_EQ(server.requests().size(), 1u);
  const v1::GenerateRequest request = server.requests()[0];
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.text(), "a b");
  EXPECT_EQ(request.stopping().max_tokens(), 3);
  EXPECT_THAT(request.stopping().stop(), ElementsAre("\n", "x"));
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_k(), 5);
  EXPECT_EQ(request.sampling().top_p(), 0.9f);
  EXPECT_EQ(request.sampling().min_p(), 0.1f);
  EXPECT_EQ(request.sampling().seed(), 7);
  EXPECT_EQ(request.sampling().logit_bias().at(4), -5);
  EXPECT_TRUE(request.keep_partial());
  EXPECT_EQ(request.priority(), -3);
  EXPECT_FALSE(request.has_expected_version());
}

TEST(CommandLine, PrintsEachMessageAsALineOfJson) {
  ScriptedServer server(1, {});
  const Outcome outcome =
      RunEngram(absl::StrCat("generate --tokens 1,2 --json --request-id r "
                             "--server=",
                             server.address()));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out,
            "{\"started\":{\"session_id\":\"\",\"request_id\":\"r\","
            "\"version\":\"0\",\"position\":\"0\",\"cached_tokens\":\"0\","
            "\"seed\":\"4711\"}}\n"
            "{\"token\":{\"index\":0,\"id\":100,\"text\":\"0 \",\"bytes\":\"\","
            "\"top\":[]}}\n"
            "{\"completed\":{\"finish_reason\":\"LENGTH\",\"text\":\"\","
            "\"version\":\"0\",\"position\":\"0\"}}\n");
  EXPECT_THAT(server.requests()[0].token_ids().ids(), ElementsAre(1, 2));
}

TEST(CommandLine, LooksIntoASession) {
  ScriptedServer server(0, {});
  v1::DescribeResponse description;
  description.set_model("m");
  description.set_version(2);
  description.set_position(40);
  description.set_trained_tokens(32);
  description.set_fading_token_id(7);
  description.set_fading_token_text("x\n");
  v1::StateSummary* const window = description.add_states();
  window->set_mixer("mamba");
  window->set_state("conv_state");
  window->set_window_tokens(3);
  v1::StateSummary* const state = description.add_states();
  state->set_layer(1);
  state->set_mixer("mamba");
  state->set_state("ssm_state");
  state->set_norm(12.5);
  state->set_largest(4);
  state->set_share_above(0.31);
  state->mutable_fading()->set_tenth(0.5f);
  state->mutable_fading()->set_median(12);
  state->mutable_fading()->set_nine_tenths(345);
  state->mutable_fading()->set_longest(HUGE_VALF);
  description.add_warnings("layer 1: much");
  server.SetDescription(description);
  const Outcome outcome =
      RunEngram(absl::StrCat("look mine --server ", server.address()));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              HasSubstr("model m, version 2, 40 tokens fed, trained on "
                        "up to 32\n"));
  EXPECT_THAT(outcome.out, HasSubstr("conv_state"));
  EXPECT_THAT(outcome.out, HasSubstr("the last 3\n"));
  EXPECT_THAT(
      outcome.out,
      HasSubstr("12.5         4  31.00% ####...... 0.5 12.0 345 never\n"));
  EXPECT_THAT(outcome.out, HasSubstr("as 7 'x\\n'."));
  EXPECT_THAT(outcome.out, HasSubstr("warning: layer 1: much\n"));
  EXPECT_THAT(server.told_sessions(), ElementsAre("Describe mine"));
}

TEST(CommandLine, LooksAtWhatAStateAnswers) {
  ScriptedServer server(0, {});
  v1::ReadOutResponse read_out;
  v1::ReadOutQuery* const query = read_out.add_queries();
  query->set_id(15);
  query->set_text("=>");
  v1::Alternative* const whole = query->add_answer();
  whole->set_id(12);
  whole->set_text(" 7");
  v1::StateReadOut* const state = query->add_states();
  state->set_layer(1);
  state->set_state("ssm_state");
  v1::Alternative* const share = state->add_answer();
  share->set_id(3);
  share->set_logprob(-0.6931472f);
  server.SetReadOut(read_out);
  const std::string program =
      absl::StrCat("look --server ", server.address(), " ");
  Outcome outcome = RunEngram(absl::StrCat(
      program, "mine --query 15,3 --top 4 --tokens 1,2 --model m"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "after 15 '=>':\n"
            "  the model                  100.0% 12 ' 7'\n"
            "  layer 1 ssm_state           50.0% 3 ''\n");
  const v1::ReadOutRequest request = server.read_out_request();
  EXPECT_EQ(request.session_id(), "mine");
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.top(), 4);
  EXPECT_THAT(request.query_ids(), ElementsAre(15, 3));
  EXPECT_THAT(request.token_ids().ids(), ElementsAre(1, 2));

  for (const char* const wrong :
       {"", "a b", "a --prompt x --tokens 1", "--query 1", "a --query x",
        "a --target 1", "a --query 1 --target 1", "a --prompt x --target y",
        "a --prompt x --query 1 --through-convolution"}) {
    outcome = RunEngram(absl::StrCat(program, wrong));
    EXPECT_EQ(outcome.exit_code, 2) << wrong;
    EXPECT_EQ(outcome.out, "") << wrong;
  }
  EXPECT_EQ(RunEngram(absl::StrCat(program, "--prompt x --query 1")).exit_code,
            0);
}

TEST(CommandLine, LooksAtWhereAnAnswerComesFrom) {
  ScriptedServer server(0, {});
  v1::AttributeResponse attribution;
  attribution.set_model("m");
  attribution.set_target_id(7);
  attribution.set_target_piece(" 7");
  attribution.set_logit(12.5f);
  attribution.set_against(2);
  for (const char* const piece : {"a", "\n", " c"}) {
    attribution.add_token_ids(1);
    attribution.add_pieces(piece);
  }
  v1::LayerAttribution* const layer = attribution.add_layers();
  layer->set_layer(1);
  layer->set_state("ssm_state");
  layer->add_contributions(-0.5f);
  layer->add_contributions(4);
  layer->set_before(1);
  layer->set_direct(4.75f);
  server.SetAttribution(attribution);
  const std::string program =
      absl::StrCat("look --server ", server.address(), " ");
  Outcome outcome =
      RunEngram(absl::StrCat(program,
                             "mine --prompt x --target 7 --against 5,6 "
                             "--through-convolution --model m"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "model m, 3 tokens; logit of 7 ' 7' 12.5000, less 2.0000\n"
            "\n"
            "layer 1 ssm_state: +4.7500\n"
            "  position 1 '\\n'             +4.0000 "
            "++++++++++++++++++++++++\n"
            "  position 0 'a'              -0.5000 ---\n"
            "  before                      +1.0000 ++++++\n"
            "  the last token itself       +0.0000 \n");
  const v1::AttributeRequest request = server.attribute_request();
  EXPECT_EQ(request.session_id(), "mine");
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.text(), "x");
  EXPECT_EQ(request.target_id(), 7);
  EXPECT_THAT(request.against_ids(), ElementsAre(5, 6));
  EXPECT_TRUE(request.through_convolution());

  outcome = RunEngram(absl::StrCat(program, "--tokens 1,2,3 --top 1"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, Not(HasSubstr("position 0")));
  EXPECT_FALSE(server.attribute_request().has_target_id());
  outcome = RunEngram(absl::StrCat(program, "--prompt x --json"));
  EXPECT_THAT(outcome.out, HasSubstr("\"contributions\":[-0.5,4]"));
}

TEST(CommandLine, LooksAtWhatAnEditedLayerMakesOfTheAnswer) {
  ScriptedServer server(0, {});
  v1::AblateResponse ablation;
  ablation.set_model("m");
  ablation.add_token_ids(1);
  ablation.set_seed(5);
  v1::Token* const token = ablation.add_edited();
  token->set_id(7);
  token->set_bytes("\n");
  token->set_logprob(std::log(0.25f));
  *ablation.add_untouched() = *token;
  for (const int32_t id : {7, 8}) {
    v1::Alternative* const top = ablation.mutable_untouched(0)->add_top();
    top->set_id(id);
    top->set_text("x");
    top->set_logprob(std::log(0.25f));
  }
  server.SetAblation(ablation);
  const std::string program =
      absl::StrCat("look --server ", server.address(), " ");
  Outcome outcome = RunEngram(absl::StrCat(
      program,
      "mine --prompt x --model m --top 2 --ablate 1:cut-tap:2 --ablate "
      "0:local-scan --ablate 2:remove-write:3 --ablate 2:replace-write:4:9 "
      "--ablate 1:keep-only:0+5+before --max-tokens 3 --temperature 0.5 --seed "
      "5"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "model m, 1 tokens, seed 5\n"
            "\n"
            "edited\n"
            "      0  25.0% 7 '\\n'\n"
            "untouched\n"
            "      0  25.0% 7 '\\n'   of  25.0% 7 'x'   25.0% 8 'x'\n");
  const v1::AblateRequest request = server.ablate_request();
  EXPECT_EQ(request.session_id(), "mine");
  EXPECT_EQ(request.text(), "x");
  EXPECT_EQ(request.logprobs(), 2);
  EXPECT_EQ(request.stopping().max_tokens(), 3);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().seed(), 5);
  ASSERT_EQ(request.edits_size(), 5);
  EXPECT_EQ(request.edits(0).layer(), 1);
  EXPECT_EQ(request.edits(0).cut_tap().tap(), 2);
  EXPECT_TRUE(request.edits(1).has_local_scan());
  EXPECT_EQ(request.edits(2).remove_write().position(), 3);
  EXPECT_EQ(request.edits(3).replace_write().position(), 4);
  EXPECT_EQ(request.edits(3).replace_write().token_id(), 9);
  EXPECT_THAT(request.edits(4).keep_only().positions(), ElementsAre(0, 5));
  EXPECT_TRUE(request.edits(4).keep_only().before());
  for (const char* const wrong :
       {"mine --ablate 1", "mine --ablate x:local-scan",
        "mine --ablate 1:cut-tap", "mine --ablate 1:cut-tap:-1",
        "mine --ablate 1:local-scan:3", "mine --ablate 1:replace-write:3",
        "mine --ablate 1:keep-only:3+x", "mine --max-tokens 3", "mine --seed 3",
        "mine --ablate 0:local-scan --query 1",
        "mine --prompt x --ablate 0:local-scan --target 1"}) {
    outcome = RunEngram(absl::StrCat(program, wrong));
    EXPECT_EQ(outcome.exit_code, 2) << wrong;
    EXPECT_EQ(outcome.out, "") << wrong;
  }
}

TEST(CommandLine, ExpectsTheVersionThatASessionHas) {
  ScriptedServer server(kAnswerTokens, {});
  const std::string program =
      absl::StrCat("generate --server ", server.address(), " --prompt x ");
  EXPECT_EQ(RunEngram(absl::StrCat(program, "--session new")).exit_code, 0);
  server.AddSession("old", 5);
  EXPECT_EQ(RunEngram(absl::StrCat(program, "--session old")).exit_code, 0);
  EXPECT_EQ(
      RunEngram(absl::StrCat(program, "--session old --expected-version 2"))
          .exit_code,
      0);
  EXPECT_EQ(
      RunEngram(absl::StrCat(program, "--session old --expected-version any"))
          .exit_code,
      0);
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_TRUE(requests[0].has_expected_version());
  EXPECT_EQ(requests[0].expected_version(), 0);
  EXPECT_EQ(requests[1].expected_version(), 5);
  EXPECT_EQ(requests[2].expected_version(), 2);
  EXPECT_FALSE(requests[3].has_expected_version());
  for (const v1::GenerateRequest& request : requests) {
    EXPECT_THAT(request.request_id(), Not(IsEmpty()));
  }
}

TEST(CommandLine, ReadsThePromptFromStandardInput) {
  ScriptedServer server(kAnswerTokens, {});
  const Outcome outcome = RunEngram(
      absl::StrCat("generate --prompt-file - --server ", server.address()),
      "printf 'one\\ntwo\\n' | ");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server.requests()[0].text(), "one\ntwo\n");
}

TEST(CommandLine, TakesTheServerFromTheEnvironment) {
  ScriptedServer server(kAnswerTokens, {});
  const Outcome outcome =
      RunEngram("generate --prompt x",
                absl::StrCat("ENGRAM_SERVER=", server.address(), " "));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST(CommandLine, TellsErrorsAndWhatToDo) {
  ScriptedCall call;
  call.status = {grpc::StatusCode::FAILED_PRECONDITION, "it has version 3"};
  ScriptedServer server(kAnswerTokens, {call});
  const Outcome outcome = RunEngram(
      absl::StrCat("generate --prompt x --json --server ", server.address()));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err,
              StartsWith("engram: FAILED_PRECONDITION: it has version 3\n  "));
}

TEST(CommandLine, SaysWhereItLookedForAServer) {
  const Outcome outcome =
      RunEngram("models --retries 0 --server unix:/no/such/socket");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, StartsWith("engram: UNAVAILABLE: "));
  EXPECT_THAT(outcome.err, HasSubstr("unix:/no/such/socket"));

  const Outcome health = RunEngram("health --server unix:/no/such/socket");
  EXPECT_EQ(health.exit_code, 1);
  EXPECT_THAT(health.err, StartsWith("engram: UNAVAILABLE: "));
  EXPECT_THAT(health.err,
              HasSubstr("is a server running at unix:/no/such/socket?"));
}

TEST(CommandLine, AnEvaluationGivesUpIfThereIsNoServer) {
  const Outcome outcome = RunProgram(
      "engram-eval", "--task induction-head --server unix:/no/such/socket");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("is a server running at"));
}

TEST(CommandLine, RefusesWrongUseWithASuggestion) {
  struct Case {
    const char* arguments;
    const char* error;
  };
  for (const Case& wrong : {
           Case{"generat", "did you mean generate?"},
           Case{"--josn models", "did you mean --json?"},
           Case{"generate --promt x", "did you mean --prompt?"},
           Case{"generate", "give a prompt"},
           Case{"generate --prompt x --tokens 1", "only one of"},
           Case{"generate --tokens 1,x", "flag --tokens"},
           Case{"generate --prompt x --stop '\\q'", "flag --stop"},
           Case{"generate --prompt x --logit-bias 5", "ID=VALUE"},
           Case{"generate x", "unexpected argument 'x'"},
           Case{"generate --prompt-file /no/such/file",
                "flag --prompt-file: cannot read '/no/such/file'"},
           Case{"generate --prompt-file /tmp", "Is a directory"},
           Case{"score --text-file /tmp", "flag --text-file: cannot read"},
           Case{"tokenize --text-file /tmp", "flag --text-file: cannot read"},
           Case{"generate --prompt $(printf 'caf\\351')",
                "flag --prompt: byte 4 (0xe9) is not UTF-8"},
           Case{"generate --prompt x --stop '\\xff'",
                "flag --stop: byte 1 (0xff)"},
           Case{"sessions get $(printf '\\351')", "byte 1 (0xe9)"},
           Case{"models --server https://localhost", "asks for TLS"},
           Case{"models --server ''", "flag --server: '' is no address"},
           Case{"models --server localhost:x", "the port 'x'"},
           Case{"models --deadline soon", "flag --deadline"},
           Case{"models --deadline 0", "above zero"},
           Case{"models --retries -1", "from 0 to"},
           Case{"detokenize --tokens x", "flag --tokens"},
           Case{"generate --prompt x --logit-bias 4=nan", "ID=VALUE"},
           Case{"generate --prompt x --logit-bias -4=1", "ID=VALUE"},
           Case{"sessions create --label =x", "KEY=VALUE"},
           Case{"generate --prompt x --expected-version y", "or 'any'"},
           Case{"score", "--text"},
           Case{"sessions", "what about"},
           Case{"sessions froget x", "unknown action 'froget'"},
           Case{"sessions dellete x", "did you mean delete?"},
           Case{"sessions get", "number of ids"},
           Case{"tokenize", "--text"},
           Case{"chat --line-prefix '\\q'", "escape"},
       }) {
    const Outcome outcome = RunEngram(wrong.arguments);
    EXPECT_EQ(outcome.exit_code, 2) << wrong.arguments;
    EXPECT_EQ(outcome.out, "") << wrong.arguments;
    EXPECT_THAT(outcome.err, StartsWith("engram: ")) << wrong.arguments;
    EXPECT_THAT(outcome.err, HasSubstr(wrong.error)) << wrong.arguments;
  }
}

TEST(CommandLine, HelpTeachesByExamples) {
  EXPECT_THAT(RunEngram("--help").out, HasSubstr("Exit codes:"));
  EXPECT_EQ(RunEngram("help").exit_code, 0);
  for (const char* verb : {"generate", "chat", "score", "sessions", "models",
                           "tokenize", "detokenize"}) {
    const Outcome outcome = RunEngram(absl::StrCat(verb, " --help"));
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.out,
                HasSubstr(absl::StrCat("Examples:\n  engram ", verb)));
    EXPECT_THAT(outcome.out, HasSubstr("--server HOST:PORT"));
  }
}

TEST(CommandLine, ASignalCancelsTheCall) {
  ScriptedCall call;
  call.tokens = 2;
  call.hangs = true;
  ScriptedServer server(kAnswerTokens, {call});
  const std::string program = ProgramFile("bin/engram");
  const std::string address = server.address();
  int out[2];
  ASSERT_EQ(pipe(out), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(out[1], STDOUT_FILENO);
    close(STDERR_FILENO);
    execl(program.c_str(), "engram", "generate", "--prompt", "x", "--server",
          address.c_str(), nullptr);
    _exit(99);
  }
  close(out[1]);
  // The call runs once this text is there.
  std::string text;
  char letter = 0;
  while (text != "0 1 " && read(out[0], &letter, 1) == 1) text += letter;
  EXPECT_EQ(text, "0 1 ");
  kill(child, SIGINT);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  close(out[0]);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
}

// Every program, every verb: what cannot be printed is no success.
TEST(CommandLine, FailsIfStandardOutputCannotBeWritten) {
  ScriptedServer server(kAnswerTokens, {});
  server.AddSession("s", 1);
  const std::string to = absl::StrCat(" --server ", server.address());
  for (const auto& [program, arguments] :
       std::vector<std::pair<std::string, std::string>>{
           {"engram", "--help"},
           {"engram", "chat --help"},
           {"engram", "generate --prompt x" + to},
           {"engram", "generate --prompt x --json" + to},
           {"engram", "score --text x" + to},
           {"engram", "score --text x --json" + to},
           {"engram", "sessions list" + to},
           {"engram", "sessions get s --json" + to},
           {"engram", "sessions create" + to},
           {"engram-bench", "--help"},
           {"engram-bench", "engine --help"},
           {"engram-bench", "limits --help"},
           {"engram-eval", "--help"},
           {"engram-eval", "table --help"},
           {"engram-server", "--help"},
           {"engram-server", "--version"}}) {
    const Outcome outcome =
        RunProgram(program, absl::StrCat(arguments, " > /dev/full"));
    EXPECT_EQ(outcome.exit_code, 1) << program << " " << arguments;
    EXPECT_EQ(outcome.err,
              absl::StrCat(program,
                           ": cannot write to standard output: No space left "
                           "on device\n"))
        << program << " " << arguments;
  }
}

TEST(CommandLine, TellsWhatTheMachineCanDo) {
  const std::string little = "limits --threads 1 --rounds 2 --memory 1048576";
  const Outcome text = RunProgram("engram-bench", little);
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, HasSubstr("FLOP/s\n"));
  EXPECT_THAT(text.out, HasSubstr("B/s\n"));
  const Outcome json =
      RunProgram("engram-bench", absl::StrCat(little, " --json"));
  EXPECT_THAT(json.out, HasSubstr("\"threads\": 1"));
  EXPECT_THAT(json.out, HasSubstr("\"fma_flops_per_second\": "));
  EXPECT_THAT(json.out, HasSubstr("\"dram_read_bytes_per_second\": "));

  const Outcome word = RunProgram("engram-bench", "limits mamba-130m");
  EXPECT_EQ(word.exit_code, 2);
  EXPECT_THAT(word.err, HasSubstr("unexpected argument 'mamba-130m'"));
  const Outcome vast =
      RunProgram("engram-bench", "limits --rounds 1 --memory 1099511627776");
  EXPECT_EQ(vast.exit_code, 1);
  EXPECT_THAT(vast.err, HasSubstr("cannot allocate 1099511627776 bytes"));
}

TEST(CommandLine, EndsTheCallIfItsAnswerCannotBeWritten) {
  ScriptedCall call;
  call.tokens = 2;
  call.hangs = true;  // Unless it is cancelled, the program never ends.
  ScriptedServer server(kAnswerTokens, {call, call, call});
  for (const char* arguments : {"generate --prompt x",
                                "generate --prompt x "
                                "--json"}) {
    const Outcome outcome = RunEngram(absl::StrCat(
        arguments, " --server ", server.address(), " > /dev/full"));
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.err, HasSubstr("No space left on device"));
  }
  const Outcome outcome = RunEngram(
      absl::StrCat("chat --server ", server.address(), " > /dev/full"),
      "printf 'one\\ntwo\\n' | ");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("No space left on device"));
}

TEST(CommandLine, FailsIfAnAnswerHasNoJson) {
  ScriptedServer server(kAnswerTokens, {});
  v1::Session session;
  session.set_session_id("far");
  session.mutable_expire_time()->set_seconds(int64_t{1} << 40);
  server.SetSessions({session});
  const std::string list =
      absl::StrCat("sessions list --server ", server.address());
  const Outcome json = RunEngram(absl::StrCat(list, " --json"));
  EXPECT_EQ(json.exit_code, 1);
  EXPECT_EQ(json.out, "");
  EXPECT_THAT(json.err, HasSubstr("cannot be told as JSON"));
  const Outcome table = RunEngram(list);
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("far"));
}

TEST(CommandLine, ListsSessionsInEightyColumns) {
  ScriptedServer server(kAnswerTokens, {});
  v1::Session session;
  session.set_session_id(absl::StrCat(std::string(100, 'a'), "-end"));
  session.set_model("a-model-with-a-long-name");
  session.set_version(999'999);
  session.set_position(12'345'678);
  session.set_state_bytes(int64_t{999} << 30);
  session.mutable_last_used_time()->set_seconds(
      absl::ToUnixSeconds(absl::Now() - absl::Minutes(200)));
  session.mutable_expire_time()->set_seconds(
      absl::ToUnixSeconds(absl::Now() + absl::Hours(250)));
  server.SetSessions({session, session});
  const std::string list =
      absl::StrCat("sessions list --server ", server.address());
  const Outcome table = RunEngram(list);
  for (absl::string_view line : absl::StrSplit(table.out, '\n')) {
    EXPECT_LT(line.size(), 80u) << line;
  }
  EXPECT_THAT(table.out, HasSubstr("aaa...aaaaa-end"));
  EXPECT_THAT(table.out, HasSubstr("999 GiB   3h ago in 10d\n"));
  const Outcome wide = RunEngram(absl::StrCat(list, " --wide"));
  EXPECT_THAT(wide.out, HasSubstr(session.session_id()));
  EXPECT_THAT(wide.out, HasSubstr("a-model-with-a-long-name"));
}

TEST(CommandLine, MakesListsAndDeletesCheckpoints) {
  ScriptedServer server(kAnswerTokens, {});
  const std::string to = absl::StrCat(" --server ", server.address());
  const Outcome made =
      RunEngram("checkpoints create preface --session s --label owner=me" + to);
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("checkpoint  preface\n"));
  EXPECT_THAT(made.out, HasSubstr("label       owner=me\n"));
  const Outcome list = RunEngram("checkpoints list" + to);
  EXPECT_EQ(list.exit_code, 0) << list.err;
  EXPECT_THAT(list.out, HasSubstr("preface                   some-model"));
  EXPECT_THAT(list.out, HasSubstr("3      400  5.0 MiB"));
  for (absl::string_view line : absl::StrSplit(list.out, '\n')) {
    EXPECT_LT(line.size(), 80u) << line;
  }
  const Outcome wide = RunEngram("checkpoints list --wide" + to);
  EXPECT_THAT(wide.out, HasSubstr("5242880  2001-09-09T01:46:40Z"));
  const Outcome gone = RunEngram("checkpoints delete preface" + to);
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_THAT(gone.err, HasSubstr("there is no such checkpoint"));
  for (const auto& [arguments, why] :
       std::vector<std::pair<std::string, std::string>>{
           {"create preface", "Give --session ID"},
           {"create --session s", "wrong number of names for create"},
           {"make preface", "unknown action 'make'"},
           {"create c --session s --label me", "is not KEY=VALUE"},
           {"", "what about the checkpoints?"}}) {
    const Outcome refused = RunEngram("checkpoints " + arguments + to);
    EXPECT_EQ(refused.exit_code, 2) << arguments;
    EXPECT_THAT(refused.err, HasSubstr(why));
  }
}

TEST(CommandLine, HeadsNoListThatItDoesNotGet) {
  const Outcome list = RunEngram("sessions list --server 127.0.0.1:1");
  EXPECT_EQ(list.exit_code, 1);
  EXPECT_EQ(list.out, "");
}

TEST(CommandLine, HintsFitTheError) {
  struct Case {
    grpc::Status status;
    const char* hint;
  };
  for (const Case& refused : {
           Case{{grpc::StatusCode::UNAVAILABLE, "the queue is full"},
                "try again later"},
           Case{{grpc::StatusCode::UNIMPLEMENTED, "echo: not here"}, ""},
           Case{{grpc::StatusCode::UNIMPLEMENTED, ""}, "does not know this"},
           Case{{grpc::StatusCode::INTERNAL, "broken"}, "the server's log"},
           Case{{grpc::StatusCode::INVALID_ARGUMENT, "too many"},
                "`engram generate --help`"},
       }) {
    ScriptedCall call;
    call.status = refused.status;
    call.send_started = false;
    ScriptedServer server(kAnswerTokens, {call});
    const Outcome outcome = RunEngram(absl::StrCat(
        "generate --prompt x --retries 0 --server ", server.address()));
    EXPECT_EQ(outcome.exit_code, 1);
    const std::vector<std::string> lines = absl::StrSplit(outcome.err, '\n');
    ASSERT_GE(lines.size(), 2u);
    EXPECT_THAT(lines[1], HasSubstr(refused.hint));
    EXPECT_EQ(lines[1].empty(), absl::string_view(refused.hint).empty());
  }
}

TEST(CommandLine, RefusesAVariableThatNoFlagKnows) {
  ScriptedServer server(kAnswerTokens, {});
  const std::string arguments =
      absl::StrCat("generate --prompt x --server ", server.address());
  Outcome outcome = RunEngram(arguments, "ENGRAM_SEVER=localhost ");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("did you mean ENGRAM_SERVER?"));
  outcome = RunEngram(arguments, "ENGRAM_SERVER=https://localhost ");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, StartsWith("engram: ENGRAM_SERVER: 'https:"));
  // The server's variables may be set in the same place.
  outcome = RunEngram(arguments, "ENGRAM_MAX_QUEUE=3 ENGRAM_SLOTS=2 ");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  outcome = RunProgram("engram-server", "--help", "ENGRAM_SERVER=localhost ");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* program : {"engram-server", "engram-bench", "engram-eval"}) {
    outcome = RunProgram(program, "--no-such-flag", "ENGRAM_SLOT=3 ");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.err, HasSubstr("did you mean ENGRAM_SLOTS?"));
  }
}

TEST(CommandLine, ChatAnswersEachLineOfAPipe) {
  ScriptedServer server(2, {});
  const Outcome outcome =
      RunEngram(absl::StrCat("chat --session s --server ", server.address()),
                "printf 'one\\n//two\\n/quit\\nthree\\n' | ");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "0 1 \n0 1 \n");
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].text(), "one");
  EXPECT_EQ(requests[0].session_id(), "s");
  EXPECT_THAT(requests[1].text(), HasSubstr("/two"));
  EXPECT_NE(requests[0].request_id(), requests[1].request_id());
}

TEST(CommandLine, ChatEndsAPipeAtTheFirstError) {
  ScriptedCall call;
  call.status = {grpc::StatusCode::INTERNAL, "broken"};
  ScriptedServer server(2, {call});
  const Outcome outcome =
      RunEngram(absl::StrCat("chat --server ", server.address()),
                "printf 'one\\ntwo\\n' | ");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(server.requests().size(), 1u);
}

}  // namespace
}  // namespace engram::client
