// A model folder of any bytes at all must give a Status or a model that runs.
//
// Input: two bytes, the length of config.json (little-endian), config.json, and
// the rest is model.safetensors.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/load_model.h"
#include "model/model.h"
#include "model/model_config.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"

namespace engram {
namespace {

// Small enough that a model which a mutation made wide still fits.
constexpr ModelLimits kLimits = {.slots = 1,
                                 .max_batch_tokens = 2,
                                 .max_logits_rows = 2,
                                 .kv_bytes = 1 << 16};

void RunOneStep(Model* model) {
  const std::vector<int32_t> tokens(model->info().max_positions == 1 ? 1 : 2,
                                    0);
  Batch batch;
  batch.rows.push_back(
      RowWith(LogitsWanted::kAll, model->states().Take(), tokens));
  ENGRAM_CHECK_OK(RunStep(model, batch).status());
}

void TryFolder(const std::string& config, const std::string& tensors) {
  static Backend* const backend =
      MakeBackend({BackendKind::kCpu, 1}).value().release();
  static const TemporaryFolder* const folder = new TemporaryFolder();
  folder->Write("config.json", config);
  folder->Write("model.safetensors", tensors);

  const auto checkpoint = Checkpoint::Open(folder->path());
  if (checkpoint.ok()) (void)(*checkpoint)->Hash();
  (void)LoadModelConfig(folder->path());
  const auto model = LoadModel(folder->path(), backend, kLimits, 0);
  if (model.ok()) RunOneStep(model->get());
}

}  // namespace
}  // namespace engram

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data + 2), size - 2);
  const size_t config_bytes =
      std::min<size_t>(data[0] | data[1] << 8, bytes.size());
  engram::TryFolder(bytes.substr(0, config_bytes), bytes.substr(config_bytes));
  return 0;
}
