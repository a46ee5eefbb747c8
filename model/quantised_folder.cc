#include "model/quantised_folder.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "kernels/weight_source.h"
#include "model/load_model.h"
#include "model/quantised_tensors.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kConfig[] = "config.json";
constexpr size_t kConfigBytesMax = 16 << 20;
// Files that mean the same whatever the weights are.
constexpr const char* kOtherFiles[] = {
    "generation_config.json", "tokenizer.json", "tokenizer_config.json"};
// Rows that are quantised at a time.
constexpr int64_t kPieceValues = 1 << 20;

int64_t BytesOf(const QuantisedTensor& tensor) {
  int64_t bytes = tensor.type == "F32"                            ? 4
                  : tensor.type == "F16" || tensor.type == "BF16" ? 2
                                                                  : 1;
  for (const int64_t extent : tensor.shape) bytes *= extent;
  return bytes;
}

// Of a file that all was written to.
absl::Status Close(const std::string& path, std::ofstream* file) {
  file->close();
  if (file->good()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno == 0 ? EIO : errno,
                             absl::StrCat("writing ", path));
}

// The file that is written, from its beginning to its end.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(const std::string& path)
      : path_(path), file_(path, std::ios::binary) {}

  // Of tensors that follow in this order.
  void WriteHeader(const std::vector<QuantisedTensor>& tensors) {
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    int64_t begin = 0;
    for (const QuantisedTensor& tensor : tensors) {
      const int64_t end = begin + BytesOf(tensor);
      header[tensor.name] = {{"dtype", tensor.type},
                             {"shape", tensor.shape},
                             {"data_offsets", {begin, end}}};
      begin = end;
    }
    std::string text = header.dump();
    // Data begin at a multiple of eight bytes.
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t bytes = text.size();
    Write(&bytes, sizeof(bytes));
    Write(text.data(), text.size());
  }
  void Write(const void* data, size_t bytes) {
    file_.write(static_cast<const char*>(data),
                static_cast<std::streamsize>(bytes));
  }
  template <typename Element>
  void Write(const std::vector<Element>& elements) {
    Write(elements.data(), elements.size() * sizeof(Element));
  }
  absl::Status Finish() { return Close(path_, &file_); }

 private:
  const std::string path_;
  std::ofstream file_;
};

// Writes the values of a matrix, then its scales and minimums.
absl::Status WriteMatrix(const WeightSource& source,
                         SafetensorsWriter* writer) {
  const auto [outputs, inputs, format] = source.shape();
  const int64_t piece = std::max<int64_t>(1, kPieceValues / inputs);
  std::vector<float> scales;
  std::vector<uint16_t> half_scales, minimums;
  for (int64_t row = 0; row < outputs; row += piece) {
    const int64_t rows = std::min(piece, outputs - row);
    if (format == WeightFormat::kInt8) {
      ENGRAM_ASSIGN_OR_RETURN(const Int8Rows quantised, source.Int8(row, rows));
      writer->Write(quantised.values);
      scales.insert(scales.end(), quantised.scales.begin(),
                    quantised.scales.end());
      continue;
    }
    ENGRAM_ASSIGN_OR_RETURN(const Int4Rows quantised, source.Int4(row, rows));
    writer->Write(Int4Bytes(quantised, inputs));
    half_scales.insert(half_scales.end(), quantised.scales.begin(),
                       quantised.scales.end());
    minimums.insert(minimums.end(), quantised.minimums.begin(),
                    quantised.minimums.end());
  }
  writer->Write(scales);
  writer->Write(half_scales);
  writer->Write(minimums);
  return absl::OkStatus();
}

using Formats = std::map<std::string, std::optional<WeightFormat>>;

bool IsMatrixToQuantise(const std::optional<WeightFormat>& format) {
  return format.has_value() && IsQuantised(*format);
}

absl::Status WriteWeights(const Checkpoint& checkpoint, const Formats& formats,
                          const std::string& path) {
  std::vector<QuantisedTensor> tensors;
  for (const auto& [name, format] : formats) {
    ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint.Get(name));
    if (!IsMatrixToQuantise(format)) {
      tensors.push_back({name, DataTypeName(tensor.type), tensor.shape});
      continue;
    }
    for (QuantisedTensor& part :
         QuantisedTensors(name, {tensor.shape[0], tensor.shape[1], *format})) {
      tensors.push_back(std::move(part));
    }
  }
  SafetensorsWriter writer(path);
  writer.WriteHeader(tensors);
  for (const auto& [name, format] : formats) {
    ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint.Get(name));
    if (IsMatrixToQuantise(format)) {
      const absl::Status status =
          WriteMatrix(WeightSource(tensor, *format), &writer);
      if (status.ok()) continue;
      return absl::Status(
          status.code(), absl::StrCat("tensor ", name, ": ", status.message()));
    }
    writer.Write(tensor.data, tensor.elements() * DataTypeBytes(tensor.type));
  }
  return writer.Finish();
}

// The text of a config.json with what is new in it first: the rest stays as it
// was written, with numbers that Python writes and JSON does not have.
std::string WithFormat(const std::string& config, WeightFormat format) {
  const size_t begin = config.find('{') + 1;
  return absl::StrCat(config.substr(0, begin),
                      "\n  \"quantization_config\": {\"quant_method\": "
                      "\"engram\", \"format\": \"",
                      WeightFormatName(format), "\"},", config.substr(begin));
}

absl::Status WriteConfig(const std::string& source, WeightFormat format,
                         const std::string& target) {
  ENGRAM_ASSIGN_OR_RETURN(
      const std::string text,
      ReadSmallFile(absl::StrCat(source, "/", kConfig), kConfigBytesMax));
  const std::string changed = WithFormat(text, format);
  // One that names quantization_config as null, for example, would have it
  // twice.
  ENGRAM_RETURN_IF_ERROR(ParseModelConfig(changed, "", source).status());
  const std::string path = absl::StrCat(target, "/", kConfig);
  std::ofstream file(path, std::ios::binary);
  file << changed;
  return Close(path, &file);
}

absl::Status CopyOtherFiles(const std::string& source,
                            const std::string& target) {
  for (const char* const name : kOtherFiles) {
    std::error_code error;
    if (!fs::exists(fs::path(source) / name, error)) continue;
    fs::copy_file(fs::path(source) / name, fs::path(target) / name, error);
    if (error) {
      return absl::ErrnoToStatus(error.value(),
                                 absl::StrCat("copying ", source, "/", name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Formats> FormatsOf(const ModelFolder& folder,
                                  WeightFormat format) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                          MakeBackend({BackendKind::kCpu, 1}));
  ModelLimits limits;
  limits.slots = limits.max_batch_tokens = limits.max_logits_rows = 1;
  limits.weight_format = format;
  return folder.TensorFormats(*backend, limits);
}

absl::Status CheckFree(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(path,
                   " is there, and is left as it is; remove it, or name "
                   "another folder"));
}

// All of the folder but its name.
absl::Status WriteFolder(const ModelFolder& folder, const std::string& source,
                         WeightFormat format, const std::string& target) {
  ENGRAM_ASSIGN_OR_RETURN(const Formats formats, FormatsOf(folder, format));
  std::error_code error;
  fs::create_directory(target, error);
  if (error) return absl::ErrnoToStatus(error.value(), target);
  ENGRAM_RETURN_IF_ERROR(WriteConfig(source, format, target));
  ENGRAM_RETURN_IF_ERROR(CopyOtherFiles(source, target));
  return WriteWeights(folder.checkpoint(), formats,
                      absl::StrCat(target, "/model.safetensors"));
}

}  // namespace

absl::Status WriteQuantisedFolder(const std::string& source,
                                  WeightFormat format,
                                  const std::string& target) {
  if (!IsQuantised(format)) {
    return absl::InvalidArgumentError(
        absl::StrCat(WeightFormatName(format),
                     " is no format to quantise to, expected int8 or int4"));
  }
  std::string name = target;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  const std::string partial = absl::StrCat(name, ".partial");
  ENGRAM_RETURN_IF_ERROR(CheckFree(target));
  ENGRAM_RETURN_IF_ERROR(CheckFree(partial));
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFolder> folder,
                          ModelFolder::Open(source));
  if (folder->quantised().has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(source, ": the weights are quantised to ",
                     WeightFormatName(*folder->quantised()),
                     " already; quantise the folder that they were made of"));
  }
  const absl::Cleanup remove = [&partial] {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
  };
  ENGRAM_RETURN_IF_ERROR(WriteFolder(*folder, source, format, partial));
  std::error_code error;
  fs::rename(partial, target, error);
  if (error) return absl::ErrnoToStatus(error.value(), target);
  return absl::OkStatus();
}

}  // namespace engram
