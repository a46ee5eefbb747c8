// The edits of one layer, put together: what its probe is told once, and what
// each position leaves in its state.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "model/inspected_model.h"
#include "model/inspection.h"
#include "model/mixer_probe.h"

namespace engram {

class LayerEdits {
 public:
  // Adds an edit; those of kKeepOnly together keep what each of them keeps.
  // INVALID_ARGUMENT, without the edit's place: another write for the same
  // position was added.
  absl::Status Add(const LayerEdit& edit);

  // What holds for all tokens. REQUIRES: the probe is as it was made.
  void Begin(MixerProbe* probe) const;
  // What the token at this position of the prompt leaves.
  StateWrite WriteAt(int64_t position) const;
  // Tokens whose writes are left in place of others', by position.
  const std::map<int64_t, int32_t>& replaced() const { return replaced_; }

 private:
  std::set<int64_t> cut_taps_;
  bool is_local_ = false;
  bool forgets_ = false;
  std::set<int64_t> removed_;
  std::optional<std::set<int64_t>> kept_;  // nothing: all
  std::map<int64_t, int32_t> replaced_;
};

// Whether a layer of `mixer` that is fed `tokens` can be edited so.
// INVALID_ARGUMENT, without the edit's place.
absl::Status CheckEdit(const LayerEdit& edit,
                       const BlockStack::MixerOfLayer& mixer, int64_t tokens);

}  // namespace engram
