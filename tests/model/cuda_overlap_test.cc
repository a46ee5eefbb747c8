// A model gives the same bits with kernels that overlap and without, recorded
// and not, however often. What it cannot see on an emulated device it can on a
// real one: a kernel that reads what the one before has not written yet.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"
#include "model/random_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"
#include "tests/support/forwarding_backend.h"

namespace engram {
namespace {

bool kernels_overlap = true;
int64_t launches_without_overlap = 0;

}  // namespace

namespace cuda {

// The linker lets all that launch kernels ask this one instead of CanOverlap()
// (tests/model/CMakeLists.txt).
cudaError_t WrappedCanOverlap(bool* can) asm(
    "__wrap__ZN6engram4cuda10CanOverlapEPb");
cudaError_t RealCanOverlap(bool* can) asm(
    "__real__ZN6engram4cuda10CanOverlapEPb");

cudaError_t WrappedCanOverlap(bool* can) {
  const cudaError_t error = RealCanOverlap(can);
  if (!kernels_overlap) {
    ++launches_without_overlap;
    *can = false;
  }
  return error;
}

}  // namespace cuda

namespace {

// A published shape of random weights, of which an emulated device is given
// another of the family, that it can do in a test's time.
struct Family {
  std::string shape;
  void (*write_small)(const TemporaryFolder& folder);
};
void PrintTo(const Family& family, std::ostream* out) { *out << family.shape; }

#if defined(ENGRAM_CUDA_EMULATION)
constexpr int kRepeats = 3;
#else
constexpr int kRepeats = 1000;
#endif

class CudaOverlapTest : public ::testing::TestWithParam<Family> {
 protected:
  CudaOverlapTest() {
    auto backend = MakeCudaBackend();
    ENGRAM_CHECK_OK(backend.status());
    backend_ = *std::move(backend);
  }
  ~CudaOverlapTest() override { kernels_overlap = true; }

  std::unique_ptr<Model> Load(Backend* backend) {
    ModelLimits limits;
    limits.slots = 4;
    limits.max_batch_tokens = 80;
    limits.max_logits_rows = 4;
#if defined(ENGRAM_CUDA_EMULATION)
    GetParam().write_small(folder_);
    auto model = LoadModel(folder_.path(), backend, limits, 0);
#else
    auto folder = RandomModel(GetParam().shape, DataType::kBFloat16);
    ENGRAM_CHECK_OK(folder.status());
    auto model = (*folder)->LoadModel(backend, limits, 0);
#endif
    ENGRAM_CHECK_OK(model.status());
    return *std::move(model);
  }

  // Logits of three sequences: of their prompts, and of five steps of one token
  // each, of which the last ones are launched as a graph.
  static std::vector<float> Run(Model* model) {
    std::vector<int32_t> prompts[3] = {
        {1, 2, 3}, std::vector<int32_t>(70, 5), {9}};
    std::vector<float> logits;
    const auto step = [&](const Batch& batch) {
      const auto result = RunStep(model, batch);
      ENGRAM_CHECK_OK(result.status());
      for (const bool finite : result->finite) EXPECT_TRUE(finite);
      logits.insert(logits.end(), result->logits.begin(), result->logits.end());
    };
    Batch batch;
    for (const auto& prompt : prompts) {
      batch.rows.push_back(
          RowWith(LogitsWanted::kLast, model->states().Take(), prompt));
    }
    step(batch);
    for (int32_t id = 11; id < 16; ++id) {
      for (BatchRow& row : batch.rows) row.tokens = {&id, 1};
      step(batch);
    }
    for (const BatchRow& row : batch.rows) model->states().Free(row.slot);
    return logits;
  }

  static bool SameBits(const std::vector<float>& a,
                       const std::vector<float>& b) {
    return a.size() == b.size() &&
           std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  const TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(CudaOverlapTest, ChangesNoBitNorDoGraphs) {
  // One that passes on records nothing.
  ForwardingBackend without_graphs(backend_.get());
  kernels_overlap = false;
  const int64_t launches_before = launches_without_overlap;
  const std::vector<float> expected = Run(Load(&without_graphs).get());
  EXPECT_TRUE(SameBits(Run(Load(backend_.get()).get()), expected))
      << "in graphs";
  EXPECT_GT(launches_without_overlap, launches_before);
  kernels_overlap = true;
  EXPECT_TRUE(SameBits(Run(Load(&without_graphs).get()), expected))
      << "overlapping";
  EXPECT_TRUE(SameBits(Run(Load(backend_.get()).get()), expected))
      << "overlapping, in graphs";
}

TEST_P(CudaOverlapTest, GivesTheSameBitsEachTime) {
  const std::unique_ptr<Model> model = Load(backend_.get());
  const std::vector<float> expected = Run(model.get());
  for (int i = 0; i < kRepeats; ++i) {
    ASSERT_TRUE(SameBits(Run(model.get()), expected)) << "repeat " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, CudaOverlapTest,
    ::testing::Values(Family{"mamba-130m",
                             [](const TemporaryFolder& folder) {
                               WriteRandomMamba(folder, {});
                             }},
                      Family{"mamba2-130m",
                             [](const TemporaryFolder& folder) {
                               WriteRandomMamba2(folder, {});
                             }},
                      Family{"h3-125m", [](const TemporaryFolder& folder) {
                               WriteRandomH3(folder, {});
                             }}));

}  // namespace
}  // namespace engram
