// The flags that describe a turn: sampling, stopping and the session. Shared by
// the verbs `generate` and `chat`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "clients/cpp/flags.h"
#include "engram/v1/generation.pb.h"

namespace engram::client {

struct TurnFlags {
  // Model, session, sampling and stopping.
  void AddTo(FlagSet* flags);

  // A request with all of that, without prompt and expected_version.
  v1::GenerateRequest MakeRequest() const;

  std::string model;
  std::string session;
  std::string from_checkpoint;
  int32_t max_tokens = 128;
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 0;
  float min_p = 0;
  float repetition_penalty = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::map<int32_t, float> logit_bias;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool keep_partial = false;
  bool parse_special_tokens = false;
  int32_t logprobs = 0;
  int32_t priority = 0;
};

}  // namespace engram::client
