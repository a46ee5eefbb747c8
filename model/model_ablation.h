// What a model answers with some of its layers edited, beside what it answers
// as it is: one after the other from the same saved state, token by token
// through copies of all layers' states, so that one copy of these is there at a
// time. Both are drawn by the back end's rule (kernels/outcomes.h) with the
// same random numbers.
//
// Edits hold while the prompt is fed and while the answer is: cut taps and a
// local scan for tokens of the answer too, the others for positions of the
// prompt, whose writes they take from the state or replace. The decay of a
// position whose write is gone stays its own: so in its own layer an edit of
// writes is the exact one of the sum over positions (model/mixer_probe.h), and
// what later layers make of it is all theirs.
//
// Another token's write is that of the row that this token would be, fed at the
// position in place of the one that is there: through all layers below, as they
// are edited, after the same tokens.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "model/host_products.h"
#include "model/inspected_model.h"
#include "model/inspection.h"

namespace engram {

// INVALID_ARGUMENT names the edit by its place ("edits[2]"): a layer, tap or
// position that there is not, a tap of a mixer without convolution, two writes
// for one place. REQUIRES: as Model::Inspect; the question has an ablation and
// tokens.
absl::StatusOr<std::unique_ptr<Inspection>> MakeAblation(
    const InspectedModel& model, InspectionQuestion question,
    HostProducts* products);

}  // namespace engram
