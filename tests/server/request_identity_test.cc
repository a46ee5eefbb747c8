#include "server/request_identity.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using Change = std::function<void(Request*)>;

Request Plain() {
  Request request = TestEngine::Turn("a", "r", {1, 2}, 7);
  request.stopping.stop = {"ab", "c"};
  request.stopping.stop_token_ids = {5};
  request.sampling.logit_bias = {{3, 1.5f}};
  return request;
}

RequestIdentity IdentityAfter(const Change& change) {
  Request request = Plain();
  change(&request);
  return IdentityOf(request);
}

std::string Hex(const RequestIdentity& identity) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(identity.data()), identity.size()));
}

TEST(RequestIdentity, IsAnotherOneForEveryFieldThatChangesTheAnswer) {
  const std::vector<Change> changes = {
      [](Request*) {},
      [](Request* request) {
        request->prompt = {1, 3};
      },
      [](Request* request) {
        request->prompt = {1, 2, 0};
      },
      [](Request* request) { request->prompt.clear(); },
      [](Request* request) { request->from_checkpoint = "c"; },
      [](Request* request) { request->sampling.temperature = 1; },
      [](Request* request) { request->sampling.top_k = 1; },
      [](Request* request) { request->sampling.top_p = 0.5; },
      [](Request* request) { request->sampling.min_p = 0.5; },
      [](Request* request) { request->sampling.repetition_penalty = 2; },
      [](Request* request) { request->sampling.presence_penalty = 1; },
      [](Request* request) { request->sampling.frequency_penalty = 1; },
      [](Request* request) {
        request->sampling.logit_bias = {{4, 1.5f}};
      },
      [](Request* request) {
        request->sampling.logit_bias = {{3, 1.6f}};
      },
      [](Request* request) { request->sampling.logit_bias.clear(); },
      [](Request* request) { request->sampling.seed = 1; },
      [](Request* request) { request->stopping.max_tokens = 8; },
      [](Request* request) {
        request->stopping.stop = {"a", "bc"};
      },
      [](Request* request) { request->stopping.stop = {"abc"}; },
      [](Request* request) {
        request->stopping.stop = {"ab", "c", ""};
      },
      [](Request* request) { request->stopping.stop_token_ids = {6}; },
      [](Request* request) { request->stopping.stop_token_ids.clear(); },
      [](Request* request) { request->stopping.ignore_eos = true; },
      [](Request* request) { request->keep_partial = true; },
      [](Request* request) { request->logprobs = 1; },
  };
  std::map<RequestIdentity, size_t> seen;
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto [found, fresh] = seen.emplace(IdentityAfter(changes[i]), i);
    EXPECT_TRUE(fresh) << i << " equals " << found->second;
  }
}

TEST(RequestIdentity, IsTheSameWhateverMayDifferInARepeat) {
  const RequestIdentity plain = IdentityOf(Plain());
  const std::vector<Change> changes = {
      [](Request* request) { request->request_id = "other"; },
      [](Request* request) { request->session_id = "other"; },
      [](Request* request) { request->expected_version = 0; },
      [](Request* request) { request->received = {9}; },
      [](Request* request) { request->priority = 5; },
      [](Request* request) { request->deadline = absl::UnixEpoch(); },
      [](Request* request) { request->sampling.min_p = -0.0f; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_EQ(IdentityAfter(changes[i]), plain) << i;
  }
}

// A stored session takes it to other machines and later versions.
TEST(RequestIdentity, IsTheSameInEveryRun) {
  // As Python's hashlib and struct make it.
  EXPECT_EQ(Hex(IdentityOf(Plain())),
            "e49fc2891955dfcc67037e70a2af6fb7"
            "08d73333712c2a1e621c1047f079af52");
}

TEST(ShortDigest, IsHowSha256Begins) {
  // SHA-256 of "abc" is ba7816bf 8f01cfea ..., here as a little-endian number.
  EXPECT_EQ(ShortDigest("abc"), 0xeacf018fbf1678ba);
  EXPECT_NE(ShortDigest("abd"), ShortDigest("abc"));
}

// --- What admission makes of it.

TEST(RequestIdentity, LetsARepeatExpectAnotherVersion) {
  TestEngine engine;
  Request request = TestEngine::Turn("a", "r", {1}, 2);
  engine.Run(request);
  request.expected_version = 1;
  EXPECT_NE(engine.Recorded(request), nullptr);
}

TEST(RequestIdentity, RefusesAnotherRequestOfTheSameId) {
  TestEngine engine;
  engine.Run(TestEngine::Turn("a", "r", {1}, 2));
  EXPECT_EQ(engine.Refusal(TestEngine::Turn("a", "r", {1}, 3)).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
