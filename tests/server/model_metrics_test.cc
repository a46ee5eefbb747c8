#include "server/model_metrics.h"

#include <prometheus/text_serializer.h>

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ModelMetricsTest : public ::testing::Test {
 protected:
  void Make(int64_t kv_blocks) {
    metrics_ = MakeModelMetrics(&registry_, "m", /*device=*/"", /*slots=*/4,
                                kv_blocks);
  }
  std::string Text() const {
    return prometheus::TextSerializer().Serialize(registry_.Collect());
  }

  prometheus::Registry registry_;
  std::unique_ptr<ModelMetrics> metrics_;
};

TEST_F(ModelMetricsTest, TellHistogramsFromTheirFirstObservationOn) {
  Make(/*kv_blocks=*/0);
  EXPECT_THAT(Text(), HasSubstr("engram_slots{model=\"m\"} 4\n"));
  EXPECT_THAT(Text(), Not(HasSubstr("_bucket")));
  StepObservation step;
  step.duration = absl::Milliseconds(3);
  step.rows = 2;
  step.tokens = 5;
  step.prompt_tokens = 4;
  step.generated_tokens = 1;
  step.inter_token_latency_seconds = {0.002, 0.004, 1000};
  metrics_->ObserveStep(step);
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("engram_step_rows_sum{model=\"m\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("engram_prompt_tokens_total{model=\"m\"} 4\n"));
  EXPECT_THAT(
      text,
      HasSubstr("engram_inter_token_latency_seconds_count{model=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_inter_token_latency_seconds_bucket{"
                              "model=\"m\",le=\"120\"} 2\n"));
}

TEST_F(ModelMetricsTest, ObserveTimesOnlyOfWhatRan) {
  Make(/*kv_blocks=*/0);
  RequestSummary request;
  request.method = "Generate";
  request.handling = RequestHandling::kRefused;
  metrics_->ObserveRequest(request);
  EXPECT_THAT(Text(), Not(HasSubstr("e2e_request_latency_seconds_count")));
  request.handling = RequestHandling::kRun;
  request.usage.cached_tokens = 7;
  metrics_->ObserveRequest(request);
  EXPECT_THAT(
      Text(),
      HasSubstr("engram_e2e_request_latency_seconds_count{model=\"m\"} 1\n"));
  EXPECT_THAT(Text(), HasSubstr("engram_tokens_saved_total{model=\"m\"} 7\n"));
}

TEST_F(ModelMetricsTest, TellOfFragmentsFromTheStartWhateverEndedThem) {
  Make(/*kv_blocks=*/0);
  for (const std::string method : {"Generate", "Converse"}) {
    for (const std::string code :
         {"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}) {
      EXPECT_THAT(Text(), HasSubstr("engram_requests_total{code=\"" + code +
                                    "\",finish_reason=\"cancelled\",method=\"" +
                                    method + "\",model=\"m\"} 0\n"));
    }
  }
}

TEST_F(ModelMetricsTest, TellBlocksOnlyOfAModelThatHasThem) {
  Make(/*kv_blocks=*/0);
  metrics_->SetLoad({.running = 1, .kv_blocks_used = 3});
  EXPECT_THAT(Text(), HasSubstr("engram_num_requests_running{model=\"m\"} 1"));
  EXPECT_THAT(Text(), Not(HasSubstr("kv_blocks")));
  prometheus::Registry other;
  const auto with_blocks =
      MakeModelMetrics(&other, "m", "", 4, /*kv_blocks=*/9);
  with_blocks->SetLoad({.kv_blocks_used = 3, .kv_blocks_reserved = 2});
  const std::string text =
      prometheus::TextSerializer().Serialize(other.Collect());
  EXPECT_THAT(text, HasSubstr("engram_kv_blocks{model=\"m\"} 9\n"));
  EXPECT_THAT(text, HasSubstr("engram_kv_blocks_used{model=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_kv_blocks_reserved{model=\"m\"} 2\n"));
}

TEST_F(ModelMetricsTest, TellEachDevicesEngineApartAndRequestsTogether) {
  const auto first = MakeModelMetrics(&registry_, "m", "0", 4, 9);
  const auto second = MakeModelMetrics(&registry_, "m", "1", 4, 9);
  StepObservation step;
  step.rows = 2;
  step.generated_tokens = 2;
  step.inter_token_latency_seconds = {0.002};
  first->ObserveStep(step);
  second->ObserveStep(step);
  first->SetLoad({.running = 3});
  second->SetLoad({.running = 5});
  const std::string text = Text();
  for (const char* const line : {
           "engram_slots{device=\"0\",model=\"m\"} 4\n",
           "engram_kv_blocks{device=\"1\",model=\"m\"} 9\n",
           "engram_num_requests_running{device=\"0\",model=\"m\"} 3\n",
           "engram_num_requests_running{device=\"1\",model=\"m\"} 5\n",
           "engram_step_rows_count{device=\"1\",model=\"m\"} 1\n",
           "engram_generation_tokens_total{model=\"m\"} 4\n",
           "engram_inter_token_latency_seconds_count{model=\"m\"} 2\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace engram
