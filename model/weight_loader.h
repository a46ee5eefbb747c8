// WeightLoader: brings a checkpoint's tensors to a back end, with every shape
// checked, and keeps count of what was used. What is left over at the end shows
// whether the model was understood.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/weight_source.h"
#include "model/checkpoint.h"

namespace engram {

// [rows, columns] to [columns, rows].
std::vector<float> Transposed(const std::vector<float>& matrix, int64_t rows,
                              int64_t columns);

// What matrices are to be, and what they are.
struct MatrixFormat {
  // If there is none, each stays as it is stored.
  std::optional<WeightFormat> wanted;
  // The checkpoint has them in `wanted`, kInt8 or kInt4, by the rule of
  // model/quantised_tensors.h: those that would be left as they are stored are
  // floats in it too.
  bool is_quantised = false;
};

// Used while a model is loaded, on one thread. `folder` is for messages only.
// `checkpoint` and `backend` must outlive it; what it returns needs only the
// back end. Every method that takes a name fails with DATA_LOSS if the tensor
// is missing, has another shape, or an element that is NaN or infinite.
class WeightLoader {
 public:
  WeightLoader(std::string folder, const Checkpoint* checkpoint,
               Backend* backend, const MatrixFormat& format)
      : folder_(std::move(folder)),
        checkpoint_(checkpoint),
        backend_(backend),
        format_(format) {}

  // The shape of a tensor that has `dimensions` of them, none empty.
  absl::StatusOr<std::vector<int64_t>> Shape(const std::string& name,
                                             size_t dimensions) const;

  // The taps of a depthwise convolution [channels, 1, taps]; DATA_LOSS if they
  // are fewer than 2 or more than 256.
  absl::StatusOr<int64_t> ConvolutionTaps(const std::string& name) const;

  // A matrix [outputs, inputs] for MatMul, in the format that is asked for.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Matrix(const std::string& name,
                                                       int64_t outputs,
                                                       int64_t inputs);
  // One of a small share of a model's bytes, which is kept as it is stored
  // rather than in int8 or int4.
  absl::StatusOr<std::unique_ptr<PackedWeight>> SmallMatrix(
      const std::string& name, int64_t outputs, int64_t inputs);
  // An embedding or a head, which is in int8 where others are in int4: half of
  // what int4 costs comes through these.
  absl::StatusOr<std::unique_ptr<PackedWeight>> VocabularyMatrix(
      const std::string& name, int64_t outputs, int64_t inputs);
  // Its elements as float32 in host memory.
  absl::StatusOr<std::vector<float>> Values(const std::string& name,
                                            const std::vector<int64_t>& shape);
  // Float32 elements in the back end's memory.
  absl::StatusOr<std::unique_ptr<Buffer>> Vector(
      const std::string& name, const std::vector<int64_t>& shape);
  // The same, or nullptr if the model has none. `configured` is what the
  // configuration says; if it says nothing, the checkpoint decides.
  absl::StatusOr<std::unique_ptr<Buffer>> OptionalVector(
      const std::string& name, const std::vector<int64_t>& shape,
      std::optional<bool> configured);
  // A depthwise convolution [channels, 1, taps] as CausalConv1d wants it:
  // [taps, channels] in the back end's memory.
  absl::StatusOr<std::unique_ptr<Buffer>> Convolution(const std::string& name,
                                                      int64_t channels,
                                                      int64_t taps);
  // `values` in the back end's memory.
  absl::StatusOr<std::unique_ptr<Buffer>> Upload(
      const std::vector<float>& values);

  // The first of `names` that the checkpoint has a tensor under, or nullptr.
  const std::string* FirstOf(absl::Span<const std::string> names) const;

  // The one VocabularyMatrix that the checkpoint may hold under any of `names`.
  // Where several are there they must have the same values: two matrices taken
  // for one would give wrong logits in silence.
  absl::StatusOr<std::unique_ptr<PackedWeight>> SharedMatrix(
      absl::Span<const std::string> names, int64_t outputs, int64_t inputs);

  // Whether the matrix `name` has the values of the matrix `original`; if so,
  // it counts as used.
  absl::StatusOr<bool> IsCopy(const std::string& name,
                              const std::string& original, int64_t outputs,
                              int64_t inputs);

  // Notes something odd that does not keep the model from being served.
  void Warn(std::string warning) { warnings_.push_back(std::move(warning)); }
  const std::vector<std::string>& warnings() const { return warnings_; }

  const std::string& folder() const { return folder_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  // Elements of the distinct tensors loaded so far.
  int64_t parameters() const { return parameters_; }
  // From now on tensors are taken without a look at whether they are finite:
  // for a pass that is only to tell sizes, and should not read whole files.
  // What IsCopy() compares it still reads, since sizes depend on that.
  void SkipValues() { checks_values_ = false; }
  // The most inputs and the most outputs that a matrix loaded so far has.
  int64_t widest_inputs() const { return widest_inputs_; }
  int64_t widest_outputs() const { return widest_outputs_; }
  // The tensors loaded so far, copies left out: the format of those that are
  // matrices, nothing for the others.
  const std::map<std::string, std::optional<WeightFormat>>& formats_by_name()
      const {
    return formats_by_name_;
  }
  // The format of the matrices loaded so far, "f32"; "bf16 and f32" if they
  // have several.
  std::string WeightFormats() const;
  // The checkpoint's hash; another one if values were rounded to a format that
  // has fewer numbers, since that makes another model.
  std::string WeightHash() const;
  // DATA_LOSS if a tensor whose name begins with one of `prefixes` was not
  // used: the model has a part that is not understood.
  absl::Status CheckAllUsed(absl::Span<const std::string> prefixes) const;

 private:
  // A matrix in `format`; if there is none, as it is stored.
  absl::StatusOr<std::unique_ptr<PackedWeight>> MatrixIn(
      std::optional<WeightFormat> format, const std::string& name,
      int64_t outputs, int64_t inputs);
  // The matrix of a checkpoint that is quantised.
  absl::StatusOr<QuantisedMatrix> UseQuantised(const std::string& name,
                                               const WeightShape& shape);
  // In the format of an embedding or head.
  std::optional<WeightFormat> VocabularyFormat() const;
  absl::StatusOr<bool> SameMatrices(const std::string& name,
                                    const std::string& other, int64_t outputs,
                                    int64_t inputs) const;
  absl::StatusOr<Tensor> Use(const std::string& name,
                             const std::vector<int64_t>& shape);
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      const std::string& name, const WeightSource& source);

  const std::string folder_;
  const Checkpoint* const checkpoint_;
  Backend* const backend_;
  const MatrixFormat format_;
  std::set<std::string> used_;
  std::map<std::string, std::optional<WeightFormat>> formats_by_name_;
  bool rounded_ = false;
  int64_t parameters_ = 0;
  int64_t widest_inputs_ = 0;
  int64_t widest_outputs_ = 0;
  bool checks_values_ = true;
  std::vector<std::string> warnings_;
};

}  // namespace engram
