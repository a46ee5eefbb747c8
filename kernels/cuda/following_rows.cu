// A thread has a row. A few dozen bytes for each: nothing but a launch.
#include "kernels/cuda/device.h"
#include "kernels/cuda/following_rows.h"
#include "kernels/cuda/launch.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    FollowAnswersKernel(FollowingRows step, const OutcomeAnswer* answers) {
  GridWait();
  GridTrigger();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= step.row_count) return;
  StepRow* const row = step.rows + index;
  const int32_t follows = Load(&row->follows);
  if (follows < 0) return;
  const OutcomeAnswer* const answer = answers + follows;
  const int32_t token = Load(&answer->token);
  if (token < 0 || Load(&answer->stops) != 0) {
    Store(&row->tokens, int32_t{0});
  } else {
    Store(step.ids + Load(&row->offset), token);
  }
}

}  // namespace

cudaError_t FollowAnswers(cudaStream_t stream, const FollowingRows& rows,
                          const OutcomeAnswer* answers) {
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>((rows.row_count + kThreads - 1) / kThreads));
  shape.block = dim3(kThreads);
  return Launch(shape, stream, FollowAnswersKernel, rows, answers);
}

}  // namespace engram::cuda
