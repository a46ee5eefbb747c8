// The names of tensors that people's files have, under the names that the
// loaders of families look for ("backbone.layers.0...", "lm_head.weight").
//
// A model that was saved without its head (Hugging Face's AutoModel) has them
// without "backbone.", and one that was saved from within a wrapper of training
// (DistributedDataParallel, torch.compile, a module of its own) has them behind
// "module.", "_orig_mod." or "model.".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace engram {

// `checkpoint`, or a view of it with the usual names; what was renamed is told
// in `warnings`. DATA_LOSS: two tensors would have one name.
absl::StatusOr<std::unique_ptr<Checkpoint>> WithUsualNames(
    std::unique_ptr<Checkpoint> checkpoint, std::vector<std::string>* warnings);

}  // namespace engram
