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

  // Lets `stream` copy the rows to the table, whose pointers stay as they are
  // unless the step is larger than any before it: then `stream` is waited for,
  // room taken anew and *moved set. Errors: the device's.
  absl::Status Upload(const StepRows& step, cudaStream_t stream, bool* moved);

  const StepTable& table() const { return table_; }
  FollowingRows following_rows() const;

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
  absl::Status Take(const Room& room);
  // Fills `memory`; the bytes used behind each place go to `used`.
  void Fill(const StepRows& step, std::byte* memory, Places* used) const;

  Room room_;
  Places places_ = {};
  std::unique_ptr<Buffer> device_;
  Staging stagings_[2];
  int next_ = 0;  // of the stagings
  StepTable table_;
};

}  // namespace engram::cuda
