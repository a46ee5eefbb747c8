// Writes what loading would make of a model folder, once and for all: a folder
// whose matrices are quantised, which loads as it is, without a fit, to the
// very weights that the format makes of the folder of floats. It is the loader
// that says which tensors are matrices, and the code of the back ends that
// fits.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/operations.h"

namespace engram {

// Writes the folder `target`, which must not be there, of the one at `source`:
// config.json that says so, one model.safetensors of what the model has, by the
// rule of model/quantised_tensors.h, and the files of the tokenizer as they
// are. Of a matrix that is there under two names one is left. The folder
// appears when it is whole; after an error there is none. One thread; memory
// for one matrix's scales. Blocks.
//
// INVALID_ARGUMENT: `format` is not kInt8 or kInt4. ALREADY_EXISTS: `target`
// is there, or `target`.partial, where it is written. FAILED_PRECONDITION:
// `source` is quantised already. Else the errors of ModelFolder::Open and
// LoadModel (model/load_model.h), and those of writing.
absl::Status WriteQuantisedFolder(const std::string& source,
                                  WeightFormat format,
                                  const std::string& target);

}  // namespace engram
