#include "model/host_products.h"

#include <algorithm>
#include <numeric>

#include "kernels/status.h"

namespace engram {

absl::StatusOr<std::unique_ptr<HostProducts>> HostProducts::Create(
    Backend* backend, int64_t inputs, int64_t outputs, int64_t max_rows) {
  const int64_t rows = std::min(kInspectedRows, max_rows);
  std::unique_ptr<HostProducts> products(new HostProducts(backend, rows));
  ENGRAM_ASSIGN_OR_RETURN(products->x_,
                          backend->Allocate(rows * inputs * sizeof(float)));
  ENGRAM_ASSIGN_OR_RETURN(products->y_,
                          backend->Allocate(rows * outputs * sizeof(float)));
  return products;
}

absl::Status HostProducts::Multiply(const PackedWeight& weight, int64_t rows,
                                    const float* x, int64_t stride, float* y) {
  return Multiply(LinearWeights{&weight, nullptr}, rows, x, stride, y);
}

absl::Status HostProducts::Multiply(const LinearWeights& linear, int64_t rows,
                                    const float* x, int64_t stride, float* y) {
  const int64_t inputs = linear.weight->inputs();
  const int64_t outputs = linear.weight->outputs();
  ENGRAM_CHECK(rows >= 1 && rows <= rows_ && stride >= inputs);
  ENGRAM_CHECK(rows * inputs * sizeof(float) <= x_->bytes() &&
               rows * outputs * sizeof(float) <= y_->bytes());
  for (int64_t row = 0; row < rows; ++row) {
    ENGRAM_RETURN_IF_ERROR(backend_->CopyFromHost(
        x_->floats() + row * inputs, x + row * stride, inputs * sizeof(float)));
  }
  MatMulOptions options;
  options.bias = linear.bias;
  backend_->MatMul(*linear.weight, rows, {x_->floats(), inputs}, options,
                   {y_->floats(), outputs});
  return backend_->CopyToHost(y, y_->floats(), rows * outputs * sizeof(float));
}

// A row of a weight is read as one of a table of tokens is.
absl::Status HostProducts::AddTransposed(const PackedWeight& weight,
                                         int64_t first, int64_t rows,
                                         const double* x, double* y) {
  const int64_t inputs = weight.inputs();
  std::vector<float> some(rows_ * inputs);
  for (int64_t done = 0; done < rows; done += rows_) {
    std::vector<int32_t> ids(std::min(rows_, rows - done));
    std::iota(ids.begin(), ids.end(), static_cast<int32_t>(first + done));
    ENGRAM_RETURN_IF_ERROR(Embed(weight, ids, some.data()));
    for (size_t row = 0; row < ids.size(); ++row) {
      for (int64_t i = 0; i < inputs; ++i) {
        y[i] += x[done + row] * some[row * inputs + i];
      }
    }
  }
  return absl::OkStatus();
}

absl::Status HostProducts::Embed(const PackedWeight& table,
                                 absl::Span<const int32_t> ids,
                                 float* embedded) {
  const auto rows = static_cast<int64_t>(ids.size());
  const int64_t width = table.inputs();
  ENGRAM_CHECK(rows >= 1 && rows <= rows_);
  // One row of all of them: where states lie is not asked.
  Row row;
  row.tokens = static_cast<int>(rows);
  const StepRows& step =
      backend_->PrepareStep({&row, 1}, /*blocks=*/{}, ids, /*most_rows=*/0);
  backend_->Embed(step, table, x_->floats());
  return backend_->CopyToHost(embedded, x_->floats(),
                              rows * width * sizeof(float));
}

absl::StatusOr<Outcome> HostProducts::Draw(const PackedWeight& head,
                                           const float* hidden, int64_t ids,
                                           const OutcomeRequest& request) {
  // What a back end lays out before it draws are rows of a step.
  Row row;
  row.tokens = 1;
  const int32_t any_id = 0;
  backend_->PrepareStep({&row, 1}, /*blocks=*/{}, {&any_id, 1},
                        /*most_rows=*/0);
  ENGRAM_RETURN_IF_ERROR(backend_->CopyFromHost(x_->floats(), hidden,
                                                head.inputs() * sizeof(float)));
  backend_->MatMul(head, 1, {x_->floats(), head.inputs()}, {},
                   {y_->floats(), head.outputs()});
  Outcome outcome;
  backend_->Outcomes({y_->floats(), head.outputs()}, ids, {&request, 1},
                     {&outcome, 1});
  ENGRAM_ASSIGN_OR_RETURN(const auto drawn, backend_->RecordEvent());
  if (drawn != nullptr) ENGRAM_RETURN_IF_ERROR(drawn->Wait());
  return outcome;
}

absl::StatusOr<std::vector<float>> HostProducts::Read(const float* source,
                                                      int64_t count) const {
  std::vector<float> values;
  if (source == nullptr) return values;
  values.resize(count);
  ENGRAM_RETURN_IF_ERROR(backend_->CopyToHost(values.data(), source,
                                              values.size() * sizeof(float)));
  return values;
}

}  // namespace engram
