#include "server/session.h"

#include <utility>

#include "absl/strings/string_view.h"
#include "server/footprint.h"

namespace engram {
namespace {

// A session's entries in the store's maps: by id in all and in its model's, by
// use, by expiry.
constexpr size_t kEntryBytes =
    kTreeEntryBytes<absl::string_view, SessionHandle> +
    kTreeEntryBytes<absl::string_view, Session*> +
    kTreeEntryBytes<int64_t, Session*> +
    kTreeEntryBytes<std::pair<absl::Time, int64_t>, Session*>;

}  // namespace

size_t LabelBytes(const SessionLabels& labels) {
  return SharedBytes<SessionLabels>() + HeapBytesOf(labels);
}

size_t Session::own_bytes() const {
  size_t bytes = SharedBytes<Session>() + kEntryBytes + HeapBytesOf(id) +
                 label_bytes + remembered.bytes();
  if (record != nullptr) bytes += record->bytes();
  if (turns.seen != nullptr) {
    bytes += SharedBytes<TokenSet>() + HeapBytes(turns.seen->bytes());
  }
  return bytes;
}

}  // namespace engram
