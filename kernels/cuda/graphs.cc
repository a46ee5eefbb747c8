#include "kernels/cuda/graphs.h"

#include <algorithm>

namespace engram::cuda {
namespace {

// nullptr after an error, which is noted.
cudaGraphExec_t Record(DeviceQueue* queue, absl::FunctionRef<void()> record) {
  const cudaStream_t stream = queue->operations();
  // Other threads' calls are theirs: they may load another model.
  queue->Note(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
              "beginning a graph");
  if (!queue->failure().ok()) return nullptr;
  record();
  cudaGraph_t graph = nullptr;
  queue->Note(cudaStreamEndCapture(stream, &graph), "ending a graph");
  if (!queue->failure().ok()) return nullptr;
  cudaGraphExec_t executable = nullptr;
  queue->Note(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
  // What the first launch would do otherwise.
  if (executable != nullptr) {
    queue->Note(cudaGraphUpload(executable, stream), "making a graph");
  }
  queue->Note(cudaGraphDestroy(graph), "making a graph");
  return executable;
}

size_t FreeBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  return free_bytes;
}

}  // namespace

cudaGraphExec_t Graphs::Make(DeviceQueue* queue,
                             absl::FunctionRef<void()> record) {
  const size_t before = FreeBytes();
  const cudaGraphExec_t graph = Record(queue, record);
  if (graph == nullptr) return nullptr;
  // Others may give memory back meanwhile.
  bytes_ += before - std::min(before, FreeBytes());
  ++count_;
  return graph;
}

void Graphs::Run(DeviceQueue* queue, uint64_t key,
                 absl::FunctionRef<void()> record) {
  const auto [found, is_new] = graphs_.try_emplace(key, nullptr);
  if (is_new) return record();
  if (found->second == nullptr) found->second = Make(queue, record);
  if (found->second == nullptr) return;
  queue->Note(cudaGraphLaunch(found->second, queue->operations()),
              "launching a graph");
}

void Graphs::Forget() {
  for (const auto& [key, graph] : graphs_) {
    if (graph == nullptr || DeviceIsLost()) continue;
    (void)cudaGraphExecDestroy(graph);
  }
  graphs_.clear();
  count_ = 0;
  bytes_ = 0;
}

}  // namespace engram::cuda
