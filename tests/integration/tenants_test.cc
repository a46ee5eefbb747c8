// Tenants of a whole server: what one may take, and what is left to the other.
// Rates are told by the server's own clock, in what it says of a turn.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/key_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr double kRate = 40;  // tokens in a second

// The tenant's only key, and what all of its keys may take.
std::string Entry(const std::string& tenant, const std::string& limits = "") {
  return KeyEntry(
      tenant, tenant,
      absl::StrCat(R"("roles": ["generate"], "limits": {)", limits, "}"));
}

class TenantsTest : public ::testing::Test {
 protected:
  TenantsTest() {
    folder_.Write(
        "keys.json",
        KeysText(
            {Entry("many"), Entry("one"), Entry("few", R"("streams": 2)"),
             Entry("rare", R"("requests_per_second": 0.001)"),
             Entry("paced", absl::StrCat(R"("tokens_per_second": )", kRate))}));
    ServerOptions options = ZooOptions({kEnglish});
    options.slots = 65;
    options.keys = folder_.File("keys.json");
    server_ = std::make_unique<TestServer>(options);
  }

  std::unique_ptr<TestClient> ClientOf(const std::string& tenant) const {
    return std::make_unique<TestClient>(server_->address(), KeyOf(tenant));
  }
  double TokensFed() const {
    const MetricsPage metrics = server_->Metrics();
    return metrics.Sum("prompt_tokens_total") +
           metrics.Sum("generation_tokens_total");
  }
  // Refused for what its tenant may; says so, and when to come again.
  static void ExpectRefused(const Answer& answer, const std::string& limit) {
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kResourceExhausted)
        << answer.status;
    EXPECT_NE(answer.status.message().find(limit), std::string::npos)
        << answer.status;
    EXPECT_TRUE(answer.trailing.contains("retry-after-ms"));
    EXPECT_TRUE(answer.trailing.contains("retry-after"));
  }

  TemporaryFolder folder_;
  std::unique_ptr<TestServer> server_;
};

// A prompt that needs steps of its own for seconds.
v1::GenerateRequest LongPrompt(uint32_t seed) {
  return TokenTurn(kEnglish, RandomIds(Scaled(30000, 3000), 1000, seed), 0);
}

TEST_F(TenantsTest, OneHasNearlyHalfOfTheTokensBeside64StreamsOfAnother) {
  const auto many = ClientOf("many");
  const auto one = ClientOf("one");
  std::vector<std::unique_ptr<GenerateStream>> streams;
  for (uint32_t i = 0; i < 64; ++i) {
    streams.push_back(many->StartGenerate(LongPrompt(i)));
  }
  for (const auto& stream : streams) ASSERT_TRUE(stream->ReadStarted());
  const double before = TokensFed();
  const auto stream = one->StartGenerate(LongPrompt(64));
  const Answer answer = stream->ReadAll();
  const double fed = TokensFed() - before;
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_GE(answer.completed->usage().prompt_tokens(), 0.45 * fed);
  for (const auto& other : streams) other->Cancel();
}

TEST_F(TenantsTest, PaceHoldsWithin5PercentOver20Seconds) {
  const auto client = ClientOf("paced");
  // What may come at once is gone then.
  ASSERT_TRUE(client->Generate(TokenTurn(kEnglish, {1, 2}, 40)).status.ok());
  const int tokens = static_cast<int>(kRate) * Scaled(20, 2);
  v1::GenerateRequest turn = TokenTurn(kEnglish, {1}, tokens);
  turn.mutable_stopping()->set_ignore_eos(true);
  const Answer answer = client->Generate(turn);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  const auto& decode = answer.completed->timing().decode();
  const double seconds =
      static_cast<double>(decode.seconds()) + decode.nanos() * 1e-9;
  EXPECT_NEAR((tokens - 1) / seconds, kRate, 0.05 * kRate);
}

TEST_F(TenantsTest, AStreamMoreThanATenantMayHaveIsRefused) {
  const auto client = ClientOf("few");
  const auto first = client->StartGenerate(EndlessTurn(kEnglish));
  const auto second = client->StartGenerate(EndlessTurn(kEnglish));
  ASSERT_TRUE(first->ReadStarted());
  ASSERT_TRUE(second->ReadStarted());
  ExpectRefused(client->Generate(EndlessTurn(kEnglish)), "limit 2 (streams)");
  const auto other = ClientOf("one");
  EXPECT_TRUE(other->Generate(TokenTurn(kEnglish, {1}, 1)).status.ok());
  second->Cancel();
  second->ReadAll();
  EXPECT_TRUE(Eventually([&] {
    return client->Generate(TokenTurn(kEnglish, {1}, 1)).status.ok();
  }));
}

TEST_F(TenantsTest, ARequestMoreThanATenantMayMakeIsRefused) {
  const auto client = ClientOf("rare");
  EXPECT_TRUE(client->Generate(TokenTurn(kEnglish, {1}, 1)).status.ok());
  ExpectRefused(client->Generate(TokenTurn(kEnglish, {1}, 1)),
                "limit 0.001 a second (requests_per_second)");
}

// Else one could have texts encoded without end.
TEST_F(TenantsTest, ARequestThatComesToNothingCounts) {
  const auto client = ClientOf("rare");
  v1::GenerateRequest turn = TokenTurn(kEnglish, {1}, 1);
  turn.mutable_sampling()->set_top_p(-1);
  EXPECT_EQ(client->Generate(turn).status.code(),
            absl::StatusCode::kInvalidArgument);
  ExpectRefused(client->Generate(turn),
                "limit 0.001 a second (requests_per_second)");
}

TEST_F(TenantsTest, ARequestOfAModelThatIsNotThereCounts) {
  const auto client = ClientOf("rare");
  const v1::GenerateRequest turn = TokenTurn("nowhere", {1}, 1);
  EXPECT_EQ(client->Generate(turn).status.code(), absl::StatusCode::kNotFound);
  ExpectRefused(client->Generate(turn),
                "limit 0.001 a second (requests_per_second)");
}

}  // namespace
}  // namespace engram
