#include "kernels/operations.h"

#include "kernels/status.h"

namespace engram {

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return "f32";
    case WeightFormat::kBFloat16:
      return "bf16";
    case WeightFormat::kFloat16:
      return "f16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

std::optional<WeightFormat> FindWeightFormat(absl::string_view name) {
  for (const WeightFormat format : kWeightFormats) {
    if (name == WeightFormatName(format)) return format;
  }
  return std::nullopt;
}

DataType StoredType(WeightFormat format) {
  ENGRAM_CHECK(!IsQuantised(format));
  switch (format) {
    case WeightFormat::kFloat32:
      return DataType::kFloat32;
    case WeightFormat::kBFloat16:
      return DataType::kBFloat16;
    case WeightFormat::kFloat16:
      return DataType::kFloat16;
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      break;
  }
  return DataType::kFloat32;
}

WeightFormat FormatOf(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return WeightFormat::kFloat32;
    case DataType::kBFloat16:
      return WeightFormat::kBFloat16;
    case DataType::kFloat16:
      return WeightFormat::kFloat16;
  }
  return WeightFormat::kFloat32;
}

int64_t WeightBytes(WeightFormat format, int64_t outputs, int64_t inputs) {
  if (format == WeightFormat::kInt8) {
    return outputs *
           (inputs + Int8Units(inputs) * static_cast<int64_t>(sizeof(float)));
  }
  if (format == WeightFormat::kInt4) {
    return outputs *
           ((inputs + 1) / 2 +
            Int4Groups(inputs) * 2 * static_cast<int64_t>(sizeof(uint16_t)));
  }
  return outputs * inputs *
         static_cast<int64_t>(DataTypeBytes(StoredType(format)));
}

}  // namespace engram
