#include "server/session.h"

#include <memory>
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

SessionHandle MakeSession(NewSession created, absl::Duration time_to_live) {
  auto session = std::make_shared<Session>(std::move(created.name));
  session->model = created.model;
  session->labels =
      std::make_shared<const SessionLabels>(std::move(created.labels));
  session->label_bytes = LabelBytes(*session->labels);
  session->time_to_live = created.time_to_live.value_or(time_to_live);
  return session;
}

void Session::StartFrom(const CommittedTurns& start,
                        std::shared_ptr<const StateBlock> state) {
  turns = start;
  remembered = RememberedTurns(start.version);
  block = std::move(state);
}

size_t LabelBytes(const SessionLabels& labels) {
  return SharedBytes<SessionLabels>() + HeapBytesOf(labels);
}

size_t Session::own_bytes() const {
  size_t bytes = SharedBytes<Session>() + kEntryBytes + HeapBytesOf(name.id) +
                 label_bytes + remembered.bytes();
  // The idle ones in slots are listed by tenant too.
  if (slot >= 0) bytes += kTreeEntryBytes<int64_t, Session*>;
  if (record != nullptr) bytes += record->bytes();
  if (turns.seen != nullptr) {
    bytes += SharedBytes<TokenSet>() + HeapBytes(turns.seen->bytes());
  }
  return bytes;
}

}  // namespace engram
