// Inspection: a look into a state that was saved: what each layer keeps there,
// what the model, and each layer's state alone, would answer if one token or
// another came next, what each token of a text has added to an answer, and what
// the answer would be if a layer worked otherwise. No state is changed, no slot
// is taken.
//
// It is done in parts, so that steps can run between them: each is the work of
// one layer on a few tokens (kInspectedRows), less than a step of a large
// model takes on the same back end, but for attention, whose part grows with
// the tokens that are looked back on. In memory it takes d_model floats of the
// host's for each token and query, as many for each query and each state that
// answers, and a copy of one layer's state. An attribution takes a copy of all
// layers' states, what attention keeps of each token, and a float for each
// token and state; an ablation the same without these floats.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/outcomes.h"

namespace engram {

// What each token adds to the logit of `target` at the last one.
struct AttributionQuestion {
  std::optional<int32_t> target;  // without: the likeliest
  // Whose mean logit is taken from the target's.
  std::vector<int32_t> against;
  // What a token does through a convolution is told of the tokens that it read.
  bool through_convolution = false;
};

// A change of how one layer works on `tokens` and what comes after. "The state"
// is ssm_state, diagonal_state or keys_values (model/mixer_probe.h); what it
// writes and reads is edited, what its decay and gates are is not.
struct LayerEdit {
  enum class Kind {
    kCutTap,        // the convolution no longer reads by a tap
    kLocalScan,     // each token reads its own write only
    kRemoveWrite,   // the others don't read what a token writes
    kReplaceWrite,  // they read what another token would have written there
    kKeepOnly,      // of `tokens`, they read the writes of these only
  };
  Kind kind = Kind::kCutTap;
  int64_t layer = 0;
  int64_t tap = 0;       // kCutTap; 0 is the oldest
  int64_t position = 0;  // kRemoveWrite, kReplaceWrite: in `tokens`
  int32_t token = 0;     // kReplaceWrite
  std::vector<int64_t> positions = {};  // kKeepOnly: in `tokens`
  bool keeps_before = false;            // kKeepOnly: also what was saved
};

// What the model answers to `tokens` with edits, and what without.
struct AblationQuestion {
  std::vector<LayerEdit> edits;
  SamplingParameters sampling;
  const TokenSet* seen = nullptr;  // before `tokens`; outlives the inspection
  int64_t max_tokens = 1;          // of each answer, at least 1
  std::vector<int32_t> stop_ids;   // an answer ends with one of these
  int32_t alternatives = 0;        // as OutcomeRequest::alternatives
  // Makes, for each of the two answers, what is told its tokens as they are
  // drawn and says if it ends with one. Empty: nothing else ends it.
  std::function<std::function<bool(int32_t id)>()> reader;
};

struct InspectionQuestion {
  // A state in host memory as StatePool::Save wrote it, which must outlive the
  // inspection; nullptr if nothing was fed.
  const void* state = nullptr;
  int64_t position = 0;  // tokens fed to it
  // Fed first, on a copy.
  std::vector<int32_t> tokens;
  // Each of them, and not the others, comes next.
  std::vector<int32_t> queries;
  // Likeliest ids that are told of each answer; 0: answers are not asked for.
  int32_t alternatives = 0;
  // What the layers keep, in the state as it was saved. How long they keep it
  // depends on the token in models whose decay does: it is told of the first
  // query, without one of the likeliest token to come next.
  bool describe = false;
  // Of `tokens`, of which there is at least one; nothing else is asked then.
  std::optional<AttributionQuestion> attribution;
  std::optional<AblationQuestion> ablation;  // likewise
};

// How many tokens it takes until what is in a value has faded to 1/e, over all
// values of a state: quantiles, and the longest. Infinite: it does not fade.
struct FadingTime {
  float tenth = 0;
  float median = 0;
  float nine_tenths = 0;
  float longest = 0;
};

struct StateSummary {
  int64_t layer = 0;
  const char* mixer = "";  // "mamba", "mamba2", "h3", "s4d", "attention"
  std::string state;       // a component's name, or "keys_values"
  int64_t values = 0;
  double norm = 0;  // Euclidean
  // Of magnitudes; of keys and values, if there are many, of every n-th.
  double median = 0;
  double largest = 0;
  // The part of them above kOutlierMedians times the median; 0 if that is 0.
  double share_above = 0;
  // It keeps the last so many tokens whole and nothing before; 0: it fades.
  int64_t window_tokens = 0;
  FadingTime fading;  // if it fades and something was fed, else zeros
};
inline constexpr double kOutlierMedians = 10;

struct LayerAnswer {
  int64_t layer = 0;
  const char* mixer = "";
  const char* state = "";  // MixerProbe::shares()
  // By the head alone from that share of the last residual, the scale of the
  // final norm taken as it is for the whole answer, without its bias.
  std::vector<LogProbability> top;
};

struct QueryAnswer {
  int32_t id = 0;
  std::vector<LogProbability> top;  // of the whole model
  std::vector<LayerAnswer> layers;
};

// By the direct way, without the bias of the layer's last product: direct is
// the sum of all the rest.
struct LayerAttribution {
  int64_t layer = 0;
  const char* mixer = "";
  const char* state = "";            // MixerProbe::shares()
  std::vector<float> contributions;  // of each token but the last
  float before = 0;                  // of the state as it was saved
  float local = 0;                   // of the last token
  float bias = 0;                    // of convolutions, if gone through
  float direct = 0;
};

struct Attribution {
  std::vector<int32_t> tokens;  // as asked
  int32_t target = 0;
  float logit = 0;
  float against = 0;  // the mean; 0 without any
  std::vector<LayerAttribution> layers;
};

// A token of an answer; `log_probability` and `top` as in Outcome.
struct AnsweredToken {
  int32_t id = 0;
  bool stops = false;  // one of stop_ids
  float log_probability = 0;
  std::vector<LogProbability> top;
};

// An answer is cut short where a logit is not finite.
struct Ablation {
  std::vector<int32_t> tokens;  // as asked
  std::vector<AnsweredToken> edited;
  std::vector<AnsweredToken> untouched;
};

struct InspectionAnswer {
  std::vector<StateSummary> states;  // if they were to be described
  // The token that fading was told of; -1: none.
  int32_t fading_token = -1;
  std::vector<QueryAnswer> queries;        // if answers were asked for
  std::optional<Attribution> attribution;  // likewise
  std::optional<Ablation> ablation;        // likewise
};

// Engine thread only, like the model that made it and must outlive it, while no
// step is begun.
class Inspection {
 public:
  virtual ~Inspection() = default;

  // Does a part. True: it is done. INTERNAL: the device failed.
  virtual absl::StatusOr<bool> Advance() = 0;
  // REQUIRES: done.
  virtual InspectionAnswer TakeAnswer() = 0;
};

}  // namespace engram
