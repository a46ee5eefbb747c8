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
// Of a std::shared_ptr's control block that lies before its value.
constexpr size_t kControlBytes = 16;

}  // namespace

size_t LabelBytes(const SessionLabels& labels) {
  return HeapBytes(sizeof(SessionLabels) + kControlBytes) +
         HeapBytesOf(labels);
}

StateBlock::StateBlock(size_t bytes)
    : size_(bytes), bytes_(new std::byte[bytes]) {}

size_t StateBlock::bytes() const { return HeapBytes(size_); }

size_t TurnRecord::bytes() const {
  return HeapBytes(sizeof(TurnRecord) + kControlBytes) +
         HeapBytesOf(request_id) + HeapBytesOf(started.session_id) +
         HeapBytesOf(started.request_id) + HeapBytesOf(tokens) +
         HeapBytesOf(logprobs) + HeapBytesOf(top);
}

absl::Span<const LogProbability> TurnRecord::TopOf(size_t index) const {
  const size_t each = top.size() / logprobs.size();
  absl::Span<const LogProbability> found =
      absl::MakeConstSpan(top).subspan(index * each, each);
  while (!found.empty() && found.back().id < 0) found.remove_suffix(1);
  return found;
}

size_t Session::own_bytes() const {
  size_t bytes = HeapBytes(sizeof(Session) + kControlBytes) + kEntryBytes +
                 HeapBytesOf(id) + label_bytes +
                 remembered.bytes();
  if (record != nullptr) bytes += record->bytes();
  if (turns.seen != nullptr) {
    bytes += HeapBytes(sizeof(TokenSet) + kControlBytes) +
             HeapBytes(turns.seen->bytes());
  }
  return bytes;
}

}  // namespace engram
