// The header of a state file (server/state_file.h), of which no byte is
// trusted: what it says by itself, whatever model it is of.
//
// Thread-safe: pure functions.
// Source: the safetensors format, as model/safetensors_file.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/state_file_format.h"

namespace engram {

struct StateFileHeader {
  struct Entry {
    std::string type;  // as the format calls it, "F32"
    std::vector<int64_t> shape;
    // In the data behind the header; begin <= end.
    size_t begin = 0;
    size_t end = 0;

    size_t bytes() const { return end - begin; }
  };

  // All that MetadataOf has, and the checksum, are there.
  StateFileMetadata metadata;
  // Their data follow each other without gaps.
  std::map<std::string, Entry> tensors;
  size_t data_bytes = 0;
};

// Numbers in files are at most so large: as JSON's readers take them exactly.
inline constexpr int64_t kStateFileCountMax = int64_t{1} << 53;

// INVALID_ARGUMENT: it is no such header, and what is wrong with it.
absl::StatusOr<StateFileHeader> ParseStateFileHeader(absl::string_view text);

// "the state file " and what is wrong with it.
absl::Status RefuseStateFile(absl::string_view why);
// "... has a tensor "NAME" " and what is wrong with that.
absl::Status RefuseStateTensor(const std::string& name, absl::string_view why);

}  // namespace engram
