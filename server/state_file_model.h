// What state files (server/state_file.h) tell of a model that is served.
#pragma once

#include "server/served_model.h"
#include "server/state_file_format.h"

namespace engram {

StateFileModel FileModelOf(const ServedModel& model);

}  // namespace engram
