#include "server/session_pages.h"

#include "server/session.h"

namespace engram {
namespace {

// Sessions that are looked at while the lock is held once: some dozen
// microseconds of work.
constexpr size_t kListedPerLock = 128;

}  // namespace

SessionInfo DescribeSession(const SessionTable& table, const Session& session) {
  SessionInfo info;
  info.session_id = session.name.id;
  info.model = table.model_name(session.model);
  info.version = session.turns.version;
  info.position = session.turns.position;
  info.pending_token = session.turns.pending.has_value();
  info.tier = session.slot >= 0          ? "slot"
              : session.block != nullptr ? "ram"
                                         : "none";
  info.state_bytes = table.ledger().StateBytes(session);
  info.create_time = session.create_time;
  info.last_used_time = session.last_used;
  info.expire_time = session.last_used + session.time_to_live;
  info.labels = session.labels;
  return info;
}

bool ListSomeSessions(const SessionTable& table, const TenantHandle& tenant,
                      int model, size_t count, std::string* after,
                      std::vector<SessionInfo>* page) {
  // From one map or the other, which are alike.
  const auto list = [&](const auto& sessions) {
    size_t seen = 0;
    auto next = sessions.upper_bound(*after);
    for (; next != sessions.end() && count > 0 && seen < kListedPerLock;
         ++next, ++seen) {
      const Session& session = *next->second;
      *after = session.name.id;
      // One that its first turn has not committed yet is nobody's business.
      if (session.made_by_turn) continue;
      page->push_back(DescribeSession(table, session));
      --count;
    }
    return next != sessions.end();
  };
  const SessionTable::TenantSessions& sessions = table.sessions_of(tenant);
  if (model < 0) return list(sessions.by_id);
  if (sessions.by_model.empty()) return false;
  return list(sessions.by_model[model]);
}

}  // namespace engram
