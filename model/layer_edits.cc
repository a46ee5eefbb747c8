#include "model/layer_edits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

absl::Status CheckPosition(const char* field, int64_t position,
                           int64_t tokens) {
  if (position >= 0 && position < tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", position, ", limit 0 to ", tokens - 1,
                   ", positions of the tokens that are fed"));
}

}  // namespace

absl::Status LayerEdits::Add(const LayerEdit& edit) {
  switch (edit.kind) {
    case LayerEdit::Kind::kCutTap:
      cut_taps_.insert(edit.tap);
      break;
    case LayerEdit::Kind::kLocalScan:
      is_local_ = true;
      break;
    case LayerEdit::Kind::kRemoveWrite:
      removed_.insert(edit.position);
      break;
    case LayerEdit::Kind::kReplaceWrite:
      if (!replaced_.emplace(edit.position, edit.token).second) {
        return absl::InvalidArgumentError(absl::StrCat(
            "another edit replaces the write of position ", edit.position,
            " in layer ", edit.layer, "; leave one of them out"));
      }
      break;
    case LayerEdit::Kind::kKeepOnly: {
      std::set<int64_t> kept(edit.positions.begin(), edit.positions.end());
      if (kept_.has_value()) {
        std::erase_if(kept, [this](int64_t position) {
          return !kept_->contains(position);
        });
      }
      kept_ = std::move(kept);
      forgets_ = forgets_ || !edit.keeps_before;
      break;
    }
  }
  return absl::OkStatus();
}

void LayerEdits::Begin(MixerProbe* probe) const {
  for (const int64_t tap : cut_taps_) probe->CutTap(tap);
  if (is_local_) probe->ReadOwnWriteOnly();
  if (forgets_) probe->Forget();
}

StateWrite LayerEdits::WriteAt(int64_t position) const {
  if (removed_.contains(position)) return StateWrite::kNothing;
  if (kept_.has_value() && !kept_->contains(position)) {
    return StateWrite::kNothing;
  }
  return replaced_.contains(position) ? StateWrite::kKept : StateWrite::kOwn;
}

absl::Status CheckEdit(const LayerEdit& edit,
                       const BlockStack::MixerOfLayer& mixer, int64_t tokens) {
  switch (edit.kind) {
    case LayerEdit::Kind::kCutTap:
      if (mixer.taps == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("layer ", edit.layer, " is ", mixer.name,
                         " without a convolution, which has no tap to cut"));
      }
      if (edit.tap < 0 || edit.tap >= mixer.taps) {
        return absl::InvalidArgumentError(
            absl::StrCat("tap is ", edit.tap, ", limit 0 to ", mixer.taps - 1,
                         ", of the oldest to the token's own"));
      }
      return absl::OkStatus();
    case LayerEdit::Kind::kLocalScan:
      return absl::OkStatus();
    case LayerEdit::Kind::kRemoveWrite:
    case LayerEdit::Kind::kReplaceWrite:
      return CheckPosition("position", edit.position, tokens);
    case LayerEdit::Kind::kKeepOnly:
      for (const int64_t position : edit.positions) {
        ENGRAM_RETURN_IF_ERROR(CheckPosition("positions", position, tokens));
      }
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace engram
