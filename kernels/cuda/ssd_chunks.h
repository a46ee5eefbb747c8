// Backend::SsdScan of long rows on a device: whole chunks of 64 tokens as
// matrix products. The tokens in front of them and behind go step by step
// (ssd_scan.h).
//
// The bits of a row depend on which whole chunks were fed at once, and on
// nothing else: not on other rows, nor on how many chunks a step had. So cuts
// at multiples of kChunkTokens from a sequence's begin change no bit; one
// inside a chunk is within rounding of it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/step_table.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Whether chunks can be scanned: for more states there is no room.
bool CanScanChunks(const SsdScanArguments& arguments);

// The whole chunks of all rows; their heads are done before. Begins it on
// `stream`; an error is one of the launch.
cudaError_t SsdChunks(cudaStream_t stream, const StepTable& step,
                      const SsdScanArguments& arguments);

}  // namespace engram::cuda
