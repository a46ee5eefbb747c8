// StepTables: brings each step's rows to the device, without waiting for the
// step before.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/following_rows.h"
#include "kernels/cuda/step_table.h"
#include "kernels/step_rows.h"

namespace engram::cuda {

// Engine thread only.
class StepTables {
 public:
  StepTables() = default;
  ~StepTables();
  StepTables(const StepTables&) = delete;
  StepTables& operator=(const StepTables&) = delete;

  // Takes room for steps as large as are usual. Errors: the device's.
  absl::Status Reserve();

  // Lets `stream` copy the rows to the table, in one copy. A step that is
  // larger than there is room for waits for `stream`, takes room anew and sets
  // *moved. Errors: the device's.
  absl::Status Upload(const StepRows& step, cudaStream_t stream, bool* moved);

  const StepTable& table() const { return table_; }
  FollowingRows following_rows() const;
  // Whether the pointers are those of every other step of no more rows and
  // tokens than the largest bucket, unless one moves them.
  bool is_in_place() const { return in_place_; }

 private:
  // Of the host, page-locked; free again when the event is reached.
  struct Staging {
    std::unique_ptr<Buffer> memory;
    cudaEvent_t copied = nullptr;
  };
  // Elements that there is room for.
  struct Room {
    int64_t rows = 0;
    int64_t tokens = 0;
    int64_t blocks = 0;
  };
  // Bytes from the beginning of a table or a staging.
  struct Places {
    size_t rows, row_of_token, ids, block_ids, end;
  };

  static Places PlacesOf(const Room& room);
  static Room RoomFor(const StepRows& step);
  absl::Status Take(size_t bytes);
  // Where this step's table is.
  void Place(const StepRows& step, const Places& places);
  // Fills `memory`. How many bytes of it are used.
  size_t Fill(const StepRows& step, std::byte* memory) const;

  Places places_ = {};  // of the last step
  bool in_place_ = false;
  std::unique_ptr<Buffer> device_;
  Staging stagings_[2];
  int next_ = 0;  // of the stagings
  StepTable table_;
};

}  // namespace engram::cuda
