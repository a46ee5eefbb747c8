#include "server/state_file.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace engram {
namespace {

using Json = nlohmann::json;

std::vector<int32_t> IdsOf(const TokenSet* tokens) {
  std::vector<int32_t> ids;
  if (tokens != nullptr) {
    tokens->ForEach([&](int32_t id) { ids.push_back(id); });
  }
  return ids;
}

}  // namespace

StateFileWriter::StateFileWriter(const StateFileModel& model,
                                 const CommittedTurns& turns,
                                 std::shared_ptr<const StateBlock> block)
    : block_(std::move(block)), seen_(IdsOf(turns.seen.get())) {
  ENGRAM_CHECK(block_->size() >= model.layout.BytesAfter(turns.position));
  const auto* const data = reinterpret_cast<const char*>(block_->data());
  struct Part {
    const char* type;
    std::vector<int64_t> shape;
    absl::string_view bytes;
  };
  std::map<std::string, Part> parts;
  for (StateTensor& tensor : model.layout.TensorsAfter(turns.position)) {
    parts[tensor.name] = {kStateDtype,
                          std::move(tensor.shape),
                          {data + tensor.offset, tensor.bytes}};
  }
  parts[kSeenTokens] = {
      "I32", {static_cast<int64_t>(seen_.size())}, BytesOf(seen_)};

  StateFileMetadata metadata = MetadataOf(model, turns);
  Json header = Json::object();
  StateFileChecksum checksum;
  checksum.Add(metadata);
  size_t begin = 0;
  for (const auto& [name, part] : parts) {
    const size_t end = begin + part.bytes.size();
    header[name] = {{"dtype", part.type},
                    {"shape", part.shape},
                    {"data_offsets", {begin, end}}};
    checksum.Add(name, part.bytes);
    begin = end;
  }
  metadata[kChecksumKey] = checksum.Finish();
  header[kMetadataKey] = metadata;
  std::string text =
      header.dump(-1, ' ', false, Json::error_handler_t::replace);
  // Data begin at a multiple of eight bytes.
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();
  header_.assign(reinterpret_cast<const char*>(&header_bytes),
                 sizeof(header_bytes));
  header_ += text;
  pieces_.push_back(header_);
  for (const auto& [name, part] : parts) pieces_.push_back(part.bytes);
  bytes_ = header_.size() + begin;
}

std::string StateFileWriter::Next(size_t most) {
  std::string next;
  while (next_piece_ < pieces_.size() && next.size() < most) {
    absl::string_view& piece = pieces_[next_piece_];
    const size_t count = std::min(piece.size(), most - next.size());
    next.append(piece.data(), count);
    piece.remove_prefix(count);
    if (piece.empty()) ++next_piece_;
  }
  return next;
}

}  // namespace engram
