// The Inspection that describes states and tells what they answer; what an
// answer is made of is told by model/model_attribution.h.
#pragma once

#include <memory>

#include "model/host_products.h"
#include "model/inspected_model.h"
#include "model/inspection.h"

namespace engram {

// REQUIRES: as Model::Inspect.
std::unique_ptr<Inspection> MakeInspection(const InspectedModel& model,
                                           InspectionQuestion question,
                                           HostProducts* products);

}  // namespace engram
