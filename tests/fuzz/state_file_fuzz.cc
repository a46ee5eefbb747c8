// A state file of any bytes at all must give a Status or a state, in whatever
// parts it comes.
//
// Input: a byte, how long the first part is, and the file.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "server/state_file.h"
#include "server/state_file_reader.h"

namespace engram {
namespace {

// What it may ask for: a header, or the state.
constexpr size_t kBytesMax = kStateFileHeaderMax;

StateFileModel SmallModel() {
  ModelInfo info;
  info.layers = 3;
  info.state_bytes = 3 * kStateAlignment;
  const std::vector<StateComponent> components = {{"conv_state", 2, {3, 5}},
                                                  {"ssm_state", 3, {2, 2}},
                                                  {"last_hidden", 1, {7}}};
  return {.name = "m",
          .family = "mamba",
          .weight_hash = "0123",
          .weight_format = "f32",
          .vocabulary_size = 100,
          .capacity = CapacityOf(info),
          .layout = StateLayout(components, info)};
}

absl::StatusOr<StateFileReader::State> Read(absl::string_view file,
                                            size_t first) {
  StateFileReader reader(
      {.find_model = [](const std::string&) -> absl::StatusOr<StateFileModel> {
         return SmallModel();
       },
       .reserve =
           [](size_t bytes) {
             ENGRAM_CHECK(bytes <= kBytesMax);
             return absl::OkStatus();
           },
       .checks_weights = false});
  ENGRAM_RETURN_IF_ERROR(reader.Append(file.substr(0, first)));
  ENGRAM_RETURN_IF_ERROR(reader.Append(file.substr(first)));
  return reader.Finish();
}

// What was read can be written.
void Write(const StateFileReader::State& state) {
  StateFileWriter writer(state.model, state.turns, state.block);
  while (!writer.Next(1000).empty()) {
  }
}

}  // namespace
}  // namespace engram

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::string_view file(reinterpret_cast<const char*>(data + 1),
                               size - 1);
  const auto state = engram::Read(file, std::min<size_t>(data[0], file.size()));
  if (state.ok()) engram::Write(*state);
  return 0;
}
