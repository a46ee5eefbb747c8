#include "server/state_file_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/strict_json.h"

namespace engram {
namespace {

using Json = nlohmann::json;
using Entry = StateFileHeader::Entry;

absl::Status RequireMetadata(const StateFileMetadata& metadata,
                             const std::string& key) {
  if (metadata.contains(key)) return absl::OkStatus();
  return RefuseStateFile(absl::StrCat("has no metadata ", Quoted(key)));
}

absl::StatusOr<StateFileMetadata> ReadMetadata(const Json& header) {
  const auto found = header.find(kMetadataKey);
  if (found == header.end() || !found->is_object()) {
    return RefuseStateFile(
        absl::StrCat("has no metadata: it is no ", kStateFormat));
  }
  StateFileMetadata metadata;
  for (const auto& [key, value] : found->items()) {
    if (!value.is_string()) {
      return RefuseStateFile(
          absl::StrCat("has metadata ", Quoted(key), " that are no text"));
    }
    metadata[key] = value.get<std::string>();
  }
  for (const auto& [key, unused] : MetadataOf({}, {})) {
    ENGRAM_RETURN_IF_ERROR(RequireMetadata(metadata, key));
  }
  ENGRAM_RETURN_IF_ERROR(RequireMetadata(metadata, kChecksumKey));
  return metadata;
}

// Nothing, if it is no list of such numbers.
std::optional<std::vector<int64_t>> ToCounts(const Json& entry,
                                             const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) return std::nullopt;
  std::vector<int64_t> counts;
  for (const Json& item : *found) {
    if (!item.is_number_unsigned() ||
        item.get<uint64_t>() > static_cast<uint64_t>(kStateFileCountMax)) {
      return std::nullopt;
    }
    counts.push_back(item.get<int64_t>());
  }
  return counts;
}

absl::StatusOr<Entry> ReadEntry(const std::string& name, const Json& entry) {
  if (entry.is_object()) {
    const auto type = entry.find("dtype");
    const auto shape = ToCounts(entry, "shape");
    const auto offsets = ToCounts(entry, "data_offsets");
    if (type != entry.end() && type->is_string() && shape.has_value() &&
        offsets.has_value() && offsets->size() == 2 &&
        (*offsets)[0] <= (*offsets)[1]) {
      return Entry{.type = type->get<std::string>(),
                   .shape = *shape,
                   .begin = static_cast<size_t>((*offsets)[0]),
                   .end = static_cast<size_t>((*offsets)[1])};
    }
  }
  return RefuseStateTensor(name,
                           "that is not told by dtype, shape and data_offsets");
}

// The bytes of all, which follow each other.
absl::StatusOr<size_t> CoveredBytes(
    const std::map<std::string, Entry>& tensors) {
  std::vector<std::pair<size_t, size_t>> spans;
  for (const auto& [name, entry] : tensors) {
    spans.push_back({entry.begin, entry.end});
  }
  std::sort(spans.begin(), spans.end());
  size_t covered = 0;
  for (const auto& [begin, end] : spans) {
    if (begin != covered) {
      return RefuseStateFile(absl::StrCat(
          "has tensors that ", begin < covered ? "overlap" : "leave a gap",
          " at byte ", std::min(begin, covered), " of its data"));
    }
    covered = end;
  }
  return covered;
}

}  // namespace

absl::Status RefuseStateFile(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the state file ", why));
}

absl::Status RefuseStateTensor(const std::string& name, absl::string_view why) {
  return RefuseStateFile(absl::StrCat("has a tensor ", Quoted(name), " ", why));
}

absl::StatusOr<StateFileHeader> ParseStateFileHeader(absl::string_view text) {
  const absl::StatusOr<Json> json =
      ParseStrictJson({text.data(), text.size()}, "the state file's header");
  if (!json.ok()) return absl::InvalidArgumentError(json.status().message());
  if (!json->is_object()) {
    return RefuseStateFile("has a header that is no object");
  }
  StateFileHeader header;
  ENGRAM_ASSIGN_OR_RETURN(header.metadata, ReadMetadata(*json));
  for (const auto& [name, entry] : json->items()) {
    if (name == kMetadataKey) continue;
    ENGRAM_ASSIGN_OR_RETURN(header.tensors[name], ReadEntry(name, entry));
  }
  ENGRAM_ASSIGN_OR_RETURN(header.data_bytes, CoveredBytes(header.tensors));
  return header;
}

}  // namespace engram
