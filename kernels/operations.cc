#include "kernels/operations.h"

namespace engram {

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return "f32";
    case WeightFormat::kBFloat16:
      return "bf16";
    case WeightFormat::kFloat16:
      return "f16";
  }
  return "unknown";
}

DataType StoredType(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return DataType::kFloat32;
    case WeightFormat::kBFloat16:
      return DataType::kBFloat16;
    case WeightFormat::kFloat16:
      return DataType::kFloat16;
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

}  // namespace engram
