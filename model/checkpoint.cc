#include "model/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status.h"
#include "model/foreign_content.h"
#include "model/quoted.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

// Tensors point into the file, whose numbers are little-endian.
static_assert(std::endian::native == std::endian::little);

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr size_t kIndexBytesMax = 100'000'000;
constexpr size_t kDimensionsMax = 16;

// Every dtype of the format whose elements are whole bytes. Those that Get()
// does not hand out may still be in a file, beside the ones that are wanted.
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

std::optional<DataType> ToDataType(std::string_view name) {
  for (DataType type :
       {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16}) {
    if (name == DataTypeName(type)) return type;
  }
  return std::nullopt;
}

// A whole file, mapped for reading. Whoever replaces a model's file must do so
// by rename: cutting it short while it is mapped would kill the process.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(
      const std::string& path);
  ~MappedFile() { munmap(address_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::string_view bytes() const {
    return {static_cast<const char*>(address_), size_};
  }

 private:
  MappedFile(std::string path, void* address, size_t size)
      : path_(std::move(path)), address_(address), size_(size) {}

  const std::string path_;
  void* const address_;
  const size_t size_;
};

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(
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
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, address, status.st_size));
}

// One tensor as a header describes it, checked.
struct StoredTensor {
  const MappedFile* file = nullptr;
  std::string type;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // within the data part of its file
  uint64_t end = 0;
  const char* data = nullptr;
};
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

absl::Status Damaged(const MappedFile& file, std::string_view tensor,
                     const std::string& problem) {
  return absl::DataLossError(
      absl::StrCat(file.path(), ": tensor ", Quoted(tensor), " ", problem));
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

absl::StatusOr<StoredTensor> ReadEntry(const MappedFile& file,
                                       std::string_view data,
                                       const std::string& name,
                                       const nlohmann::json& entry) {
  if (!entry.is_object()) return Damaged(file, name, "is not described");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return Damaged(file, name, "has no dtype");
  }
  const StoredType* type = FindStoredType(dtype->get_ref<const std::string&>());
  if (type == nullptr) {
    return Damaged(file, name,
                   absl::StrCat("has the unknown dtype ",
                                Quoted(dtype->get_ref<const std::string&>())));
  }
  const auto shape = ToNaturals(entry, "shape");
  if (!shape.has_value() || shape->size() > kDimensionsMax) {
    return Damaged(file, name,
                   absl::StrCat("has no valid shape; expected at most ",
                                kDimensionsMax, " numbers of at least 0"));
  }
  const auto offsets = ToNaturals(entry, "data_offsets");
  if (!offsets.has_value() || offsets->size() != 2) {
    return Damaged(file, name, "has no valid data_offsets");
  }
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (begin > end || static_cast<uint64_t>(end) > data.size()) {
    return Damaged(file, name,
                   absl::StrCat("lies at bytes ", begin, " to ", end, " of ",
                                data.size(), " bytes of data; ",
                                "the file is truncated or its header damaged"));
  }
  const std::optional<int64_t> bytes = BytesOf(*shape, type->bytes);
  if (!bytes.has_value() || *bytes != end - begin) {
    return Damaged(
        file, name,
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
absl::Status CheckCoverage(const MappedFile& file, const StoredTensors& tensors,
                           uint64_t data_bytes) {
  std::vector<std::pair<const std::string*, const StoredTensor*>> order;
  for (const auto& [name, tensor] : tensors) order.push_back({&name, &tensor});
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) <
           std::pair(b.second->begin, b.second->end);
  });
  uint64_t covered = 0;
  for (const auto& [name, tensor] : order) {
    if (tensor->begin != covered) {
      return Damaged(
          file, *name,
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

absl::StatusOr<StoredTensors> ReadTensors(const MappedFile& file) {
  const std::string_view bytes = file.bytes();
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

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(std::string folder)
      : folder_(std::move(folder)) {}

  // Adds the tensors of one file of the folder.
  absl::Status AddFile(const std::string& name);
  // Adds every shard that the index names.
  absl::Status AddShards();

  bool Has(std::string_view name) const override {
    return tensors_.find(name) != tensors_.end();
  }
  std::vector<std::string> Names() const override;
  absl::StatusOr<Tensor> Get(std::string_view name) const override;
  absl::StatusOr<Tensor> Get(std::string_view name,
                             const std::vector<int64_t>& shape) const override;
  std::string Hash() const override;

 private:
  const std::string folder_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  StoredTensors tensors_;
};

absl::Status SafetensorsCheckpoint::AddFile(const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file,
                          MappedFile::Open(absl::StrCat(folder_, "/", name)));
  ENGRAM_ASSIGN_OR_RETURN(StoredTensors tensors, ReadTensors(*file));
  for (auto& [tensor_name, tensor] : tensors) {
    const auto [there, is_new] = tensors_.emplace(tensor_name, tensor);
    if (!is_new) {
      return Damaged(*file, tensor_name,
                     absl::StrCat("is in ", there->second.file->path(),
                                  " too; expected in one file only"));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

// A shard must lie in the folder itself: an index may not reach out of it.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// The weight_map of an index: tensor name to file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(
    const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(path, kIndexBytesMax));
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json index,
                          ParseStrictJson(text, path));
  const auto found = index.is_object() ? index.find("weight_map") : index.end();
  if (found == index.end() || !found->is_object()) {
    return absl::DataLossError(absl::StrCat(path, ": no weight_map"));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : found->items()) {
    if (!shard.is_string() ||
        !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::DataLossError(absl::StrCat(
          path, ": tensor ", Quoted(tensor), " is in ",
          Quoted(shard.dump(-1, ' ', true,
                            nlohmann::json::error_handler_t::replace)),
          ", expected the name of a file in the same folder"));
    }
    shard_of[tensor] = shard.get<std::string>();
  }
  return shard_of;
}

absl::Status SafetensorsCheckpoint::AddShards() {
  const std::string path = absl::StrCat(folder_, "/", kIndexFile);
  ENGRAM_ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(path));
  std::map<std::string, const MappedFile*> shards;
  for (const auto& [tensor, shard] : shard_of) {
    if (shards.count(shard) != 0) continue;
    const absl::Status added = AddFile(shard);
    if (absl::IsNotFound(added)) {
      return absl::DataLossError(
          absl::StrCat(path, ": the shard ", Quoted(shard), " is missing"));
    }
    ENGRAM_RETURN_IF_ERROR(added);
    shards[shard] = files_.back().get();
  }
  for (const auto& [tensor, shard] : shard_of) {
    const auto found = tensors_.find(tensor);
    if (found == tensors_.end() || found->second.file != shards[shard]) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", Quoted(tensor),
                                              " is not in its shard ",
                                              Quoted(shard)));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> SafetensorsCheckpoint::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

absl::StatusOr<Tensor> SafetensorsCheckpoint::Get(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::DataLossError(
        absl::StrCat(folder_, ": tensor ", Quoted(name), " is missing"));
  }
  const StoredTensor& stored = found->second;
  const std::optional<DataType> type = ToDataType(stored.type);
  if (!type.has_value()) {
    return Damaged(
        *stored.file, name,
        absl::StrCat("is ", stored.type, ", expected F32, BF16 or F16"));
  }
  return Tensor{*type, stored.shape, stored.data};
}

absl::StatusOr<Tensor> SafetensorsCheckpoint::Get(
    std::string_view name, const std::vector<int64_t>& shape) const {
  ENGRAM_ASSIGN_OR_RETURN(Tensor tensor, Get(name));
  if (tensor.shape != shape) {
    return Damaged(*tensors_.find(name)->second.file, name,
                   absl::StrCat("has shape ", ShapeToString(tensor.shape),
                                ", expected ", ShapeToString(shape)));
  }
  return tensor;
}

std::string SafetensorsCheckpoint::Hash() const {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(
      XXH3_createState(), &XXH3_freeState);
  ENGRAM_CHECK(state != nullptr);
  XXH3_128bits_reset(state.get());
  const auto add = [&](const void* bytes, size_t size) {
    XXH3_128bits_update(state.get(), bytes, size);
  };
  for (const auto& [name, tensor] : tensors_) {
    // Terminators and the number of dimensions keep neighbours apart.
    add(name.c_str(), name.size() + 1);
    add(tensor.type.c_str(), tensor.type.size() + 1);
    const int64_t dimensions = tensor.shape.size();
    add(&dimensions, sizeof(dimensions));
    add(tensor.shape.data(), tensor.shape.size() * sizeof(int64_t));
    add(tensor.data, tensor.end - tensor.begin);
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

bool Exists(const std::string& folder, const char* name) {
  struct stat status;
  return stat(absl::StrCat(folder, "/", name).c_str(), &status) == 0;
}

absl::Status NoSafetensors(const std::string& folder) {
  const std::string neither =
      absl::StrCat("neither ", kSingleFile, " nor ", kIndexFile);
  return NoModelFolder(folder, neither, absl::StrCat(neither, " is there"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(
    const std::string& folder) {
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(folder);
  if (Exists(folder, kSingleFile)) {
    ENGRAM_RETURN_IF_ERROR(checkpoint->AddFile(kSingleFile));
  } else if (Exists(folder, kIndexFile)) {
    ENGRAM_RETURN_IF_ERROR(checkpoint->AddShards());
  } else {
    return NoSafetensors(folder);
  }
  return checkpoint;
}

}  // namespace engram
