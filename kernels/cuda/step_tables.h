// StepTables: lays each step's rows out where the device finds them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/following_rows.h"
#include "kernels/cuda/step_table.h"
#include "kernels/cuda/step_upload.h"
#include "kernels/memory.h"
#include "kernels/step_rows.h"

namespace engram::cuda {

// Engine thread only.
class StepTables {
 public:
  // `upload` must outlive this.
  explicit StepTables(StepUpload* upload) : upload_(*upload) {}

  // What the largest of steps takes of an upload.
  static size_t BytesFor(const LargestStep& largest);

  // Lays the rows out in the first end() bytes of a new upload. A step that is
  // larger than there is room for waits for `stream`, takes room anew, with
  // some for larger ones, and sets *moved. Errors: the device's.
  absl::Status LayOut(const StepRows& step, cudaStream_t stream, bool* moved);

  // Right once the upload is there.
  const StepTable& table() const { return table_; }
  FollowingRows following_rows() const;
  size_t end() const { return places_.end; }

  // Whether the pointers are those of every other step of as many rows and
  // tokens, neither more than the largest bucket; unless one moves them. Then
  // as many OutcomeRow have a place that is the same for all of these, too.
  bool is_in_place() const { return in_place_; }
  size_t requests_at() const { return places_.requests; }

 private:
  // Elements that there is room for.
  struct Room {
    int64_t rows = 0;
    int64_t tokens = 0;
    int64_t requests = 0;
    int64_t blocks = 0;
  };
  // Bytes from the beginning of the upload.
  struct Places {
    size_t rows, row_of_token, ids, requests, block_ids, end;
  };

  static Places PlacesOf(const Room& room);
  static Room RoomFor(const StepRows& step);
  // Where this step's table is.
  void Place(const StepRows& step);
  void FillRows(const StepRows& step, std::byte* upload) const;
  void FillTokens(const StepRows& step, std::byte* upload) const;

  StepUpload& upload_;
  Places places_ = {};  // of the last step
  bool in_place_ = false;
  StepTable table_;
};

}  // namespace engram::cuda
