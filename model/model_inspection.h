// The one Inspection that there is: of a model made of a BlockStack between an
// embedding and a head.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "model/block_stack.h"
#include "model/embedding.h"
#include "model/host_products.h"
#include "model/inspection.h"
#include "model/state_pool.h"

namespace engram {

// Parts of a model, all of which outlive its inspections.
struct InspectedModel {
  const BlockStack* layers = nullptr;
  const Embedding* embedding = nullptr;
  NormWeights final_norm;
  // Whose last component is the normed hidden vector of the last token.
  const StatePool* states = nullptr;
  int64_t d_model = 0;
  int64_t known_ids = 0;
  int64_t max_positions = 0;  // 0: no limit
};

// REQUIRES: as Model::Inspect.
std::unique_ptr<Inspection> MakeInspection(const InspectedModel& model,
                                           InspectionQuestion question,
                                           HostProducts* products);

}  // namespace engram
