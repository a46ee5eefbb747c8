#include "tests/device_facts/workloads.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/h3_update.h"
#include "kernels/cuda/mamba_update.h"
#include "kernels/cuda/ssd_update.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/mma_facts.h"

namespace engram {
namespace {

// Of one launch's arrays, which repeat it.
constexpr int64_t kRandomValues = 1 << 20;

template <class T>
T* Keep(const std::vector<T>& values, int64_t count,
        std::vector<std::shared_ptr<void>>* memory) {
  auto array = std::make_shared<DeviceArray<T>>(values, count);
  memory->push_back(array);
  return array->data();
}

}  // namespace

// Shapes of mamba-2.8b, mamba2-2.7b and h3-1.3b.
Workloads::Workloads(bool small) {
  AddMambaUpdate(small ? 2 : 384, small ? 64 : 5120);
  AddSsdUpdate(small ? 2 : 64, small ? 1 : 80);
  AddH3Update(small ? 2 : 160, small ? 64 : 2048);
  AddProduct("narrow product", 1, small ? 64 : 40960, small ? 320 : 2560);
  AddProduct("tile product", 32, small ? 64 : 40960, small ? 320 : 2560);
  AddProduct("prompt product", small ? 64 : 2048, small ? 64 : 10240,
             small ? 320 : 2560);
}

// From -1 to 1, so that no state grows.
float* Workloads::Floats(int64_t count) {
  static const std::vector<float>* const values = [] {
    auto* const random_values = new std::vector<float>(kRandomValues);
    std::mt19937 random(1);
    for (float& value : *random_values) {
      value = static_cast<float>(random() >> 8) * 0x1p-23f - 1;
    }
    return random_values;
  }();
  return Keep(*values, count, &memory_);
}

Matrix Workloads::Activations(int64_t tokens, int64_t width) {
  return {Floats(tokens * width), width};
}

cuda::WeightView Workloads::Weight(int64_t outputs, int64_t inputs) {
  static const auto* const values = new std::vector<uint16_t>(
      RandomHalves(/*is_float16=*/false, 1, kRandomValues));
  cuda::WeightView view;
  view.values = Keep(*values, outputs * inputs, &memory_);
  view.outputs = outputs;
  view.inputs = inputs;
  view.stride = inputs;
  view.format = WeightFormat::kBFloat16;
  return view;
}

cuda::StepTable Workloads::Rows(int64_t count) {
  std::vector<cuda::StepRow> rows(count);
  std::vector<int32_t> row_of_token(count);
  for (int32_t i = 0; i < count; ++i) {
    rows[i].slot_in = rows[i].slot_out = i;
    rows[i].tokens = 1;
    rows[i].offset = row_of_token[i] = i;
    rows[i].position = 100 + 7 * i;
  }
  cuda::StepTable table;
  table.rows = Keep(rows, count, &memory_);
  table.row_of_token = Keep(row_of_token, count, &memory_);
  table.row_count = table.token_count = count;
  table.longest_row = 1;
  return table;
}

void Workloads::AddMambaUpdate(int64_t rows, int64_t d_inner) {
  constexpr int64_t kStates = 16;
  const int64_t dt_rank = d_inner / 32;
  cuda::MambaUpdateArguments arguments;
  const Matrix dt = Activations(rows, d_inner);
  arguments.dt_proj = cuda::ArgumentsOf(Weight(d_inner, dt_rank), rows,
                                        Activations(rows, dt_rank), {}, dt);
  SelectiveScanArguments& scan = arguments.scan;
  scan.d_inner = d_inner;
  scan.d_state = kStates;
  scan.x = Activations(rows, d_inner);
  scan.dt = dt;
  scan.b = Activations(rows, kStates);
  scan.c = Activations(rows, kStates);
  scan.z = Activations(rows, d_inner);
  scan.dt_bias = Floats(d_inner);
  // As if A were -1 or so: what is positive lets states grow, to infinity.
  scan.a = Keep(std::vector<float>(1, -1), kStates * d_inner, &memory_);
  scan.d = Floats(d_inner);
  scan.ssm_state = {Floats(rows * kStates * d_inner), kStates * d_inner};
  scan.y = Activations(rows, d_inner);
  const cuda::StepTable step = Rows(rows);
  all_.push_back({absl::StrCat("mamba_update of ", rows, " rows"),
                  static_cast<double>(rows * d_inner * (8 * kStates + 12)), 0,
                  [=](cudaStream_t stream) {
                    return cuda::MambaUpdate(stream, step, arguments);
                  }});
}

void Workloads::AddSsdUpdate(int64_t rows, int64_t heads) {
  constexpr int64_t kHeadDim = 64, kStates = 128;
  const int64_t width = heads * kHeadDim;
  cuda::SsdUpdateArguments arguments;
  SsdScanArguments& scan = arguments.scan;
  scan.heads = heads;
  scan.groups = 1;
  scan.head_dim = kHeadDim;
  scan.d_state = kStates;
  scan.x = Activations(rows, width);
  scan.dt = Activations(rows, heads);
  scan.b = Activations(rows, kStates);
  scan.c = Activations(rows, kStates);
  scan.dt_bias = Floats(heads);
  scan.a = Keep(std::vector<float>(1, -1), heads, &memory_);
  scan.d = Floats(heads);
  scan.ssm_state = {Floats(rows * kStates * width), kStates * width};
  scan.y = Activations(rows, width);
  arguments.z = Activations(rows, width);
  const cuda::StepTable step = Rows(rows);
  all_.push_back({absl::StrCat("ssd_update of ", rows, " rows"),
                  static_cast<double>(rows * width * (8 * kStates + 12)), 0,
                  [=](cudaStream_t stream) {
                    return cuda::SsdUpdate(stream, step, arguments);
                  }});
}

void Workloads::AddH3Update(int64_t rows, int64_t channels) {
  constexpr int64_t kTaps = 64, kPairs = 32;
  cuda::H3UpdateArguments arguments;
  ShiftMultiplyArguments& shift = arguments.shift;
  shift.channels = channels;
  shift.taps = kTaps;
  shift.k = Activations(rows, channels);
  shift.v = Activations(rows, channels);
  shift.filter = Floats(kTaps * channels);
  shift.shift_state = {Floats(rows * (kTaps - 1) * channels),
                       (kTaps - 1) * channels};
  shift.p = Activations(rows, channels);
  DiagonalScanArguments& scan = arguments.scan;
  scan.channels = channels;
  scan.pairs = kPairs;
  scan.gate = Activations(rows, channels);
  scan.decay =
      Keep(std::vector<float>(1, 0.5f), 2 * kPairs * channels, &memory_);
  scan.read = Floats(2 * kPairs * channels);
  scan.d = Floats(channels);
  scan.diagonal_state = {Floats(rows * 2 * kPairs * channels),
                         2 * kPairs * channels};
  scan.y = Activations(rows, channels);
  const cuda::StepTable step = Rows(rows);
  all_.push_back({absl::StrCat("h3_update of ", rows, " rows"),
                  static_cast<double>(rows * channels *
                                      (16 * kPairs + 4 * (kTaps - 1) + 4 + 16)),
                  0, [=](cudaStream_t stream) {
                    return cuda::H3Update(stream, step, arguments);
                  }});
}

void Workloads::AddProduct(const std::string& name, int64_t tokens,
                           int64_t outputs, int64_t inputs) {
  const cuda::ProductArguments product = cuda::ArgumentsOf(
      Weight(outputs, inputs), tokens, Activations(tokens, inputs), {},
      Activations(tokens, outputs));
  all_.push_back(
      {absl::StrCat(name, " of ", tokens, " tokens, ", outputs, " x ", inputs),
       2.0 * outputs * inputs + 4.0 * tokens * (inputs + outputs),
       2.0 * tokens * outputs * inputs,
       [=](cudaStream_t stream) { return cuda::Product(stream, product); }});
}

}  // namespace engram
