#include "kernels/cuda/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"
#include "kernels/weight_values.h"

namespace engram::cuda {
namespace {

// Converted at a time: large enough for a copy at full speed.
constexpr int64_t kChunkBytes = int64_t{8} << 20;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Rows [first, first + count) of `weight`, in the format, `stride` values
// apart.
absl::StatusOr<std::vector<std::byte>> Rows(const Tensor& weight,
                                            const WeightView& view,
                                            int64_t first, int64_t count) {
  const size_t value_bytes = DataTypeBytes(StoredType(view.format));
  std::vector<std::byte> rows(count * view.stride * value_bytes);
  const auto place = [&](const void* values) {
    for (int64_t row = 0; row < count; ++row) {
      std::memcpy(rows.data() + row * view.stride * value_bytes,
                  static_cast<const std::byte*>(values) +
                      row * view.inputs * value_bytes,
                  view.inputs * value_bytes);
    }
  };
  const int64_t begin = first * view.inputs, values = count * view.inputs;
  if (view.format == WeightFormat::kFloat32) {
    std::vector<float> floats(values);
    WidenToFloat32(weight, begin, absl::MakeSpan(floats));
    place(floats.data());
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint16_t> bits,
                            NarrowValues(weight, begin, values, view.format));
    place(bits.data());
  }
  return rows;
}

}  // namespace

PackedMatrix::~PackedMatrix() {
  if (!DeviceIsLost()) (void)cudaStreamSynchronize(stream_);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackedMatrix::Pack(
    const Tensor& weight, WeightFormat format, cudaStream_t stream) {
  if (format == WeightFormat::kInt8) {
    return absl::UnimplementedError("int8 weights on CUDA");
  }
  WeightView view;
  view.outputs = weight.shape[0];
  view.inputs = weight.shape[1];
  view.stride = RoundUp(view.inputs, WeightView::kInputsMultiple);
  view.format = format;
  const int64_t row_bytes =
      view.stride * static_cast<int64_t>(DataTypeBytes(StoredType(format)));
  const size_t bytes =
      RoundUp(view.outputs, WeightView::kOutputsMultiple) * row_bytes;
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                          AllocateDeviceMemory(bytes));
  view.values = buffer->data();
  auto* const target = static_cast<std::byte*>(buffer->data());
  ENGRAM_RETURN_IF_ERROR(DeviceStatus(cudaMemsetAsync(target, 0, bytes, stream),
                                      "clearing a weight"));
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkBytes / row_bytes);
  for (int64_t row = 0; row < view.outputs; row += chunk_rows) {
    const int64_t count = std::min(chunk_rows, view.outputs - row);
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::byte> rows,
                            Rows(weight, view, row, count));
    ENGRAM_RETURN_IF_ERROR(DeviceStatus(
        cudaMemcpyAsync(target + row * row_bytes, rows.data(), rows.size(),
                        cudaMemcpyHostToDevice, stream),
        "copying a weight"));
    // `rows` goes away.
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaStreamSynchronize(stream), "copying a weight"));
  }
  return std::unique_ptr<PackedMatrix>(
      new PackedMatrix(view, stream, std::move(buffer)));
}

}  // namespace engram::cuda
