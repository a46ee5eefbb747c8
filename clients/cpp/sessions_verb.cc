// engram sessions: what the server remembers.
#include <google/protobuf/util/time_util.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/verb.h"

namespace engram {
namespace {

constexpr VerbHelp kHelp = {
    "engram sessions (list | get ID | create [ID] | fork ID [NEW_ID] | delete "
    "ID...) [flags]",
    "Lists, shows, makes, copies and deletes sessions. A fork starts from the\n"
    "last turn that the other session completed. An id that is left out is\n"
    "made up by the server.",
    "  engram sessions list\n"
    "  engram sessions create mine --model mamba-english --label owner=me "
    "--ttl 2h\n"
    "  engram sessions fork mine another\n"
    "  engram sessions fork --from-checkpoint preface another\n"
    "  engram sessions delete mine another"};

struct SessionsFlags {
  void AddTo(FlagSet* flags) {
    flags->Add("model", "NAME", "list, create: this model's.", &model);
    flags->Add("label", "KEY=VALUE", "create: a label; repeatable.", &labels);
    flags->Add("ttl", "DURATION",
               "create: forget the session when it was idle for so long.",
               &time_to_live);
    flags->Add("from-checkpoint", "NAME",
               "create, fork: start from a checkpoint.", &from_checkpoint);
  }

  std::string model;
  std::vector<std::string> labels;
  absl::Duration time_to_live = absl::InfiniteDuration();
  std::string from_checkpoint;
};

std::string Describe(const v1::Session& session) {
  return absl::StrFormat(
      "%-32s %-20s %8d %10d %-7s %-5s %10d  %s", session.session_id(),
      session.model(), session.version(), session.position(),
      session.pending_token() ? "yes" : "no", session.tier(),
      session.state_bytes(),
      google::protobuf::util::TimeUtil::ToString(session.last_used_time()));
}

void PrintHeading() {
  absl::PrintF("%-32s %-20s %8s %10s %-7s %-5s %10s  %s\n", "session", "model",
               "version", "position", "pending", "tier", "bytes", "last used");
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
    if (!global_.json) PrintHeading();
    v1::ListSessionsRequest request;
    request.set_model(flags_.model);
    do {
      absl::StatusOr<v1::ListSessionsResponse> page =
          client_.ListSessions(request, call_);
      if (!page.ok()) return ReportError(page.status(), global_.server);
      if (global_.json) PrintJson(*page);
      for (const v1::Session& session : page->sessions()) {
        if (!global_.json) PrintText(absl::StrCat(Describe(session), "\n"));
      }
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    return kExitOk;
  }

  int Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return Show(client_.GetSession(request, call_));
  }

  int Create(const std::string& id) {
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    request.set_model(flags_.model);
    request.set_from_checkpoint(flags_.from_checkpoint);
    for (const std::string& label : flags_.labels) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(label, absl::MaxSplits('=', 1));
      (*request.mutable_labels())[parts.first] = parts.second;
    }
    if (flags_.time_to_live != absl::InfiniteDuration()) {
      *request.mutable_time_to_live() =
          google::protobuf::util::TimeUtil::NanosecondsToDuration(
              absl::ToInt64Nanoseconds(flags_.time_to_live));
    }
    return Show(client_.CreateSession(request, call_));
  }

  int Fork(const std::string& id, const std::string& new_id) {
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    request.set_new_session_id(new_id);
    request.set_from_checkpoint(flags_.from_checkpoint);
    return Show(client_.ForkSession(request, call_));
  }

  int Delete(absl::Span<const std::string> ids) {
    int exit_code = kExitOk;
    for (const std::string& id : ids) {
      v1::DeleteSessionRequest request;
      request.set_session_id(id);
      absl::StatusOr<v1::DeleteSessionResponse> response =
          client_.DeleteSession(request, call_);
      if (!response.ok()) {
        exit_code = ReportError(response.status(), global_.server);
      } else if (global_.json) {
        PrintJson(*response);
      }
    }
    return exit_code;
  }

 private:
  int Show(const absl::StatusOr<v1::Session>& session) {
    if (!session.ok()) return ReportError(session.status(), global_.server);
    if (global_.json) {
      PrintJson(*session);
    } else {
      PrintHeading();
      PrintText(absl::StrCat(Describe(*session), "\n"));
      for (const auto& [key, value] : session->labels()) {
        absl::PrintF("  label %s=%s\n", key, value);
      }
    }
    return kExitOk;
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
  for (const std::string& label : flags.labels) {
    if (label.find('=') == std::string::npos) {
      return arguments.Refuse(
          absl::StrCat("flag --label: '", label, "' is not KEY=VALUE"));
    }
  }

  std::vector<std::string> ids = arguments.positional();
  if (ids.empty()) return arguments.Refuse("what about the sessions?");
  const std::string action = ids[0];
  ids.erase(ids.begin());
  SessionsVerb verb(invocation.global, flags);
  if (action == "list" && ids.empty()) return verb.List();
  if (action == "get" && ids.size() == 1) return verb.Get(ids[0]);
  if (action == "create" && ids.size() <= 1) {
    return verb.Create(ids.empty() ? "" : ids[0]);
  }
  if (action == "fork" && !flags.from_checkpoint.empty() && ids.size() <= 1) {
    return verb.Fork("", ids.empty() ? "" : ids[0]);
  }
  if (action == "fork" && flags.from_checkpoint.empty() &&
      (ids.size() == 1 || ids.size() == 2)) {
    return verb.Fork(ids[0], ids.size() == 2 ? ids[1] : "");
  }
  if (action == "delete" && !ids.empty()) return verb.Delete(ids);

  const std::vector<std::string> actions = {"list", "get", "create", "fork",
                                            "delete"};
  const std::string closest = ClosestWord(action, actions);
  if (closest == action) {
    return arguments.Refuse(absl::StrCat("wrong number of ids for ", action));
  }
  return arguments.Refuse(absl::StrCat(
      "unknown action '", action, "'",
      closest.empty() ? "" : absl::StrCat("; did you mean ", closest, "?")));
}

}  // namespace engram
