// Model: a state-space language model that runs steps over slots of states.
//
// Engine thread only, after loading. A model owns its weights, its StatePool
// and its work buffers, all taken at load; a step allocates nothing on the
// device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/batch.h"
#include "model/inspection.h"
#include "model/state_pool.h"

namespace engram {

struct ModelInfo {
  std::string family;  // "mamba", "mamba2", "h3", "s4d", "attention"
  int64_t parameters = 0;
  int64_t vocabulary_size = 0;  // ids must be below
  int64_t layers = 0;
  int64_t d_model = 0;
  // What one session takes: state_bytes, and with attention layers also
  // kv_block_bytes for every kKeyValueBlockTokens tokens it has read, or begun.
  size_t state_bytes = 0;
  size_t kv_bytes_per_token = 0;  // 0 unless the model has attention layers
  size_t kv_block_bytes = 0;      // likewise
  int64_t kv_blocks = 0;          // there are on the device
  int64_t max_positions = 0;  // tokens that a sequence may have; 0: no limit
  // Of the longest text that it was trained on; 0: its folder does not tell.
  int64_t trained_tokens = 0;
  std::string weight_format;  // of matrices: "f32", "bf16", "bf16 and f32"
  std::string backend;        // "cpu"
  // Whether a step goes on when Begin() has returned, so that time is gained by
  // beginning the next one before it is finished.
  bool runs_ahead = false;
  // A sequence may be cut into steps at multiples of so many tokens from its
  // beginning, or else its logits are the same within rounding only. 1: any cut
  // gives the same bits.
  int64_t chunk_tokens = 1;
  std::string weight_hash;  // 32 hexadecimal digits, over all tensors
  // What is odd about the folder and was passed over, one sentence each.
  std::vector<std::string> warnings;
};

struct ModelLimits {
  int slots = 64;
  int max_batch_tokens = 512;  // tokens of one step
  int max_logits_rows = 128;   // outcomes of one step, each of a row of logits
  // Memory for keys and values, if the model has attention layers.
  size_t kv_bytes = size_t{256} << 20;
  // Of matrices; nothing: each as the file stores it.
  std::optional<WeightFormat> weight_format = std::nullopt;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const ModelLimits& limits() const = 0;
  virtual StatePool& states() = 0;

  // Begins a step: feeds every row's tokens to its state and finds out what
  // the row wants. A CPU does all of it here; a device is only told to. What
  // the batch points to is not looked at any more when this has returned.
  // REQUIRES: rows, tokens and outcomes within limits(); taken slots as
  // Batch says; no sequence beyond max_positions; blocks for keys and values as
  // StatePool::Append; ids that are drawn or scored below vocabulary_size.
  // INTERNAL if the device failed: the model is then not to be used again.
  //
  // Ahead: one more step may be begun before the last one is finished. All of
  // its rows follow rows of that step which want a token (BatchRow::follows).
  // Those say where their sequences stop (TokenDraw), and nothing is fed after
  // a stop: so no state goes too far but where the caller alone can tell a
  // stop, as in a text. Such a row leaves its state in another slot than it
  // found it in, and going back is to take the older one.
  virtual absl::Status Begin(const Batch& batch) = 0;

  // Waits for the oldest step that was begun and tells its outcomes; the same
  // errors. REQUIRES: Begin() was OK, and that step is not finished.
  //
  // Between the two a device computes: until every step that names a slot is
  // finished, it is not freed, cleared, copied, saved or restored, nor asked
  // for its tokens.
  virtual absl::StatusOr<StepResult> Finish() = 0;

  // Has a device do and record all sizes of steps of a token a row, so that
  // none of them waits for that later. States stay as they are. INTERNAL if the
  // device failed. REQUIRES: no step is begun.
  virtual absl::Status WarmUp() { return absl::OkStatus(); }

  // Looks into a state that was saved. REQUIRES: ids below vocabulary_size; no
  // sequence beyond max_positions, a query counted; queries if answers are
  // asked for, tokens if an answer is attributed or edited, valid sampling
  // parameters. INVALID_ARGUMENT: an edit of what there is not. UNIMPLEMENTED:
  // this model cannot be looked into.
  virtual absl::StatusOr<std::unique_ptr<Inspection>> Inspect(
      InspectionQuestion) {
    return absl::UnimplementedError("this model cannot be looked into");
  }

  // The logits that the last step's outcomes were made of, [outcomes,
  // vocabulary_size], as they are drawn from: -infinity at ids that are not
  // known. What no one but a test may look at.
  virtual std::vector<float> LogitsForTest() const = 0;
};

}  // namespace engram
