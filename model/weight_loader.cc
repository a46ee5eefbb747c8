#include "model/weight_loader.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/status.h"
#include "model/strict_json.h"

namespace engram {
namespace {

constexpr int64_t kTapsMin = 2;
constexpr int64_t kTapsMax = 256;

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.type == b.type && a.shape == b.shape &&
         std::memcmp(a.data, b.data, a.elements() * DataTypeBytes(a.type)) == 0;
}

}  // namespace

std::vector<float> Transposed(const std::vector<float>& matrix, int64_t rows,
                              int64_t columns) {
  std::vector<float> result(matrix.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      result[column * rows + row] = matrix[row * columns + column];
    }
  }
  return result;
}

absl::StatusOr<std::vector<int64_t>> WeightLoader::Shape(
    const std::string& name, size_t dimensions) const {
  ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint_->Get(name));
  if (tensor.shape.size() != dimensions || tensor.elements() == 0) {
    return absl::DataLossError(absl::StrCat(
        folder_, ": tensor ", name, " has shape ", ShapeToString(tensor.shape),
        ", expected ", dimensions, " dimensions of at least 1"));
  }
  return tensor.shape;
}

absl::StatusOr<int64_t> WeightLoader::ConvolutionTaps(
    const std::string& name) const {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, Shape(name, 3));
  const int64_t taps = shape[2];
  if (taps < kTapsMin || taps > kTapsMax) {
    return absl::DataLossError(absl::StrCat(folder_, ": tensor ", name, " has ",
                                            taps, " taps, expected ", kTapsMin,
                                            " to ", kTapsMax));
  }
  return taps;
}

absl::StatusOr<Tensor> WeightLoader::Use(const std::string& name,
                                         const std::vector<int64_t>& shape) {
  ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint_->Get(name, shape));
  if (used_.insert(name).second) parameters_ += tensor.elements();
  return tensor;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::Matrix(
    const std::string& name, int64_t outputs, int64_t inputs) {
  ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, Use(name, {outputs, inputs}));
  return Pack(name, tensor);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::Pack(
    const std::string& name, const Tensor& tensor) {
  const WeightFormat stored = FormatOf(tensor.type);
  const WeightFormat format = format_.value_or(stored);
  absl::StatusOr<std::unique_ptr<PackedWeight>> packed =
      backend_->Pack(tensor, format);
  if (!packed.ok()) {
    return absl::Status(packed.status().code(),
                        absl::StrCat(folder_, ": tensor ", name, ": ",
                                     packed.status().message()));
  }
  formats_.insert(format);
  if (format != stored && format != WeightFormat::kFloat32) rounded_ = true;
  return packed;
}

absl::StatusOr<std::vector<float>> WeightLoader::Values(
    const std::string& name, const std::vector<int64_t>& shape) {
  ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, Use(name, shape));
  return WidenToFloat32(tensor);
}

absl::StatusOr<std::unique_ptr<Buffer>> WeightLoader::Vector(
    const std::string& name, const std::vector<int64_t>& shape) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> values, Values(name, shape));
  return Upload(values);
}

absl::StatusOr<std::unique_ptr<Buffer>> WeightLoader::OptionalVector(
    const std::string& name, const std::vector<int64_t>& shape,
    std::optional<bool> configured) {
  if (!configured.value_or(checkpoint_->Has(name))) return nullptr;
  return Vector(name, shape);
}

absl::StatusOr<std::unique_ptr<Buffer>> WeightLoader::Convolution(
    const std::string& name, int64_t channels, int64_t taps) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> values,
                          Values(name, {channels, 1, taps}));
  return Upload(Transposed(values, channels, taps));
}

absl::StatusOr<std::unique_ptr<Buffer>> WeightLoader::Upload(
    const std::vector<float>& values) {
  const size_t bytes = values.size() * sizeof(float);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                          backend_->Allocate(bytes));
  backend_->CopyFromHost(buffer->data(), values.data(), bytes);
  return buffer;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::SharedMatrix(
    absl::Span<const std::string> names, int64_t outputs, int64_t inputs) {
  std::string first_name;
  Tensor first;
  for (const std::string& name : names) {
    if (!checkpoint_->Has(name)) continue;
    ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor,
                            checkpoint_->Get(name, {outputs, inputs}));
    used_.insert(name);
    if (first_name.empty()) {
      first_name = name;
      first = tensor;
      parameters_ += tensor.elements();
    } else if (!SameBytes(tensor, first)) {
      return absl::DataLossError(
          absl::StrCat(folder_, ": tensors ", first_name, " and ", name,
                       " differ, expected one matrix under both names"));
    }
  }
  if (first_name.empty()) {
    return absl::DataLossError(
        absl::StrCat(folder_, ": no embedding matrix, expected one of ",
                     absl::StrJoin(names, ", ")));
  }
  return Pack(first_name, first);
}

std::string WeightLoader::WeightFormats() const {
  std::vector<std::string> names;
  for (const WeightFormat format : formats_) {
    names.push_back(WeightFormatName(format));
  }
  std::sort(names.begin(), names.end());
  return absl::StrJoin(names, " and ");
}

std::string WeightLoader::WeightHash() const {
  const std::string hash = checkpoint_->Hash();
  if (!rounded_) return hash;
  const std::string named = absl::StrCat(hash, " ", WeightFormats());
  const XXH128_hash_t both = XXH3_128bits(named.data(), named.size());
  return absl::StrFormat("%016x%016x", both.high64, both.low64);
}

absl::Status WeightLoader::CheckAllUsed(
    absl::Span<const std::string> prefixes) const {
  for (const std::string& name : checkpoint_->Names()) {
    if (used_.count(name) != 0) continue;
    for (const std::string& prefix : prefixes) {
      if (!absl::StartsWith(name, prefix)) continue;
      return absl::DataLossError(
          absl::StrCat(folder_, ": tensor ", Quoted(name),
                       " is not part of the model that the configuration "
                       "describes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram
