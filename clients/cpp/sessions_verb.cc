// engram sessions: what the server remembers.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clients/cpp/export_state.h"
#include "clients/cpp/human.h"
#include "clients/cpp/import_state.h"
#include "clients/cpp/session_text.h"
#include "clients/cpp/verb.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram sessions (list | get ID | create [ID] | fork ID [NEW_ID] | export "
    "ID FILE | import FILE --session ID | delete ID...) [flags]",
    "Lists, shows, makes, copies, exports, imports and deletes sessions. A "
    "fork\n"
    "starts from the last turn that the other session completed. An id that "
    "is\n"
    "left out is made up. The list cuts long ids; --wide and --json do not. "
    "An\n"
    "exported state is a safetensors file, and import makes a session of one,\n"
    "of this server or another, that goes on as the exported one would have;\n"
    "FILE may be - for standard output or input.",
    "  engram sessions list\n"
    "  engram sessions create mine --model mamba-english --label owner=me "
    "--ttl 2h\n"
    "  engram sessions fork mine another\n"
    "  engram sessions fork --from-checkpoint preface another\n"
    "  engram sessions export mine mine.safetensors\n"
    "  engram --server there sessions import mine.safetensors --session mine\n"
    "  engram sessions delete mine another",
    "list get create fork export import delete"};

struct SessionsFlags {
  void AddTo(FlagSet* flags) {
    flags->Add("model", "NAME", "list, create, import: this model's.", &model);
    flags->Add("label", "KEY=VALUE", "create, import: a label; repeatable.",
               &labels);
    flags->AddLimit("ttl",
                    "create, import: forget the session when it was idle for "
                    "so long.",
                    &time_to_live);
    flags->Add("session", "ID", "import: as this session.", &session);
    flags->AddSwitch("replace", "import: in place of the session of that id.",
                     &replace);
    flags->Add("from-checkpoint", "NAME",
               "create, fork: start from a checkpoint.", &from_checkpoint);
    flags->AddSwitch("wide",
                     "list: ids, times and sizes in full, whatever the width.",
                     &wide);
  }

  std::string model;
  std::vector<std::string> labels;
  absl::Duration time_to_live = absl::InfiniteDuration();
  std::string from_checkpoint;
  std::string session;
  bool replace = false;
  bool wide = false;
};

absl::Time ExpireTime(const v1::Session& session) {
  return session.has_expire_time() ? ToTime(session.expire_time())
                                   : absl::InfiniteFuture();
}

// A line of at most 79 characters, whatever the ids are.
std::string Row(const v1::Session& session, absl::Time now) {
  return absl::StrFormat(
      "%-21s %-15s %6d %8d %8s %8s %s\n", Shortened(session.session_id(), 21),
      Shortened(session.model(), 15), session.version(), session.position(),
      Bytes(session.state_bytes()), Ago(ToTime(session.last_used_time()), now),
      Until(ExpireTime(session), now));
}

std::string Heading() {
  return absl::StrFormat("%-21s %-15s %6s %8s %8s %8s %s\n", "session", "model",
                         "turns", "tokens", "size", "used", "expires");
}

// Everything in full, in one line.
std::string WideRow(const v1::Session& session) {
  return absl::StrFormat(
      "%-32s %-20s %7d %10d %-7s %-5s %12d  %s  %s\n", session.session_id(),
      session.model(), session.version(), session.position(),
      session.pending_token() ? "yes" : "no", session.tier(),
      session.state_bytes(), FullTime(ToTime(session.last_used_time())),
      FullTime(ExpireTime(session)));
}

std::string WideHeading() {
  return absl::StrFormat("%-32s %-20s %7s %10s %-7s %-5s %12s  %-20s  %s\n",
                         "session", "model", "turns", "tokens", "pending",
                         "tier", "bytes", "used", "expires");
}

std::string TierText(const std::string& tier) {
  if (tier == "slot") return "in a slot";
  if (tier == "ram") return "in RAM";
  return "before the first turn";
}

void PrintSession(const v1::Session& session) {
  const absl::Time now = absl::Now();
  const absl::Time used = ToTime(session.last_used_time());
  const absl::Time expires = ExpireTime(session);
  Print(absl::StrFormat(
      "session  %s\n"
      "model    %s\n"
      "version  %d\n"
      "tokens   %d fed%s\n"
      "state    %s (%d bytes), %s\n"
      "made     %s\n"
      "used     %s (%s)\n"
      "expires  %s%s\n",
      session.session_id(), session.model(), session.version(),
      session.position(), session.pending_token() ? " and one pending" : "",
      Bytes(session.state_bytes()), session.state_bytes(),
      TierText(session.tier()), FullTime(ToTime(session.create_time())),
      FullTime(used), Ago(used, now), FullTime(expires),
      expires == absl::InfiniteFuture()
          ? ""
          : absl::StrCat(" (", Until(expires, now), ")")));
  for (const auto& [key, value] : session.labels()) {
    Print(absl::StrFormat("label    %s=%s\n", key, value));
  }
}

// One invocation of `sessions`, once its arguments are read.
class SessionsVerb {
 public:
  SessionsVerb(const GlobalFlags& global, const SessionsFlags& flags)
      : global_(global),
        flags_(flags),
        client_(MakeClientOptions(global)),
        call_({.deadline = global.deadline}) {}

  int List() {
    v1::ListSessionsRequest request;
    request.set_model(flags_.model);
    return ShowPages<v1::ListSessionsResponse, v1::ListSessionsRequest>(
        global_, std::move(request),
        [this](const v1::ListSessionsRequest& page) {
          return client_.ListSessions(page, call_);
        },
        flags_.wide ? WideHeading() : Heading(),
        [this](const v1::ListSessionsResponse& response) {
          const absl::Time now = absl::Now();
          for (const v1::Session& session : response.sessions()) {
            Print(flags_.wide ? WideRow(session) : Row(session, now));
          }
        });
  }

  int Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return Show(client_.GetSession(request, call_));
  }

  int Create(v1::CreateSessionRequest request, const std::string& id) {
    request.set_session_id(id);
    request.set_model(flags_.model);
    request.set_from_checkpoint(flags_.from_checkpoint);
    SetTimeToLive(&request);
    return Show(client_.CreateSession(request, call_));
  }

  int Fork(const std::string& id, const std::string& new_id) {
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    request.set_new_session_id(new_id);
    request.set_from_checkpoint(flags_.from_checkpoint);
    return Show(client_.ForkSession(request, call_));
  }

  int Export(const Invocation& invocation, const std::string& id,
             const std::string& file) {
    v1::ExportRequest request;
    request.set_session_id(id);
    return ExportState(invocation, request, file, &client_);
  }

  int Import(const Invocation& invocation, v1::ImportHeader header,
             const std::string& file) {
    header.set_session_id(flags_.session);
    header.set_model(flags_.model);
    header.set_replace(flags_.replace);
    SetTimeToLive(&header);
    return ImportState(invocation, header, file, &client_,
                       [](const v1::ImportResponse& response) {
                         PrintSession(response.session());
                       });
  }

  int Delete(absl::Span<const std::string> ids) {
    return ShowOfEach<v1::DeleteSessionResponse>(
        global_, ids, [this](const std::string& id) {
          v1::DeleteSessionRequest request;
          request.set_session_id(id);
          return client_.DeleteSession(request, call_);
        });
  }

 private:
  // Of a session that is made, if it was given.
  template <typename Request>
  void SetTimeToLive(Request* request) const {
    absl::Duration rest = flags_.time_to_live;
    if (rest == absl::InfiniteDuration()) return;
    google::protobuf::Duration& life = *request->mutable_time_to_live();
    life.set_seconds(absl::IDivDuration(rest, absl::Seconds(1), &rest));
    life.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  }

  int Show(const absl::StatusOr<v1::Session>& session) {
    return ShowResponse<v1::Session>(global_, session, PrintSession);
  }

  const GlobalFlags& global_;
  const SessionsFlags& flags_;
  Client client_;
  const CallOptions call_;
};

}  // namespace

int RunSessions(Invocation invocation) {
  SessionsFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  v1::CreateSessionRequest create;
  const absl::Status read = ReadLabels(flags.labels, create.mutable_labels());
  if (!read.ok()) return arguments.Refuse(read.message());

  std::vector<std::string> ids = arguments.positional();
  if (ids.empty()) return arguments.Refuse("what about the sessions?");
  const std::string action = ids[0];
  ids.erase(ids.begin());
  SessionsVerb verb(invocation.global, flags);
  if (action == "list" && ids.empty()) return verb.List();
  if (action == "get" && ids.size() == 1) return verb.Get(ids[0]);
  if (action == "create" && ids.size() <= 1) {
    return verb.Create(std::move(create), ids.empty() ? "" : ids[0]);
  }
  if (action == "fork" && !flags.from_checkpoint.empty() && ids.size() <= 1) {
    return verb.Fork("", ids.empty() ? "" : ids[0]);
  }
  if (action == "fork" && flags.from_checkpoint.empty() &&
      (ids.size() == 1 || ids.size() == 2)) {
    return verb.Fork(ids[0], ids.size() == 2 ? ids[1] : "");
  }
  if (action == "export" && ids.size() == 2) {
    return verb.Export(invocation, ids[0], ids[1]);
  }
  if (action == "import" && ids.size() == 1) {
    if (flags.session.empty()) {
      return arguments.Refuse("as which session? Give --session ID");
    }
    v1::ImportHeader header;
    *header.mutable_labels() = create.labels();
    return verb.Import(invocation, std::move(header), ids[0]);
  }
  if (action == "delete" && !ids.empty()) return verb.Delete(ids);

  return arguments.RefuseAction(action, "ids");
}

}  // namespace engram::client
