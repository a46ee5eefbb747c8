// SafetensorsFile: one file of tensors, mapped for reading.
//
// Trusts no byte of it: header length, JSON, names, dtypes, shapes and offsets
// are all checked before it is open.
//
// Thread-safe: constant once open. A file may be replaced by rename meanwhile,
// but not cut short: that would kill the process (SIGBUS).
// Source: the safetensors format: 8-byte little-endian header length, JSON
// header, raw little-endian row-major data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace engram {

class SafetensorsFile;

// One tensor as a header describes it, checked.
struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  std::string type;  // as the format calls it, "F32"
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // within the data part of its file
  uint64_t end = 0;
  const char* data = nullptr;  // lives as long as the file
};
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

class SafetensorsFile {
 public:
  // NOT_FOUND: no such file. DATA_LOSS: damaged, or another kind of file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(
      const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const StoredTensors& tensors() const { return tensors_; }
  // DATA_LOSS: "<path>: tensor <name> <problem>".
  absl::Status Damaged(std::string_view tensor,
                       const std::string& problem) const;

 private:
  SafetensorsFile(std::string path, void* address, size_t size)
      : path_(std::move(path)), address_(address), size_(size) {}

  const std::string path_;
  void* const address_;
  const size_t size_;
  StoredTensors tensors_;
};

}  // namespace engram
