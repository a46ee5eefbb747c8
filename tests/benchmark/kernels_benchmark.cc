// Speed of the back end's operations in the shapes of mamba-130m: d_model 768,
// d_inner 1536, d_state 16, dt_rank 48, vocabulary 50280; of mamba2-130m's scan
// and norm, which has 24 heads of 64 channels and d_state 128; and of H3-125M,
// which has 768 channels with 64 taps and 32 complex states, and attention with
// 12 heads of 64 channels.
//
// The last argument of every benchmark is the number of threads. GB/s counts
// the bytes that an operation has to move at least, each once; GFLOP/s counts a
// fused multiply-add as two. Weights rotate through more memory than the caches
// hold, as they do in a model.
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "kernels/status.h"

namespace engram {
namespace {

constexpr int64_t kDModel = 768;
constexpr int64_t kDInner = 1536;
constexpr int64_t kDState = 16;
constexpr int64_t kDConv = 4;
constexpr int64_t kDtRank = 48;
constexpr int64_t kVocab = 50280;
constexpr int64_t kHeads = 24;
constexpr int64_t kHeadDim = 64;
constexpr int64_t kHeadState = 128;
constexpr int64_t kTaps = 64;
constexpr int64_t kPairs = 32;
constexpr int64_t kAttentionHeads = 12;

// Weights of one benchmark together; beyond the last-level cache of most CPUs.
constexpr int64_t kRotatedBytes = int64_t{160} << 20;

std::unique_ptr<Backend> MakeCpu(int64_t threads) {
  auto backend = MakeBackend({BackendKind::kCpu, static_cast<int>(threads)});
  ENGRAM_CHECK_OK(backend.status());
  return *std::move(backend);
}

std::unique_ptr<Buffer> Filled(Backend& backend, int64_t count) {
  auto buffer = backend.Allocate(count * sizeof(float));
  ENGRAM_CHECK_OK(buffer.status());
  for (int64_t i = 0; i < count; ++i) {
    (*buffer)->floats()[i] = static_cast<float>(i % 17) * 0.01f - 0.08f;
  }
  return *std::move(buffer);
}

void Count(benchmark::State& state, int64_t bytes, int64_t operations) {
  using benchmark::Counter;
  state.counters["B/s"] =
      Counter(static_cast<double>(bytes), Counter::kIsIterationInvariantRate,
              Counter::kIs1000);
  state.counters["FLOP/s"] =
      Counter(static_cast<double>(operations),
              Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

void MatMul(benchmark::State& state, int64_t outputs, int64_t inputs) {
  const int64_t tokens = state.range(0);
  const auto backend = MakeCpu(state.range(1));
  const auto format = static_cast<WeightFormat>(state.range(2));
  state.SetLabel(WeightFormatName(format));
  const int64_t weight_bytes = WeightBytes(format, outputs, inputs);
  const std::vector<float> values(outputs * inputs, 0.01f);
  const Tensor tensor{DataType::kFloat32, {outputs, inputs}, values.data()};
  std::vector<std::unique_ptr<PackedWeight>> weights;
  for (int64_t bytes = 0; bytes < kRotatedBytes; bytes += weight_bytes) {
    auto packed = backend->Pack(tensor, format);
    ENGRAM_CHECK_OK(packed.status());
    weights.push_back(*std::move(packed));
  }
  const auto x = Filled(*backend, tokens * inputs);
  const auto y = Filled(*backend, tokens * outputs);
  size_t next = 0;
  for (auto _ : state) {
    backend->MatMul(*weights[next++ % weights.size()], tokens,
                    {x->floats(), inputs}, {}, {y->floats(), outputs});
    benchmark::ClobberMemory();
  }
  Count(state, weight_bytes + 4 * tokens * (inputs + outputs),
        2 * tokens * outputs * inputs);
}
void InProjection(benchmark::State& state) {
  MatMul(state, 2 * kDInner, kDModel);
}
void XProjection(benchmark::State& state) {
  MatMul(state, kDtRank + 2 * kDState, kDInner);
}
void DtProjection(benchmark::State& state) { MatMul(state, kDInner, kDtRank); }
void OutProjection(benchmark::State& state) { MatMul(state, kDModel, kDInner); }
void Head(benchmark::State& state) { MatMul(state, kVocab, kDModel); }

// `rows` rows of `tokens` tokens each, every row in its own slot.
std::vector<Row> MakeRows(int64_t rows, int64_t tokens, int64_t position = 0) {
  std::vector<Row> made;
  for (int row = 0; row < rows; ++row) {
    made.push_back({.slot_in = row,
                    .slot_out = row,
                    .tokens = static_cast<int>(tokens),
                    .position = position});
  }
  return made;
}

void SelectiveScan(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t tokens = row_count * row_tokens;
  const auto backend = MakeCpu(state.range(2));
  const StepRows& step = backend->PrepareStep(MakeRows(row_count, row_tokens));
  const auto x = Filled(*backend, tokens * kDInner);
  const auto dt = Filled(*backend, tokens * kDInner);
  const auto z = Filled(*backend, tokens * kDInner);
  const auto bc = Filled(*backend, tokens * 2 * kDState);
  const auto dt_bias = Filled(*backend, kDInner);
  const auto a = Filled(*backend, kDState * kDInner);
  for (int64_t i = 0; i < kDState * kDInner; ++i) a->floats()[i] -= 0.5f;
  const auto ssm_state = Filled(*backend, row_count * kDState * kDInner);
  const auto y = Filled(*backend, tokens * kDInner);
  SelectiveScanArguments arguments;
  arguments.d_inner = kDInner;
  arguments.d_state = kDState;
  arguments.x = {x->floats(), kDInner};
  arguments.dt = {dt->floats(), kDInner};
  arguments.z = {z->floats(), kDInner};
  arguments.b = {bc->floats(), 2 * kDState};
  arguments.c = {bc->floats() + kDState, 2 * kDState};
  arguments.dt_bias = dt_bias->floats();
  arguments.a = a->floats();
  arguments.d = dt_bias->floats();
  arguments.ssm_state = {ssm_state->floats(), kDState * kDInner};
  arguments.y = {y->floats(), kDInner};
  for (auto _ : state) {
    backend->SelectiveScan(step, arguments);
    benchmark::ClobberMemory();
  }
  // Per state: exp as one operation, three products and two sums.
  Count(state, 16 * tokens * kDInner + 8 * row_count * kDState * kDInner,
        6 * tokens * kDInner * kDState);
}

void SsdScan(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t tokens = row_count * row_tokens;
  const int64_t state_floats = kHeads * kHeadDim * kHeadState;
  const auto backend = MakeCpu(state.range(2));
  const StepRows& step = backend->PrepareStep(MakeRows(row_count, row_tokens));
  const auto x = Filled(*backend, tokens * kDInner);
  const auto dt = Filled(*backend, tokens * kHeads);
  const auto bc = Filled(*backend, tokens * 2 * kHeadState);
  const auto dt_bias = Filled(*backend, kHeads);
  const auto a = Filled(*backend, kHeads);
  for (int64_t i = 0; i < kHeads; ++i) a->floats()[i] -= 0.5f;
  const auto ssm_state = Filled(*backend, row_count * state_floats);
  const auto y = Filled(*backend, tokens * kDInner);
  SsdScanArguments arguments;
  arguments.heads = kHeads;
  arguments.groups = 1;
  arguments.head_dim = kHeadDim;
  arguments.d_state = kHeadState;
  arguments.x = {x->floats(), kDInner};
  arguments.dt = {dt->floats(), kHeads};
  arguments.b = {bc->floats(), 2 * kHeadState};
  arguments.c = {bc->floats() + kHeadState, 2 * kHeadState};
  arguments.dt_bias = dt_bias->floats();
  arguments.a = a->floats();
  arguments.d = dt_bias->floats();
  arguments.ssm_state = {ssm_state->floats(), state_floats};
  arguments.y = {y->floats(), kDInner};
  for (auto _ : state) {
    backend->SsdScan(step, arguments);
    benchmark::ClobberMemory();
  }
  // Per state: three products and two sums.
  Count(state, 8 * tokens * kDInner + 8 * row_count * state_floats,
        5 * tokens * state_floats);
}

void CausalConv1d(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t tokens = row_count * row_tokens;
  const auto backend = MakeCpu(state.range(2));
  const StepRows& step = backend->PrepareStep(MakeRows(row_count, row_tokens));
  const auto x = Filled(*backend, tokens * kDInner);
  const auto weight = Filled(*backend, kDConv * kDInner);
  const auto bias = Filled(*backend, kDInner);
  const auto window = Filled(*backend, row_count * (kDConv - 1) * kDInner);
  const auto y = Filled(*backend, tokens * kDInner);
  CausalConv1dArguments arguments;
  arguments.channels = kDInner;
  arguments.d_conv = kDConv;
  arguments.x = {x->floats(), kDInner};
  arguments.weight = weight->floats();
  arguments.bias = bias->floats();
  arguments.conv_state = {window->floats(), (kDConv - 1) * kDInner};
  arguments.y = {y->floats(), kDInner};
  for (auto _ : state) {
    backend->CausalConv1d(step, arguments);
    benchmark::ClobberMemory();
  }
  Count(state, 8 * tokens * kDInner + 8 * row_count * (kDConv - 1) * kDInner,
        (2 * kDConv + 3) * tokens * kDInner);
}

void ShiftMultiply(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t tokens = row_count * row_tokens;
  const int64_t state_floats = (kTaps - 1) * kDModel;
  const auto backend = MakeCpu(state.range(2));
  const StepRows& step = backend->PrepareStep(MakeRows(row_count, row_tokens));
  const auto k = Filled(*backend, tokens * kDModel);
  const auto v = Filled(*backend, tokens * kDModel);
  const auto filter = Filled(*backend, kTaps * kDModel);
  const auto shift_state = Filled(*backend, row_count * state_floats);
  const auto p = Filled(*backend, tokens * kDModel);
  ShiftMultiplyArguments arguments;
  arguments.channels = kDModel;
  arguments.taps = kTaps;
  arguments.k = {k->floats(), kDModel};
  arguments.v = {v->floats(), kDModel};
  arguments.filter = filter->floats();
  arguments.shift_state = {shift_state->floats(), state_floats};
  arguments.p = {p->floats(), kDModel};
  for (auto _ : state) {
    backend->ShiftMultiply(step, arguments);
    benchmark::ClobberMemory();
  }
  Count(state, 12 * tokens * kDModel + 8 * row_count * state_floats,
        (2 * kTaps + 1) * tokens * kDModel);
}

void DiagonalScan(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t tokens = row_count * row_tokens;
  const int64_t state_floats = kPairs * 2 * kDModel;
  const auto backend = MakeCpu(state.range(2));
  const StepRows& step = backend->PrepareStep(MakeRows(row_count, row_tokens));
  const auto p = Filled(*backend, tokens * kDModel);
  const auto gate = Filled(*backend, tokens * kDModel);
  const auto decay = Filled(*backend, state_floats);
  const auto read = Filled(*backend, state_floats);
  const auto d = Filled(*backend, kDModel);
  const auto diagonal_state = Filled(*backend, row_count * state_floats);
  const auto y = Filled(*backend, tokens * kDModel);
  DiagonalScanArguments arguments;
  arguments.channels = kDModel;
  arguments.pairs = kPairs;
  arguments.p = {p->floats(), kDModel};
  arguments.gate = {gate->floats(), kDModel};
  arguments.decay = decay->floats();
  arguments.read = read->floats();
  arguments.d = d->floats();
  arguments.diagonal_state = {diagonal_state->floats(), state_floats};
  arguments.y = {y->floats(), kDModel};
  for (auto _ : state) {
    backend->DiagonalScan(step, arguments);
    benchmark::ClobberMemory();
  }
  // Per pair four products and three sums of the state, and two of each of the
  // output. Decay and read are shared by all rows.
  Count(state, 12 * tokens * kDModel + (8 * row_count + 8) * state_floats,
        11 * tokens * kDModel * kPairs);
  state.counters["updates/s"] =
      benchmark::Counter(static_cast<double>(tokens * kDModel * kPairs),
                         benchmark::Counter::kIsIterationInvariantRate,
                         benchmark::Counter::kIs1000);
}

// Rows of `tokens` tokens behind `position` others each.
void Attention(benchmark::State& state) {
  const int64_t row_count = state.range(0), row_tokens = state.range(1);
  const int64_t position = state.range(2);
  const int64_t tokens = row_count * row_tokens;
  const int64_t row_blocks =
      (position + row_tokens + kKeyValueBlockTokens - 1) / kKeyValueBlockTokens;
  const auto backend = MakeCpu(state.range(3));
  std::vector<int32_t> block_indices(row_count * row_blocks);
  std::iota(block_indices.begin(), block_indices.end(), 0);
  std::vector<absl::Span<const int32_t>> lists;
  for (int64_t row = 0; row < row_count; ++row) {
    lists.push_back(absl::MakeConstSpan(block_indices)
                        .subspan(row * row_blocks, row_blocks));
  }
  const StepRows& step =
      backend->PrepareStep(MakeRows(row_count, row_tokens, position), lists);
  const auto q = Filled(*backend, tokens * kDModel);
  const auto k = Filled(*backend, tokens * kDModel);
  const auto v = Filled(*backend, tokens * kDModel);
  const auto blocks = Filled(
      *backend, row_count * row_blocks * 2 * kDModel * kKeyValueBlockTokens);
  const auto y = Filled(*backend, tokens * kDModel);
  AttentionArguments arguments;
  arguments.heads = kAttentionHeads;
  arguments.kv_heads = kAttentionHeads;
  arguments.head_dim = kDModel / kAttentionHeads;
  arguments.scale = 0.125f;
  arguments.q = {q->floats(), kDModel};
  arguments.k = {k->floats(), kDModel};
  arguments.v = {v->floats(), kDModel};
  arguments.blocks = {blocks->floats(), 2 * kDModel * kKeyValueBlockTokens};
  arguments.y = {y->floats(), kDModel};
  for (auto _ : state) {
    backend->Attention(step, arguments);
    benchmark::ClobberMemory();
  }
  // Every token's keys and values once per row; a multiply-add for a score and
  // one for a value per dimension.
  const int64_t seen =
      row_count * (row_tokens * position + row_tokens * (row_tokens + 1) / 2);
  Count(
      state,
      8 * row_count * (position + row_tokens) * kDModel + 16 * tokens * kDModel,
      4 * seen * kDModel);
}

void RmsNorm(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const auto backend = MakeCpu(state.range(1));
  const auto residual = Filled(*backend, tokens * kDModel);
  const auto weight = Filled(*backend, kDModel);
  const auto normed = Filled(*backend, tokens * kDModel);
  for (auto _ : state) {
    backend->Norm({NormKind::kRms, weight->floats(), nullptr, 1e-5f}, tokens,
                  kDModel, residual->floats(), {normed->floats(), kDModel});
    benchmark::ClobberMemory();
  }
  Count(state, 8 * tokens * kDModel, 4 * tokens * kDModel);
}

void GatedNorm(benchmark::State& state) {
  GatedNormArguments arguments;
  arguments.tokens = state.range(0);
  arguments.d_inner = kDInner;
  const auto backend = MakeCpu(state.range(1));
  const auto y = Filled(*backend, arguments.tokens * kDInner);
  const auto z = Filled(*backend, arguments.tokens * kDInner);
  const auto weight = Filled(*backend, kDInner);
  const auto normed = Filled(*backend, arguments.tokens * kDInner);
  arguments.y = {y->floats(), kDInner};
  arguments.z = {z->floats(), kDInner};
  arguments.weight = weight->floats();
  arguments.normed = {normed->floats(), kDInner};
  for (auto _ : state) {
    backend->GatedNorm(arguments);
    benchmark::ClobberMemory();
  }
  // SiLU as two operations.
  Count(state, 12 * arguments.tokens * kDInner, 7 * arguments.tokens * kDInner);
}

// Rows of a vocabulary, each of which asks for a token: greedy, or at
// temperature 0.8 with all ids or with top_p 0.95; and the same with
// log-probabilities of the token and five others. Logits as a trained model's:
// a few ids are far above the others.
void Outcomes(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const auto backend = MakeCpu(state.range(2));
  const bool sampled = state.range(1) >= 1, top_p = state.range(1) >= 2;
  const bool told = state.range(1) >= 3;
  state.SetLabel(told      ? "top_p 0.95, log-probabilities"
                 : top_p   ? "top_p 0.95"
                 : sampled ? "temperature 0.8"
                           : "greedy");
  const SamplingParameters parameters = {.temperature = sampled ? 0.8f : 0.0f,
                                         .top_p = top_p ? 0.95f : 1.0f};
  const auto logits = Filled(*backend, rows * kVocab);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  for (int64_t i = 0; i < rows * kVocab; ++i) {
    logits->floats()[i] = normal(random);
  }
  ENGRAM_CHECK_OK(backend->ReserveSteps({.outcomes = rows, .ids = kVocab}));
  std::vector<OutcomeRequest> requests(rows);
  for (OutcomeRequest& request : requests) {
    request.draw.parameters = &parameters;
    request.alternatives = told ? 5 : 0;
  }
  std::vector<Outcome> outcomes(rows);
  for (auto _ : state) {
    for (OutcomeRequest& request : requests) ++request.draw.index;
    backend->Outcomes({logits->floats(), kVocab}, kVocab, requests,
                      absl::MakeSpan(outcomes));
    benchmark::ClobberMemory();
  }
  Count(state, 4 * rows * kVocab, 0);
}

void TokensByThreads(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"tokens", "threads"})
      ->ArgsProduct({{1, 2, 8, 32, 512}, {1, 2}})
      ->UseRealTime();
}
// Of WeightFormat; the label tells which.
const std::vector<int64_t> kFormats = {0, 1, 2, 3, 4};
void ProductsByFormat(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"tokens", "threads", "format"})
      ->ArgsProduct({{1, 2, 8, 32, 512}, {1, 2}, kFormats})
      ->UseRealTime();
}
void HeadsByFormat(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "threads", "format"})
      ->ArgsProduct({{1, 8, 32}, {1, 2}, kFormats})
      ->UseRealTime();
}
void RowsByTokensByThreads(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "tokens", "threads"});
  for (const int64_t threads : {1, 2}) {
    benchmark->Args({1, 1, threads})
        ->Args({32, 1, threads})
        ->Args({1, 512, threads});
  }
  benchmark->UseRealTime();
}
void RowsByTokensByPositionByThreads(
    benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "tokens", "position", "threads"});
  for (const int64_t threads : {1, 2}) {
    benchmark->Args({1, 1, 1024, threads})
        ->Args({32, 1, 1024, threads})
        ->Args({1, 512, 0, threads})
        ->Args({1, 512, 1024, threads});
  }
  benchmark->UseRealTime();
}

BENCHMARK(InProjection)->Apply(ProductsByFormat);
BENCHMARK(XProjection)->Apply(ProductsByFormat);
BENCHMARK(DtProjection)->Apply(ProductsByFormat);
BENCHMARK(OutProjection)->Apply(ProductsByFormat);
BENCHMARK(Head)->Apply(HeadsByFormat);
BENCHMARK(SelectiveScan)->Apply(RowsByTokensByThreads);
BENCHMARK(SsdScan)->Apply(RowsByTokensByThreads);
BENCHMARK(CausalConv1d)->Apply(RowsByTokensByThreads);
BENCHMARK(ShiftMultiply)->Apply(RowsByTokensByThreads);
BENCHMARK(DiagonalScan)->Apply(RowsByTokensByThreads);
BENCHMARK(Attention)->Apply(RowsByTokensByPositionByThreads);
BENCHMARK(RmsNorm)->Apply(TokensByThreads);
BENCHMARK(GatedNorm)->Apply(TokensByThreads);
BENCHMARK(Outcomes)
    ->ArgNames({"rows", "kind", "threads"})
    ->ArgsProduct({{1, 32}, {0, 1, 2, 3}, {1, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace engram

BENCHMARK_MAIN();
