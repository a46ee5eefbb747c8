#include "model/checkpoint.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status.h"
#include "model/foreign_content.h"
#include "model/quoted.h"
#include "model/safetensors_file.h"
#include "model/strict_json.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr size_t kIndexBytesMax = 100'000'000;

std::optional<DataType> ToDataType(std::string_view name) {
  for (DataType type :
       {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16}) {
    if (name == DataTypeName(type)) return type;
  }
  return std::nullopt;
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
  absl::StatusOr<const void*> Data(
      std::string_view name, std::string_view type,
      const std::vector<int64_t>& shape) const override;
  std::string Hash() const override;

 private:
  absl::StatusOr<const StoredTensor*> Find(std::string_view name) const;

  const std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  StoredTensors tensors_;
};

absl::Status SafetensorsCheckpoint::AddFile(const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<SafetensorsFile> file,
      SafetensorsFile::Open(absl::StrCat(folder_, "/", name)));
  for (const auto& [tensor_name, tensor] : file->tensors()) {
    const auto [there, is_new] = tensors_.emplace(tensor_name, tensor);
    if (!is_new) {
      return file->Damaged(tensor_name,
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
  std::map<std::string, const SafetensorsFile*> shards;
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

absl::StatusOr<const StoredTensor*> SafetensorsCheckpoint::Find(
    std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  return absl::DataLossError(
      absl::StrCat(folder_, ": tensor ", Quoted(name), " is missing"));
}

absl::Status WrongType(const StoredTensor& stored, std::string_view name,
                       const std::string& expected) {
  return stored.file->Damaged(
      name, absl::StrCat("is ", stored.type, ", expected ", expected));
}

absl::Status WrongShape(const StoredTensor& stored, std::string_view name,
                        const std::vector<int64_t>& expected) {
  return stored.file->Damaged(
      name, absl::StrCat("has shape ", ShapeToString(stored.shape),
                         ", expected ", ShapeToString(expected)));
}

absl::StatusOr<Tensor> SafetensorsCheckpoint::Get(std::string_view name) const {
  ENGRAM_ASSIGN_OR_RETURN(const StoredTensor* const stored, Find(name));
  const std::optional<DataType> type = ToDataType(stored->type);
  if (!type.has_value()) return WrongType(*stored, name, "F32, BF16 or F16");
  return Tensor{*type, stored->shape, stored->data};
}

absl::StatusOr<Tensor> SafetensorsCheckpoint::Get(
    std::string_view name, const std::vector<int64_t>& shape) const {
  ENGRAM_ASSIGN_OR_RETURN(Tensor tensor, Get(name));
  if (tensor.shape == shape) return tensor;
  return WrongShape(tensors_.find(name)->second, name, shape);
}

absl::StatusOr<const void*> SafetensorsCheckpoint::Data(
    std::string_view name, std::string_view type,
    const std::vector<int64_t>& shape) const {
  ENGRAM_ASSIGN_OR_RETURN(const StoredTensor* const stored, Find(name));
  if (stored->type != type) return WrongType(*stored, name, std::string(type));
  if (stored->shape != shape) return WrongShape(*stored, name, shape);
  return static_cast<const void*>(stored->data);
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
