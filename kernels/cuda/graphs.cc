#include "kernels/cuda/graphs.h"

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
  queue->Note(cudaGraphDestroy(graph), "making a graph");
  return executable;
}

}  // namespace

void Graphs::Run(DeviceQueue* queue, uint64_t key,
                 absl::FunctionRef<void()> record) {
  const auto [found, is_new] = graphs_.try_emplace(key, nullptr);
  if (is_new) return record();
  if (found->second == nullptr) found->second = Record(queue, record);
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
}

}  // namespace engram::cuda
