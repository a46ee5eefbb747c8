// From a folder to a served model: tokenizer, configuration, back end, weights.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/options.h"
#include "server/served_model.h"

namespace engram {

// Loads `folder` to be served as `name`; what is odd about it is in `warnings`.
// Errors: those of Tokenizer::Load, MakeBackend and LoadModel.
absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const std::string& name, const std::string& folder,
    const ServerOptions& options);

}  // namespace engram
