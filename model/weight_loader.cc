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
#include "model/quantised_tensors.h"
#include "model/quoted.h"

namespace engram {
namespace {

constexpr int64_t kTapsMin = 2;
constexpr int64_t kTapsMax = 256;

// Whether two tensors of one shape have the same values, of whatever type.
bool SameValues(const Tensor& a, const Tensor& b) {
  if (a.type == b.type) {
    return std::memcmp(a.data, b.data, a.elements() * DataTypeBytes(a.type)) ==
           0;
  }
  constexpr int64_t kPiece = 1 << 16;
  std::vector<float> values_a(kPiece), values_b(kPiece);
  for (int64_t begin = 0; begin < a.elements(); begin += kPiece) {
    const int64_t count = std::min(kPiece, a.elements() - begin);
    WidenToFloat32(a, begin, absl::MakeSpan(values_a.data(), count));
    WidenToFloat32(b, begin, absl::MakeSpan(values_b.data(), count));
    if (!std::equal(values_a.begin(), values_a.begin() + count,
                    values_b.begin())) {
      return false;
    }
  }
  return true;
}

// "[7, 3]": where the element at `index` is in a tensor of `shape`.
std::string PlaceOf(int64_t index, const std::vector<int64_t>& shape) {
  std::vector<int64_t> place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    place[i] = index % shape[i];
    index /= shape[i];
  }
  return ShapeToString(place);
}

// One number that is none makes every answer wrong sooner or later.
absl::Status CheckFinite(const std::string& folder, const std::string& name,
                         const Tensor& tensor) {
  const int64_t index = FirstNonFinite(tensor);
  if (index < 0) return absl::OkStatus();
  float value = 0;
  WidenToFloat32(tensor, index, absl::MakeSpan(&value, 1));
  return absl::DataLossError(absl::StrCat(
      folder, ": tensor ", name, " is ", value, " at ",
      PlaceOf(index, tensor.shape), ", expected finite numbers; the file is ",
      "damaged, or training had diverged"));
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
  if (used_.insert(name).second) {
    formats_by_name_[name] = std::nullopt;
    if (checks_values_) {
      ENGRAM_RETURN_IF_ERROR(CheckFinite(folder_, name, tensor));
    }
    parameters_ += tensor.elements();
  }
  return tensor;
}

absl::StatusOr<QuantisedMatrix> WeightLoader::UseQuantised(
    const std::string& name, const WeightShape& shape) {
  ENGRAM_ASSIGN_OR_RETURN(const QuantisedMatrix matrix,
                          FindQuantisedMatrix(*checkpoint_, name, shape));
  if (!used_.insert(name).second) return matrix;
  for (const QuantisedTensor& tensor : QuantisedTensors(name, shape)) {
    used_.insert(tensor.name);
  }
  if (checks_values_) {
    const absl::Status status = CheckQuantised(matrix);
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat(folder_, ": tensor ", name, ": ",
                                              status.message(),
                                              "; the file is damaged"));
    }
  }
  parameters_ += shape.outputs * shape.inputs;
  return matrix;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::MatrixIn(
    std::optional<WeightFormat> format, const std::string& name,
    int64_t outputs, int64_t inputs) {
  if (format_.is_quantised && format.has_value()) {
    ENGRAM_ASSIGN_OR_RETURN(const QuantisedMatrix matrix,
                            UseQuantised(name, {outputs, inputs, *format}));
    return Pack(name, WeightSource(matrix));
  }
  ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, Use(name, {outputs, inputs}));
  const WeightFormat stored = FormatOf(tensor.type);
  const WeightFormat wanted = format.value_or(stored);
  if (wanted != stored && wanted != WeightFormat::kFloat32) rounded_ = true;
  return Pack(name, WeightSource(tensor, wanted));
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::Matrix(
    const std::string& name, int64_t outputs, int64_t inputs) {
  return MatrixIn(format_.wanted, name, outputs, inputs);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::SmallMatrix(
    const std::string& name, int64_t outputs, int64_t inputs) {
  const bool is_stored =
      format_.wanted.has_value() && IsQuantised(*format_.wanted);
  return MatrixIn(is_stored ? std::nullopt : format_.wanted, name, outputs,
                  inputs);
}

std::optional<WeightFormat> WeightLoader::VocabularyFormat() const {
  return format_.wanted == WeightFormat::kInt4 ? WeightFormat::kInt8
                                               : format_.wanted;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::VocabularyMatrix(
    const std::string& name, int64_t outputs, int64_t inputs) {
  return MatrixIn(VocabularyFormat(), name, outputs, inputs);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::Pack(
    const std::string& name, const WeightSource& source) {
  absl::StatusOr<std::unique_ptr<PackedWeight>> packed = backend_->Pack(source);
  if (!packed.ok()) {
    return absl::Status(packed.status().code(),
                        absl::StrCat(folder_, ": tensor ", name, ": ",
                                     packed.status().message()));
  }
  widest_inputs_ = std::max(widest_inputs_, (*packed)->inputs());
  widest_outputs_ = std::max(widest_outputs_, (*packed)->outputs());
  formats_by_name_[name] = source.format();
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
  ENGRAM_RETURN_IF_ERROR(
      backend_->CopyFromHost(buffer->data(), values.data(), bytes));
  return buffer;
}

const std::string* WeightLoader::FirstOf(
    absl::Span<const std::string> names) const {
  for (const std::string& name : names) {
    if (checkpoint_->Has(name)) return &name;
  }
  return nullptr;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> WeightLoader::SharedMatrix(
    absl::Span<const std::string> names, int64_t outputs, int64_t inputs) {
  const std::string* const first = FirstOf(names);
  if (first == nullptr) {
    return absl::DataLossError(
        absl::StrCat(folder_, ": no embedding matrix, expected one of ",
                     absl::StrJoin(names, ", ")));
  }
  for (const std::string& name : names) {
    if (&name == first || !checkpoint_->Has(name)) continue;
    ENGRAM_ASSIGN_OR_RETURN(const bool is_copy,
                            IsCopy(name, *first, outputs, inputs));
    if (is_copy) continue;
    return absl::DataLossError(
        absl::StrCat(folder_, ": tensors ", *first, " and ", name,
                     " differ, expected one matrix under both names"));
  }
  return VocabularyMatrix(*first, outputs, inputs);
}

absl::StatusOr<bool> WeightLoader::IsCopy(const std::string& name,
                                          const std::string& original,
                                          int64_t outputs, int64_t inputs) {
  ENGRAM_ASSIGN_OR_RETURN(const bool same,
                          SameMatrices(name, original, outputs, inputs));
  if (!same) return false;
  used_.insert(name);
  if (format_.is_quantised) {
    for (const QuantisedTensor& tensor :
         QuantisedTensors(name, {outputs, inputs, *VocabularyFormat()})) {
      used_.insert(tensor.name);
    }
  }
  return true;
}

absl::StatusOr<bool> WeightLoader::SameMatrices(const std::string& name,
                                                const std::string& other,
                                                int64_t outputs,
                                                int64_t inputs) const {
  if (format_.is_quantised) {
    const WeightShape shape = {outputs, inputs, *VocabularyFormat()};
    ENGRAM_ASSIGN_OR_RETURN(const QuantisedMatrix a,
                            FindQuantisedMatrix(*checkpoint_, name, shape));
    ENGRAM_ASSIGN_OR_RETURN(const QuantisedMatrix b,
                            FindQuantisedMatrix(*checkpoint_, other, shape));
    return SameValues(a, b);
  }
  ENGRAM_ASSIGN_OR_RETURN(const Tensor a,
                          checkpoint_->Get(name, {outputs, inputs}));
  ENGRAM_ASSIGN_OR_RETURN(const Tensor b,
                          checkpoint_->Get(other, {outputs, inputs}));
  return SameValues(a, b);
}

std::string WeightLoader::WeightFormats() const {
  std::set<std::string> names;
  for (const auto& [name, format] : formats_by_name_) {
    if (format.has_value()) names.insert(WeightFormatName(*format));
  }
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
