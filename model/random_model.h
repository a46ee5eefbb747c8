// Models of the shapes that are published, with random weights: for measuring,
// where their files are not at hand. What they say is noise.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "model/load_model.h"

namespace engram {

// "mamba-130m", "mamba2-2.7b", "h3-1.3b", ... by family and size.
std::vector<std::string> RandomModelShapes();

// What is to be less than published; 0: as it is.
struct RandomModelCut {
  // So many of its first layers alone, if it has more. Where these are without
  // some of a hybrid's attention the last of them has it, if it is not the only
  // one.
  int64_t layers = 0;
  int64_t d_model = 0;     // a multiple of 32 and of the heads
  int64_t vocabulary = 0;  // a multiple of 16
};

// A model of that shape whose matrices are stored as `type`, all else as
// float32; the same on every call. It has no tokenizer. Matrices are parts of
// one block of host memory, as large as the largest of them, which the folder
// owns. NOT_FOUND names the shapes that there are.
// Sources: state-spaces/mamba and HazyResearch/H3, their published configs and
// state dictionaries.
absl::StatusOr<std::unique_ptr<ModelFolder>> RandomModel(
    const std::string& shape, DataType type, const RandomModelCut& cut = {});

}  // namespace engram
