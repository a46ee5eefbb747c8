#include "server/state_file_reader.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "model/quoted.h"

namespace engram {
namespace {

using Entry = StateFileHeader::Entry;

constexpr char kWeightsHint[] =
    "; a server with --import-unchecked-weights takes it all the same";

// The tokens that a session of the model may have read.
int64_t MostTokens(const ModelCapacity& capacity) {
  int64_t most = kStateFileCountMax;
  if (capacity.kv_block_bytes > 0) {
    most = std::min(most, capacity.kv_blocks * kKeyValueBlockTokens);
  }
  if (capacity.max_positions > 0) most = std::min(most, capacity.max_positions);
  return most;
}

}  // namespace

// --- As it comes.

absl::Status StateFileReader::Append(absl::string_view bytes) {
  while (!has_header_) {
    if (bytes.empty()) return absl::OkStatus();
    ENGRAM_RETURN_IF_ERROR(AppendToHeader(&bytes));
  }
  if (bytes.size() > header_.data_bytes - read_) {
    return RefuseStateFile(absl::StrCat("has more than the ",
                                        header_.data_bytes, " bytes of data ",
                                        "that its header tells of"));
  }
  while (!bytes.empty()) {
    const Range& range = ranges_[next_range_];
    const size_t count = std::min(bytes.size(), range.end - read_);
    if (count > 0) {
      std::memcpy(range.target + (read_ - range.begin), bytes.data(), count);
    }
    bytes.remove_prefix(count);
    read_ += count;
    if (read_ == range.end) ++next_range_;
  }
  return absl::OkStatus();
}

absl::Status StateFileReader::AppendToHeader(absl::string_view* bytes) {
  const auto take = [&](size_t wanted) {
    const size_t count = std::min(bytes->size(), wanted - front_.size());
    front_.append(bytes->data(), count);
    bytes->remove_prefix(count);
    return front_.size() == wanted;
  };
  uint64_t length = 0;
  if (front_.size() < sizeof(length)) {
    if (!take(sizeof(length))) return absl::OkStatus();
    std::memcpy(&length, front_.data(), sizeof(length));
    if (length == 0 || length > kStateFileHeaderMax) {
      return RefuseStateFile(absl::StrCat(
          "begins with a header of ", length, " bytes, limit 1 to ",
          kStateFileHeaderMax, ": it is no ", kStateFormat));
    }
    return surroundings_.reserve(length);
  }
  std::memcpy(&length, front_.data(), sizeof(length));
  return take(sizeof(length) + length) ? ReadHeader() : absl::OkStatus();
}

// --- The header.

absl::Status StateFileReader::ReadHeader() {
  ENGRAM_ASSIGN_OR_RETURN(
      header_,
      ParseStateFileHeader(absl::string_view(front_).substr(sizeof(uint64_t))));
  front_ = std::string();
  if (header_.metadata.at("format") != kStateFormat) {
    return RefuseStateFile(absl::StrCat("is of format ",
                                        Quoted(header_.metadata.at("format")),
                                        ", not ", Quoted(kStateFormat)));
  }
  if (header_.metadata.at("format_version") != kStateFormatVersion) {
    return RefuseStateFile(absl::StrCat(
        "has format_version ", Quoted(header_.metadata.at("format_version")),
        ", and this server reads ", Quoted(kStateFormatVersion)));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      model_, surroundings_.find_model(header_.metadata.at("model")));
  ENGRAM_RETURN_IF_ERROR(CheckModel());
  ENGRAM_RETURN_IF_ERROR(ReadTurns());
  ENGRAM_RETURN_IF_ERROR(CheckTensors());
  ENGRAM_RETURN_IF_ERROR(MakeRoom());
  PlanRanges();
  has_header_ = true;
  return absl::OkStatus();
}

absl::Status StateFileReader::CheckModel() const {
  ENGRAM_RETURN_IF_ERROR(CheckTold("family", model_.family));
  ENGRAM_RETURN_IF_ERROR(
      CheckTold("vocabulary_size", absl::StrCat(model_.vocabulary_size)));
  ENGRAM_RETURN_IF_ERROR(CheckTold("dtype", kStateDtype));
  ENGRAM_RETURN_IF_ERROR(CheckTold("weight_format", model_.weight_format));
  if (!surroundings_.checks_weights) return absl::OkStatus();
  return CheckTold("weight_hash", model_.weight_hash, kWeightsHint);
}

absl::Status StateFileReader::CheckTold(const char* key, const std::string& own,
                                        absl::string_view hint) const {
  const std::string& told = header_.metadata.at(key);
  if (told == own) return absl::OkStatus();
  return RefuseStateFile(absl::StrCat(
      "is of another model: it has ", key, " ", Quoted(told), " (of ",
      Quoted(header_.metadata.at("model")), "), and model ",
      Quoted(model_.name), " has ", Quoted(own), hint));
}

absl::StatusOr<int64_t> StateFileReader::ReadCount(const char* key,
                                                   int64_t least,
                                                   int64_t most) const {
  const std::string& text = header_.metadata.at(key);
  int64_t count = 0;
  // There is one way to write a number.
  if (!absl::SimpleAtoi(text, &count) || absl::StrCat(count) != text ||
      count < least || count > most) {
    return RefuseStateFile(absl::StrCat("has ", key, " ", Quoted(text),
                                        ", limit ", least, " to ", most));
  }
  return count;
}

absl::Status StateFileReader::ReadTurns() {
  ENGRAM_ASSIGN_OR_RETURN(
      turns_.position, ReadCount("position", 1, MostTokens(model_.capacity)));
  ENGRAM_ASSIGN_OR_RETURN(turns_.version,
                          ReadCount("version", 1, kStateFileCountMax));
  if (header_.metadata.at("pending_token").empty()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(
      const int64_t pending,
      ReadCount("pending_token", 0, model_.vocabulary_size - 1));
  turns_.pending = static_cast<int32_t>(pending);
  return absl::OkStatus();
}

absl::Status StateFileReader::CheckTensors() const {
  const std::vector<StateTensor> expected =
      model_.layout.TensorsAfter(turns_.position);
  for (const StateTensor& tensor : expected) {
    const auto found = header_.tensors.find(tensor.name);
    if (found == header_.tensors.end()) {
      return RefuseStateFile(
          absl::StrCat("has no tensor ", Quoted(tensor.name)));
    }
    const Entry& entry = found->second;
    if (entry.type != kStateDtype || entry.shape != tensor.shape ||
        entry.bytes() != tensor.bytes) {
      return RefuseStateTensor(
          tensor.name,
          absl::StrCat("of ", Quoted(entry.type), " ",
                       ShapeToString(entry.shape), " in ", entry.bytes(),
                       " bytes, and model ", Quoted(model_.name), " has ",
                       Quoted(kStateDtype), " ", ShapeToString(tensor.shape),
                       " in ", tensor.bytes));
    }
  }
  ENGRAM_RETURN_IF_ERROR(CheckSeenTensor());
  if (header_.tensors.size() != expected.size() + 1) {
    return RefuseStateFile(absl::StrCat(
        "has ", header_.tensors.size(), " tensors, and a state of model ",
        Quoted(model_.name), " has ", expected.size() + 1));
  }
  return absl::OkStatus();
}

absl::Status StateFileReader::CheckSeenTensor() const {
  const auto found = header_.tensors.find(kSeenTokens);
  if (found == header_.tensors.end()) {
    return RefuseStateFile(absl::StrCat("has no tensor ", Quoted(kSeenTokens)));
  }
  const Entry& seen = found->second;
  const int64_t count = seen.shape.size() == 1 ? seen.shape[0] : 0;
  if (seen.type == "I32" && count >= 1 && count <= model_.vocabulary_size &&
      seen.bytes() == count * sizeof(int32_t)) {
    return absl::OkStatus();
  }
  return RefuseStateTensor(
      kSeenTokens, absl::StrCat("of ", Quoted(seen.type), " ",
                                ShapeToString(seen.shape), " in ", seen.bytes(),
                                " bytes, which is to be \"I32\" [1 to ",
                                model_.vocabulary_size, "]"));
}

absl::Status StateFileReader::MakeRoom() {
  const size_t block_bytes = model_.layout.BytesAfter(turns_.position);
  const auto seen =
      static_cast<size_t>(header_.tensors.at(kSeenTokens).shape[0]);
  ENGRAM_RETURN_IF_ERROR(
      surroundings_.reserve(block_bytes + seen * sizeof(int32_t)));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> memory,
                          AllocateOrdinaryMemory(block_bytes));
  block_ = std::make_shared<StateBlock>(std::move(memory));
  // What lies between the components is part of it.
  std::memset(block_->data(), 0, block_bytes);
  seen_.resize(seen);
  return absl::OkStatus();
}

void StateFileReader::PlanRanges() {
  const auto add = [this](const std::string& name, void* target) {
    const Entry& entry = header_.tensors.at(name);
    ranges_.push_back(
        {name, entry.begin, entry.end, static_cast<char*>(target)});
  };
  add(kSeenTokens, seen_.data());
  for (const StateTensor& tensor :
       model_.layout.TensorsAfter(turns_.position)) {
    add(tensor.name, block_->data() + tensor.offset);
  }
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& left, const Range& right) {
              return std::pair(left.begin, left.end) <
                     std::pair(right.begin, right.end);
            });
}

// --- When all is there.

absl::StatusOr<StateFileReader::State> StateFileReader::Finish() {
  if (!has_header_) {
    return RefuseStateFile(absl::StrCat("ends after ", front_.size(),
                                        " bytes, within its header"));
  }
  if (read_ != header_.data_bytes) {
    return RefuseStateFile(absl::StrCat(
        "ends after ", read_, " bytes of data, of ", header_.data_bytes));
  }
  ENGRAM_RETURN_IF_ERROR(CheckChecksum());
  ENGRAM_RETURN_IF_ERROR(CheckFinite());
  ENGRAM_RETURN_IF_ERROR(ReadSeen());
  return State{.model = std::move(model_),
               .turns = std::move(turns_),
               .block = std::move(block_)};
}

absl::Status StateFileReader::CheckChecksum() const {
  std::map<std::string, absl::string_view> parts;
  for (const Range& range : ranges_) {
    parts[range.name] = {range.target, range.end - range.begin};
  }
  StateFileChecksum checksum;
  checksum.Add(header_.metadata);
  for (const auto& [name, bytes] : parts) checksum.Add(name, bytes);
  const std::string& told = header_.metadata.at(kChecksumKey);
  const std::string own = checksum.Finish();
  if (own == told) return absl::OkStatus();
  return RefuseStateFile(
      absl::StrCat("is damaged, or was changed: it has checksum ", Quoted(told),
                   ", and its content ", Quoted(own)));
}

absl::Status StateFileReader::CheckFinite() const {
  for (const Range& range : ranges_) {
    if (range.name == kSeenTokens) continue;
    const absl::Span<const float> values(
        reinterpret_cast<const float*>(range.target),
        (range.end - range.begin) / sizeof(float));
    const int64_t at = FirstNonFinite(values);
    if (at < 0) continue;
    return RefuseStateTensor(
        range.name,
        absl::StrCat("with ", values[at], " at ", at,
                     ": whatever was read, no state has such a value"));
  }
  return absl::OkStatus();
}

absl::Status StateFileReader::ReadSeen() {
  auto seen = std::make_shared<TokenSet>(model_.vocabulary_size);
  int64_t last = -1;
  for (const int32_t id : seen_) {
    if (id <= last || id >= model_.vocabulary_size) {
      return RefuseStateTensor(kSeenTokens,
                               absl::StrCat("with ", id, " after ", last,
                                            ": ids are to ascend within 0 to ",
                                            model_.vocabulary_size - 1));
    }
    seen->Insert(id);
    last = id;
  }
  turns_.seen = std::move(seen);
  return absl::OkStatus();
}

}  // namespace engram
