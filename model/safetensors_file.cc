#include "model/safetensors_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "kernels/tensor.h"
#include "model/foreign_content.h"
#include "model/quoted.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

// Tensors point into the file, whose numbers are little-endian.
static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr size_t kDimensionsMax = 16;

// Every dtype of the format whose elements are whole bytes. Those that
// no model is made of may still be in a file, beside the ones that are wanted.
struct StoredType {
  const char* name;
  int64_t bytes;
};
constexpr StoredType kStoredTypes[] = {
    {"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
    {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},     {"BF16", 2},
    {"I32", 4},     {"U32", 4}, {"F32", 4}, {"I64", 8},     {"U64", 8},
    {"F64", 8},     {"C64", 8}};

const StoredType* FindStoredType(std::string_view name) {
  for (const StoredType& type : kStoredTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

// A JSON integer in [0, 2^63), or nothing.
std::optional<int64_t> ToNatural(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return std::nullopt;
  }
  return static_cast<int64_t>(number);
}

// A JSON array of natural numbers, or nothing.
std::optional<std::vector<int64_t>> ToNaturals(const nlohmann::json& entry,
                                               const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const nlohmann::json& item : *found) {
    const std::optional<int64_t> number = ToNatural(item);
    if (!number.has_value()) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

// Bytes of a tensor of this shape, or nothing if they do not fit in int64.
std::optional<int64_t> BytesOf(const std::vector<int64_t>& shape,
                               int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<StoredTensor> ReadEntry(const SafetensorsFile& file,
                                       std::string_view data,
                                       const std::string& name,
                                       const nlohmann::json& entry) {
  if (!entry.is_object()) return file.Damaged(name, "is not described");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return file.Damaged(name, "has no dtype");
  }
  const StoredType* type = FindStoredType(dtype->get_ref<const std::string&>());
  if (type == nullptr) {
    return file.Damaged(
        name, absl::StrCat("has the unknown dtype ",
                           Quoted(dtype->get_ref<const std::string&>())));
  }
  const auto shape = ToNaturals(entry, "shape");
  if (!shape.has_value() || shape->size() > kDimensionsMax) {
    return file.Damaged(name,
                        absl::StrCat("has no valid shape; expected at most ",
                                     kDimensionsMax, " numbers of at least 0"));
  }
  const auto offsets = ToNaturals(entry, "data_offsets");
  if (!offsets.has_value() || offsets->size() != 2) {
    return file.Damaged(name, "has no valid data_offsets");
  }
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (begin > end || static_cast<uint64_t>(end) > data.size()) {
    return file.Damaged(
        name, absl::StrCat("lies at bytes ", begin, " to ", end, " of ",
                           data.size(), " bytes of data; ",
                           "the file is truncated or its header damaged"));
  }
  const std::optional<int64_t> bytes = BytesOf(*shape, type->bytes);
  if (!bytes.has_value() || *bytes != end - begin) {
    return file.Damaged(
        name,
        absl::StrCat("has ", end - begin, " bytes, expected ",
                     bytes.has_value() ? absl::StrCat(*bytes) : "over 2^63",
                     " for ", type->name, " ", ShapeToString(*shape)));
  }
  StoredTensor tensor;
  tensor.file = &file;
  tensor.type = type->name;
  tensor.shape = *shape;
  tensor.begin = begin;
  tensor.end = end;
  tensor.data = data.data() + begin;
  return tensor;
}

// The format wants the data part covered exactly: no overlap, no gap.
absl::Status CheckCoverage(const SafetensorsFile& file,
                           const StoredTensors& tensors, uint64_t data_bytes) {
  std::vector<std::pair<const std::string*, const StoredTensor*>> order;
  for (const auto& [name, tensor] : tensors) order.push_back({&name, &tensor});
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) <
           std::pair(b.second->begin, b.second->end);
  });
  uint64_t covered = 0;
  for (const auto& [name, tensor] : order) {
    if (tensor->begin != covered) {
      return file.Damaged(
          *name,
          absl::StrCat("begins at byte ", tensor->begin, ", expected ", covered,
                       ": tensors may not overlap or leave gaps"));
    }
    covered = tensor->end;
  }
  if (covered != data_bytes) {
    return absl::DataLossError(absl::StrCat(
        file.path(), ": ", data_bytes, " bytes of data, expected ", covered));
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredTensors> ReadTensors(const SafetensorsFile& file,
                                          std::string_view bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat(file.path(), ": ", bytes.size(),
                                            " bytes, too short for a header"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t rest = bytes.size() - sizeof(header_bytes);
  if (header_bytes > kHeaderBytesMax || header_bytes > rest) {
    const std::string clause = ForeignContent(bytes);
    if (!clause.empty()) {
      return absl::DataLossError(absl::StrCat(file.path(), ": ", clause));
    }
    return absl::DataLossError(
        absl::StrCat(file.path(), ": header of ", header_bytes,
                     " bytes, limit ", std::min(kHeaderBytesMax, rest),
                     "; the file is truncated or no safetensors file"));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      const nlohmann::json header,
      ParseStrictJson(bytes.substr(sizeof(header_bytes), header_bytes),
                      file.path()));
  if (!header.is_object()) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": the header is not a JSON object"));
  }
  const std::string_view data =
      bytes.substr(sizeof(header_bytes) + header_bytes);
  StoredTensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    ENGRAM_ASSIGN_OR_RETURN(tensors[name], ReadEntry(file, data, name, entry));
  }
  ENGRAM_RETURN_IF_ERROR(CheckCoverage(file, tensors, data.size()));
  return tensors;
}

}  // namespace

SafetensorsFile::~SafetensorsFile() { munmap(address_, size_); }

absl::Status SafetensorsFile::Damaged(std::string_view tensor,
                                      const std::string& problem) const {
  return absl::DataLossError(
      absl::StrCat(path_, ": tensor ", Quoted(tensor), " ", problem));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  // Without O_NONBLOCK the open of a named pipe would wait for a writer.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return absl::ErrnoToStatus(errno, path);
  struct stat status;
  absl::Status problem;
  void* address = MAP_FAILED;
  if (fstat(file, &status) != 0) {
    problem = absl::ErrnoToStatus(errno, path);
  } else if (!S_ISREG(status.st_mode)) {
    problem = absl::DataLossError(absl::StrCat(path, ": not a regular file"));
  } else if (status.st_size == 0) {
    problem = absl::DataLossError(absl::StrCat(path, ": the file is empty"));
  } else {
    address = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (address == MAP_FAILED) problem = absl::ErrnoToStatus(errno, path);
  }
  close(file);
  ENGRAM_RETURN_IF_ERROR(problem);
  std::unique_ptr<SafetensorsFile> opened(
      new SafetensorsFile(path, address, status.st_size));
  ENGRAM_ASSIGN_OR_RETURN(
      opened->tensors_,
      ReadTensors(*opened, {static_cast<const char*>(address),
                            static_cast<size_t>(status.st_size)}));
  return opened;
}

}  // namespace engram
