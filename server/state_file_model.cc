#include "server/state_file_model.h"

#include "server/model_capacity.h"

namespace engram {

StateFileModel FileModelOf(const ServedModel& model) {
  const ModelInfo& info = model.info();
  return {.name = model.name,
          .number = model.number,
          .family = info.family,
          .weight_hash = info.weight_hash,
          .weight_format = info.weight_format,
          .vocabulary_size = info.vocabulary_size,
          .capacity = CapacityOf(info),
          .layout = model.layout};
}

}  // namespace engram
