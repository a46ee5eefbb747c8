// Loading of a small random model after changes to its configuration or
// tensors, which every family is tested with.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"

namespace engram {

// What a state takes whose components have so many floats: each of them begins
// at a multiple of 256 bytes.
inline size_t StateBytes(std::initializer_list<size_t> components) {
  size_t bytes = 0;
  for (const size_t floats : components) {
    bytes += (floats * sizeof(float) + 255) / 256 * 256;
  }
  return bytes;
}

// A tensor that does not agree with a configuration that says `wrong` in place
// of `sound`.
struct Contradiction {
  std::string sound, wrong, tensor;
};

class ModelLoading : public testing::Test {
 protected:
  ModelLoading(std::string config, std::map<std::string, RawTensor> tensors)
      : config_(std::move(config)), tensors_(std::move(tensors)) {}

  absl::StatusOr<std::unique_ptr<Model>> Load(int64_t known_ids = 0) {
    folder_.Write("config.json", config_);
    folder_.Write("model.safetensors", SafetensorsFile(tensors_));
    return LoadModel(folder_.path(), backend_.get(), limits_, known_ids);
  }

  void ExpectRefused(absl::StatusCode code, const std::string& first,
                     const std::string& second) {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(
        std::string(status.message()),
        testing::AllOf(testing::HasSubstr(first), testing::HasSubstr(second)));
  }

  void ExpectDataLoss(const std::string& first, const std::string& second) {
    ExpectRefused(absl::StatusCode::kDataLoss, first, second);
  }

  void Replace(const std::string& sound, const std::string& wrong) {
    ASSERT_THAT(config_, testing::HasSubstr(sound));
    config_.replace(config_.find(sound), sound.size(), wrong);
  }

  // Where the configuration says `wrong` in place of `sound`, and nothing else.
  void ExpectDataLossWith(const std::string& sound, const std::string& wrong,
                          const std::string& first, const std::string& second) {
    const std::string config = config_;
    Replace(sound, wrong);
    ExpectDataLoss(first, second);
    config_ = config;
  }

  void ExpectDataLossWithout(const std::string& name) {
    const RawTensor kept = tensors_.at(name);
    tensors_.erase(name);
    ExpectDataLoss(name, "missing");
    tensors_[name] = kept;
  }

  // Every tensor in turn, with its last element NaN or infinite.
  void ExpectRefusedWhereATensorIsNotFinite() {
    for (const auto& [name, sound] : tensors_) {
      for (const char* value : {"nan", "inf"}) {
        RawTensor broken = sound;
        const float number = std::strtof(value, nullptr);
        std::memcpy(&broken.bytes[broken.bytes.size() - sizeof(number)],
                    &number, sizeof(number));
        std::swap(tensors_[name], broken);
        ExpectDataLoss(name, absl::StrCat("is ", value, " at ["));
        std::swap(tensors_[name], broken);
      }
    }
  }

  // The name of a tensor of layer `layer`.
  static std::string Mixer(const char* tensor, int layer = 1) {
    return absl::StrCat("backbone.layers.", layer, ".mixer.", tensor);
  }

  // Of all tensors.
  int64_t Elements() const {
    int64_t elements = 0;
    for (const auto& [name, tensor] : tensors_) {
      elements += tensor.bytes.size() / sizeof(float);
    }
    return elements;
  }

  std::string config_;
  std::map<std::string, RawTensor> tensors_;
  ModelLimits limits_ = {.slots = 2};
  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_ = TwoThreadBackend();
};

}  // namespace engram
