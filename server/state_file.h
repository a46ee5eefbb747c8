// A state as a safetensors file, which the ordinary Python library opens: one
// tensor per component and layer (server/state_layout.h), the ids of all tokens
// that were seen, and in its metadata, all as text:
//
//   format           "engram-state"
//   format_version   "1"; another one is not read
//   model            its name where the state was written; only told
//   family           of the model, "mamba"
//   weight_hash      of all its tensors
//   weight_format    that they are kept in, "f32"
//   vocabulary_size
//   version          turns committed
//   position         tokens fed
//   pending_token    sampled, not yet fed; "" if there is none
//   dtype            "F32"
//   checksum         SHA-256 in hexadecimal digits: of each other entry in
//                    order of key as KEY, a line feed, VALUE and a line feed,
//                    then of each tensor in order of name as NAME, a line feed
//                    and its bytes
//
// Who writes one may lay the tensors in any order, and add metadata.
//
// Source: the safetensors format, as model/safetensors_file.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/session_store.h"
#include "server/state_block.h"
#include "server/state_file_format.h"

namespace engram {

// Thread-compatible.
class StateFileWriter {
 public:
  // REQUIRES: the block holds a state of that model after turns.position
  // tokens, at least one. Takes some 2 ns for each of its bytes.
  StateFileWriter(const StateFileModel& model, const CommittedTurns& turns,
                  std::shared_ptr<const StateBlock> block);

  // Of the whole file.
  size_t bytes() const { return bytes_; }
  // The next bytes of the file, at most so many; none when that was all.
  std::string Next(size_t most);

 private:
  const std::shared_ptr<const StateBlock> block_;
  std::vector<int32_t> seen_;
  std::string header_;
  // Of the file, in order; what was given out is taken off the first of them.
  std::vector<absl::string_view> pieces_;
  size_t next_piece_ = 0;
  size_t bytes_ = 0;
};

}  // namespace engram
