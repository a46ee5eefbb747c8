// Mamba: a stack of selective state-space blocks, written as calls on Backend.
//
// Per layer: RMSNorm, in_proj to x and a gate z, a short causal convolution and
// SiLU on x, x_proj and dt_proj to the scan's dt, B and C, the selective scan
// with its gate, out_proj back onto the residual. No attention, no positions:
// all it knows of the past is a state of fixed size.
// Source: Mamba, arXiv 2312.00752, section 3.4; names of tensors as in
// state-spaces/mamba and Hugging Face's transformers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "model/model_config.h"

namespace engram {

// See LoadModel(). `config` is a Mamba's; `folder` is for messages only;
// `checkpoint` is not needed afterwards, `backend` must outlive the model.
absl::StatusOr<std::unique_ptr<Model>> LoadMamba(const std::string& folder,
                                                 const ModelConfig& config,
                                                 const Checkpoint& checkpoint,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids);

}  // namespace engram
