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

size_t ValueBytes(WeightFormat format) {
  return format == WeightFormat::kInt8 ? 1 : DataTypeBytes(StoredType(format));
}

// Those that there is memory for.
int64_t PaddedOutputs(const WeightView& view) {
  return RoundUp(view.outputs, WeightView::kOutputsMultiple);
}

// Of an output.
int64_t RowBytes(const WeightView& view) {
  return view.stride * static_cast<int64_t>(ValueBytes(view.format));
}
int64_t ScaleRowBytes(const WeightView& view) {
  return view.format == WeightFormat::kInt8
             ? Int8Units(view.inputs) * static_cast<int64_t>(sizeof(float))
             : 0;
}

// Outputs of a weight, as they lie in the device's memory.
struct PackedRows {
  std::vector<std::byte> values;  // `stride` apart
  std::vector<float> scales;      // of kInt8
};

// `scales` [count, units] as WeightView has them.
std::vector<float> Interleaved(const std::vector<float>& scales, int64_t count,
                               const WeightView& view) {
  const int64_t units = Int8Units(view.inputs);
  std::vector<float> interleaved(RoundUp(count, WeightView::kOutputsMultiple) *
                                 units);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t unit = 0; unit < units; ++unit) {
      interleaved[view.ScalePlace(row, unit)] = scales[row * units + unit];
    }
  }
  return interleaved;
}

// Rows [first, first + count) of `weight`, in the format.
absl::StatusOr<PackedRows> Rows(const WeightSource& weight,
                                const WeightView& view, int64_t first,
                                int64_t count) {
  const size_t value_bytes = ValueBytes(view.format);
  PackedRows packed;
  std::vector<std::byte>& rows = packed.values;
  rows.resize(count * view.stride * value_bytes);
  const auto place = [&](const void* values) {
    for (int64_t row = 0; row < count; ++row) {
      std::memcpy(rows.data() + row * view.stride * value_bytes,
                  static_cast<const std::byte*>(values) +
                      row * view.inputs * value_bytes,
                  view.inputs * value_bytes);
    }
  };
  if (view.format == WeightFormat::kFloat32) {
    place(weight.Float32(first, count).data());
  } else if (view.format == WeightFormat::kInt8) {
    ENGRAM_ASSIGN_OR_RETURN(const Int8Rows quantised,
                            weight.Int8(first, count));
    place(quantised.values.data());
    packed.scales = Interleaved(quantised.scales, count, view);
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint16_t> bits,
                            weight.Halves(first, count));
    place(bits.data());
  }
  return packed;
}

}  // namespace

PackedMatrix::~PackedMatrix() {
  if (!DeviceIsLost()) (void)cudaStreamSynchronize(stream_);
}

WeightView LayoutOf(const WeightShape& shape) {
  WeightView view;
  view.outputs = shape.outputs;
  view.inputs = shape.inputs;
  view.stride = RoundUp(shape.inputs, WeightView::kInputsMultiple);
  view.format = shape.format;
  return view;
}

size_t PackedMatrix::BytesOf(const WeightShape& shape) {
  const WeightView view = LayoutOf(shape);
  return PaddedOutputs(view) * (RowBytes(view) + ScaleRowBytes(view));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackedMatrix::Make(
    const WeightShape& shape, cudaStream_t stream) {
  WeightView view = LayoutOf(shape);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                          AllocateDeviceMemory(BytesOf(shape)));
  view.values = buffer->data();
  // Behind all values, whose rows are multiples of 16 bytes.
  if (shape.format == WeightFormat::kInt8) {
    view.scales =
        reinterpret_cast<float*>(static_cast<std::byte*>(buffer->data()) +
                                 PaddedOutputs(view) * RowBytes(view));
  }
  return std::unique_ptr<PackedMatrix>(
      new PackedMatrix(view, stream, std::move(buffer)));
}

absl::Status PackedMatrix::Fill(const WeightSource& weight) {
  auto* const values = static_cast<std::byte*>(values_->data());
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(cudaMemsetAsync(values, 0, values_->bytes(), stream_),
                   "clearing a weight"));
  const auto copy = [this](std::byte* to, const void* from, size_t size) {
    return DeviceStatus(
        cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, stream_),
        "copying a weight");
  };
  const int64_t row_bytes = RowBytes(view_);
  const int64_t scale_row_bytes = ScaleRowBytes(view_);
  std::byte* const scales = values + PaddedOutputs(view_) * row_bytes;
  const int64_t chunk_rows =
      RoundUp(std::max<int64_t>(1, kChunkBytes / row_bytes),
              WeightView::kOutputsMultiple);
  for (int64_t row = 0; row < view_.outputs; row += chunk_rows) {
    const int64_t count = std::min(chunk_rows, view_.outputs - row);
    ENGRAM_ASSIGN_OR_RETURN(const PackedRows rows,
                            Rows(weight, view_, row, count));
    ENGRAM_RETURN_IF_ERROR(
        copy(values + row * row_bytes, rows.values.data(), rows.values.size()));
    if (!rows.scales.empty()) {
      ENGRAM_RETURN_IF_ERROR(copy(scales + row * scale_row_bytes,
                                  rows.scales.data(),
                                  rows.scales.size() * sizeof(float)));
    }
    // `rows` goes away.
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaStreamSynchronize(stream_), "copying a weight"));
  }
  return absl::OkStatus();
}

}  // namespace engram::cuda
