// engram-server --quantize: a model folder of quantised weights, made of one of
// floats.
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/quantised_folder.h"

namespace engram {

// Whether the command line's words ask for it.
bool AsksToQuantize(const std::vector<std::string>& arguments);

// What WriteQuantisedFolder (model/quantised_folder.h) is to be called with.
struct QuantizeTask {
  std::string source;
  WeightFormat format = WeightFormat::kInt8;
  std::string target;
};

// Of --quantize FOLDER --into FOLDER --weights int8|int4. INVALID_ARGUMENT says
// what is wrong with them.
absl::StatusOr<QuantizeTask> ReadQuantizeTask(
    const std::vector<std::string>& arguments);

}  // namespace engram
