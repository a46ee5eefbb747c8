// Each flag of a turn, and what it makes of the request.
#include "clients/cpp/turn_flags.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace engram::client {
namespace {

using ::google::protobuf::TextFormat;
using ::google::protobuf::util::MessageDifferencer;
using ::testing::StartsWith;

struct FlagCase {
  std::string name;
  std::vector<std::string> values;  // one or, if it is repeatable, several
  std::string request;              // what is in it because of the flag
};

std::vector<FlagCase> FlagCases() {
  return {
      {"model", {"m"}, "model: 'm'"},
      {"session", {"s"}, "session_id: 's'"},
      {"from-checkpoint", {"c"}, "from_checkpoint: 'c'"},
      {"max-tokens", {"7"}, "stopping { max_tokens: 7 }"},
      {"temperature", {"0.5"}, "sampling { temperature: 0.5 }"},
      {"top-k", {"40"}, "sampling { top_k: 40 }"},
      {"top-p", {"0.25"}, "sampling { top_p: 0.25 }"},
      {"min-p", {"0.125"}, "sampling { min_p: 0.125 }"},
      {"repetition-penalty", {"1.5"}, "sampling { repetition_penalty: 1.5 }"},
      {"presence-penalty", {"-2"}, "sampling { presence_penalty: -2 }"},
      {"frequency-penalty", {"3"}, "sampling { frequency_penalty: 3 }"},
      {"logit-bias",
       {"4=-5,6=7.5", "8=9"},
       "sampling { logit_bias { key: 4 value: -5 } logit_bias { key: 6 value: "
       "7.5 } logit_bias { key: 8 value: 9 } }"},
      {"seed", {"-1"}, "sampling { seed: -1 }"},
      {"stop", {"\\n\\n", "a,b"}, "stopping { stop: '\\n\\n' stop: 'a,b' }"},
      {"stop-token-id", {"1,2", "3"}, "stopping { stop_token_ids: [1, 2, 3] }"},
      {"ignore-eos", {}, "stopping { ignore_eos: true }"},
      {"keep-partial", {}, "keep_partial: true"},
      {"parse-special-tokens", {}, "parse_special_tokens: true"},
      {"logprobs", {"5"}, "logprobs: 5"},
      {"priority", {"-3"}, "priority: -3"},
  };
}

absl::StatusOr<v1::GenerateRequest> MakeRequest(
    const std::vector<std::string>& arguments) {
  TurnFlags turn;
  FlagSet flags;
  turn.AddTo(&flags);
  const auto others = flags.Parse(arguments);
  if (!others.ok()) return others.status();
  return turn.MakeRequest();
}

v1::GenerateRequest Expected(const std::string& text) {
  v1::GenerateRequest request;
  request.mutable_sampling();
  request.mutable_stopping()->set_max_tokens(128);
  EXPECT_TRUE(TextFormat::MergeFromString(text, &request)) << text;
  return request;
}

TEST(TurnFlags, HaveACaseHereForEach) {
  TurnFlags turn;
  FlagSet flags;
  turn.AddTo(&flags);
  std::vector<std::string> names;
  for (const FlagSet::Flag& flag : flags.flags()) names.push_back(flag.name);
  std::vector<std::string> cases;
  for (const FlagCase& flag : FlagCases()) cases.push_back(flag.name);
  EXPECT_THAT(cases, ::testing::ElementsAreArray(names));
}

TEST(TurnFlags, EachSetsItsFieldAndNoOther) {
  for (const FlagCase& flag : FlagCases()) {
    SCOPED_TRACE(flag.name);
    std::vector<std::string> arguments;
    for (const std::string& value : flag.values) {
      arguments.push_back(absl::StrCat("--", flag.name, "=", value));
    }
    if (arguments.empty()) arguments.push_back(absl::StrCat("--", flag.name));
    const absl::StatusOr<v1::GenerateRequest> request = MakeRequest(arguments);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_TRUE(MessageDifferencer::Equals(*request, Expected(flag.request)))
        << request->ShortDebugString();
  }
}

TEST(TurnFlags, WithoutAnyTheServersDefaultsHold) {
  const absl::StatusOr<v1::GenerateRequest> request = MakeRequest({});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(MessageDifferencer::Equals(*request, Expected("")))
      << request->ShortDebugString();
  // Left out is not 0: the server then chooses.
  EXPECT_FALSE(request->sampling().has_seed());
}

TEST(TurnFlags, ErrorsNameTheFlag) {
  for (const char* wrong :
       {"--logit-bias=5", "--logit-bias=5=x", "--logit-bias=5=inf",
        "--logit-bias=-1=2", "--logit-bias=", "--stop=\\q", "--stop=\\xff",
        "--stop-token-id=x", "--stop-token-id=-1", "--top-k=many"}) {
    const std::string text = wrong;
    const absl::Status status = MakeRequest({text}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(
        std::string(status.message()),
        StartsWith(absl::StrCat("flag ", text.substr(0, text.find('=')), ": ")))
        << wrong;
  }
}

}  // namespace
}  // namespace engram::client
