// Attribution of an answer to the positions of a prompt, in two passes over it.
//
// The first feeds the prompt, and every layer keeps how its last token reads
// the state; the second feeds it again and adds up, at each token, what it
// gives to that reading. So memory does not grow with the prompt, but by the
// floats that are told and by what attention keeps of every token; it takes a
// copy of all layers' states. A part is one layer of a few tokens, as in any
// inspection.
//
// The number that is attributed is the logit of a token by the direct way: with
// g = Emb[v] ⊙ w_f / rms of the last residual (for LayerNorm less the mean of
// it), a layer's direct share is g · what its mixer adds at the last token.
// Source: Ali et al., arXiv 2403.01590 (the decomposition); Elhage et al., "A
// Mathematical Framework for Transformer Circuits" (direct logit attribution).
#pragma once

#include <memory>

#include "model/host_products.h"
#include "model/inspected_model.h"
#include "model/inspection.h"

namespace engram {

// REQUIRES: as Model::Inspect; the question has an attribution and tokens.
std::unique_ptr<Inspection> MakeAttribution(const InspectedModel& model,
                                            InspectionQuestion question,
                                            HostProducts* products);

}  // namespace engram
