// StateFileReader: a state from a file (server/state_file.h) that comes in
// parts, from whoever. No byte of it is trusted: header, model, counts, tensors
// and checksum are all checked before there is a state.
//
// Nothing is taken for a state before all that its header tells is right, and
// then exactly what it needs. Tensors may lie in any order in the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/session_store.h"
#include "server/state_block.h"
#include "server/state_file_format.h"
#include "server/state_file_header.h"

namespace engram {

// Some 100 bytes a tensor are told of each; what JSON's parser makes of them is
// several times as much.
inline constexpr uint64_t kStateFileHeaderMax = 256 << 10;

// Thread-compatible.
class StateFileReader {
 public:
  struct State {
    StateFileModel model;
    CommittedTurns turns;
    std::shared_ptr<const StateBlock> block;
  };
  // What the reader asks for; both are called by Append.
  struct Surroundings {
    // The model that goes on with the state. `told` is the name that it had
    // where the file was written.
    std::function<absl::StatusOr<StateFileModel>(const std::string& told)>
        find_model;
    // Whether there is room for so many bytes in all; what was said before
    // is over.
    std::function<absl::Status(size_t bytes)> reserve;
    // A state that other weights made is refused.
    bool checks_weights = true;
  };

  explicit StateFileReader(Surroundings surroundings)
      : surroundings_(std::move(surroundings)) {}

  // The next bytes of the file. INVALID_ARGUMENT: it is no such file, of
  // another model, or damaged, and how; errors of find_model and reserve. After
  // an error nothing more may be asked of this.
  absl::Status Append(absl::string_view bytes);
  // Once, when that was all. INVALID_ARGUMENT: it is damaged, or not whole.
  // Takes some 3 ns for each of its bytes.
  absl::StatusOr<State> Finish();

 private:
  // Bytes of the file that go to one place.
  struct Range {
    std::string name;
    size_t begin = 0;  // behind the header
    size_t end = 0;
    char* target = nullptr;
  };

  // Takes from `bytes` what belongs to the header, and reads it once it is
  // whole.
  absl::Status AppendToHeader(absl::string_view* bytes);
  absl::Status ReadHeader();
  absl::Status CheckModel() const;
  absl::Status ReadTurns();
  absl::Status CheckTensors() const;
  absl::Status CheckSeenTensor() const;
  absl::Status MakeRoom();
  void PlanRanges();
  // What is told of the model in the metadata is `own`.
  absl::Status CheckTold(const char* key, const std::string& own,
                         absl::string_view hint = "") const;
  // A number of the metadata.
  absl::StatusOr<int64_t> ReadCount(const char* key, int64_t least,
                                    int64_t most) const;

  absl::Status CheckFinite() const;
  absl::Status CheckChecksum() const;
  absl::Status ReadSeen();

  const Surroundings surroundings_;
  std::string front_;  // the header and its length, until they are read
  bool has_header_ = false;
  StateFileHeader header_;
  StateFileModel model_;
  CommittedTurns turns_;
  std::shared_ptr<StateBlock> block_;
  std::vector<int32_t> seen_;
  std::vector<Range> ranges_;  // in order of the file
  size_t next_range_ = 0;
  size_t read_ = 0;  // behind the header
};

}  // namespace engram
