// Texts of config.json for the tests of its layouts, and what is expected of
// them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/model_config.h"

namespace engram {

inline absl::StatusOr<ModelConfig> Parse(const std::string& config,
                                         const std::string& generation = "") {
  return ParseModelConfig(config, generation, "folder");
}

inline ModelConfig Parsed(const std::string& config,
                          const std::string& generation = "") {
  auto parsed = Parse(config, generation);
  ENGRAM_CHECK_OK(parsed.status());
  return std::move(*parsed);
}

// A configuration of Hugging Face's layout with these fields besides.
inline std::string HuggingFace(const std::string& fields) {
  return absl::StrCat("{\"model_type\":\"mamba\"", fields.empty() ? "" : ",",
                      fields, "}");
}

// One of the original layout.
inline std::string StateSpaces(const std::string& fields) {
  return absl::StrCat("{\"d_model\":768,\"n_layer\":24,\"vocab_size\":50277",
                      fields.empty() ? "" : ",", fields, "}");
}

inline void ExpectRefused(const std::string& config, absl::StatusCode code,
                          const std::vector<std::string>& parts) {
  const absl::Status status = Parse(config).status();
  EXPECT_EQ(status.code(), code) << config << ": " << status;
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("folder/config.json"));
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  }
}

inline void ExpectDamaged(const std::string& config,
                          const std::vector<std::string>& parts) {
  ExpectRefused(config, absl::StatusCode::kDataLoss, parts);
}

inline void ExpectUnsupported(const std::string& config,
                              const std::vector<std::string>& parts) {
  ExpectRefused(config, absl::StatusCode::kUnimplemented, parts);
}

}  // namespace engram
