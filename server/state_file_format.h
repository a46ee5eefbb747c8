// What who writes a state file (server/state_file.h) and who reads one
// (server/state_file_reader.h) have in common.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/model_capacity.h"
#include "server/session_store.h"
#include "server/state_layout.h"

namespace engram {

inline constexpr char kStateFormat[] = "engram-state";
inline constexpr char kStateFormatVersion[] = "1";
inline constexpr char kStateDtype[] = "F32";
inline constexpr char kMetadataKey[] = "__metadata__";
inline constexpr char kChecksumKey[] = "checksum";
inline constexpr char kSeenTokens[] = "seen_tokens";

using StateFileMetadata = std::map<std::string, std::string>;

// The model that a state is of, or is to go on with.
struct StateFileModel {
  std::string name;
  int number = 0;  // SessionStore::AddModel
  std::string family;
  std::string weight_hash;
  std::string weight_format;
  int64_t vocabulary_size = 0;
  ModelCapacity capacity;
  StateLayout layout;
};

// All that a file of the model's state has to say, but for the checksum.
StateFileMetadata MetadataOf(const StateFileModel& model,
                             const CommittedTurns& turns);

absl::string_view BytesOf(const std::vector<int32_t>& ids);

// The checksum of what is added, in this order: the metadata, then each tensor
// by name. Thread-compatible.
class StateFileChecksum {
 public:
  StateFileChecksum();

  void Add(const StateFileMetadata& metadata);
  void Add(const std::string& name, absl::string_view bytes);
  // Once.
  std::string Finish();

 private:
  void Add(absl::string_view bytes);

  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace engram
