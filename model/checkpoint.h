// Checkpoint: the tensors of a model folder, read from safetensors
// (model/safetensors_file.h): the single model.safetensors, or the shards that
// model.safetensors.index.json names.
//
// Thread-compatible. Tensors point into the mapping: they live as long as the
// Checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace engram {

class Checkpoint {
 public:
  // NOT_FOUND: no folder or no safetensors in it (the message says how to
  // convert a pickled one). DATA_LOSS: damaged.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(
      const std::string& folder);

  virtual ~Checkpoint() = default;

  virtual bool Has(std::string_view name) const = 0;
  // All names, sorted.
  virtual std::vector<std::string> Names() const = 0;
  // The tensor as stored. DATA_LOSS if missing, or if its dtype is none of
  // F32, BF16, F16 (the message names file, tensor, found, expected).
  virtual absl::StatusOr<Tensor> Get(std::string_view name) const = 0;
  // The same, and its shape must be `shape`.
  virtual absl::StatusOr<Tensor> Get(
      std::string_view name, const std::vector<int64_t>& shape) const = 0;
  // The data of a tensor of any dtype, row-major and maybe unaligned, which
  // must have this one, as safetensors calls it, and this shape. DATA_LOSS
  // likewise.
  virtual absl::StatusOr<const void*> Data(
      std::string_view name, std::string_view type,
      const std::vector<int64_t>& shape) const = 0;
  // XXH3-128 over the names, dtypes, shapes and bytes of all tensors in order
  // of name, as 32 hexadecimal digits: the same weights in other shards have
  // the same hash.
  virtual std::string Hash() const = 0;
};

}  // namespace engram
