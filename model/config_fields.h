// ConfigFields: a JSON object of a model folder's config.json, whose fields are
// read with checks. What is wrong is told with the file and the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace engram {

// Bounds of every number: far above any model there is, and small enough that
// products of any three of them fit in 64 bits.
inline constexpr int64_t kLayersMax = 1024;
inline constexpr int64_t kWidthMax = 1 << 16;       // d_model, dt_rank
inline constexpr int64_t kInnerWidthMax = 1 << 20;  // d_inner
inline constexpr int64_t kVocabMax = 1 << 24;
inline constexpr int64_t kStateMax = 4096;       // d_state
inline constexpr int64_t kConvolutionMax = 256;  // d_conv
inline constexpr int64_t kHeadsMax = 1 << 16;    // heads, groups
inline constexpr double kEpsilonMin = 1e-12;     // a float that is not 0

// A JSON value for an error message, on one line and not too long.
std::string ShownJson(const nlohmann::json& value);

// The object that `text` is, with Infinity and NaN as Python writes them.
// DATA_LOSS: no JSON object; `file` is for the message.
absl::StatusOr<nlohmann::json> ParseConfigObject(std::string_view text,
                                                 const std::string& file);

// Null is the same as missing, as it is for the Python classes. Reading fails
// with DATA_LOSS where a field has a value that it cannot have.
class ConfigFields {
 public:
  // `object` must be an object and outlive this.
  ConfigFields(std::string file, const nlohmann::json& object)
      : file_(std::move(file)), object_(object) {}

  // nullptr if the field is not there.
  const nlohmann::json* Find(const char* name) const;
  // Whether the field is there, null included.
  bool Names(const char* name) const { return object_.contains(name); }
  // For warnings, which clients read too: the folder is nobody else's business.
  std::string file_name() const { return file_.substr(file_.rfind('/') + 1); }

  // DATA_LOSS: the field has a wrong value.
  absl::Status Bad(const char* name, const std::string& expected) const;
  // UNIMPLEMENTED: one that Engram does not have.
  absl::Status Unsupported(const char* name, const char* supported) const;
  // The same unless the field is not there or is one of `supported`.
  absl::Status RequireOneOf(const char* name,
                            const std::vector<nlohmann::json>& supported) const;

  // An integer in [low, high]; `missing` if the field is not there, and without
  // one the field is required.
  absl::StatusOr<int64_t> Integer(const char* name, int64_t low, int64_t high,
                                  std::optional<int64_t> missing) const;
  // A number in [low, high], where low is above 0; `missing` if it is not
  // there.
  absl::StatusOr<double> Number(const char* name, double low, double high,
                                double missing) const;
  // A boolean, or nothing if it is not there.
  absl::StatusOr<std::optional<bool>> Boolean(const char* name) const;
  // Distinct layers of `layers`, ascending; none if the field is not there.
  absl::StatusOr<std::vector<int64_t>> Layers(const char* name,
                                              int64_t layers) const;
  // How many leading dimensions of a head are rotated: an even number.
  absl::StatusOr<int64_t> RotaryDim(const char* name, int64_t head_dim) const;
  // The fields of an object, none if it is not there. They need this and its
  // object.
  absl::StatusOr<ConfigFields> Object(const char* name) const;
  // A token id, a list of them, or nothing if it is not there. An id that no
  // row stands for, -1 among them, can never come up: it is left out, with a
  // warning.
  absl::StatusOr<std::vector<int32_t>> TokenIds(
      const char* name, int64_t vocab,
      std::vector<std::string>* warnings) const;

 private:
  std::string ShownField(const char* name) const;

  std::string file_;
  const nlohmann::json& object_;
};

}  // namespace engram
