// engram checkpoints: states with a name that sessions start from.
#include <utility>

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
    "engram checkpoints (list | create NAME --session ID | export NAME FILE | "
    "import FILE --checkpoint NAME | delete NAME...) [flags]",
    "Keeps what a session has read under a name, for any number of sessions\n"
    "and requests to start from (--from-checkpoint), at the cost of one "
    "state.\n"
    "A checkpoint never changes and stays until it is deleted; sessions that\n"
    "started from it stay too. The list cuts long names; --wide and --json do\n"
    "not. An exported state is a safetensors file, and import makes a "
    "checkpoint of\n"
    "one; FILE may be - for standard output or input.",
    "  engram generate --session reader --prompt-file preface.txt --max-tokens "
    "0\n"
    "  engram checkpoints create preface --session reader\n"
    "  engram generate --from-checkpoint preface --session mine --prompt "
    "'And'\n"
    "  engram score --from-checkpoint preface --text ' the end'\n"
    "  engram checkpoints list\n"
    "  engram checkpoints export preface preface.safetensors\n"
    "  engram checkpoints import preface.safetensors --checkpoint again\n"
    "  engram checkpoints delete preface",
    "list create export import delete"};

struct CheckpointsFlags {
  void AddTo(FlagSet* flags) {
    flags->Add("session", "ID", "create: of this session's last whole turn.",
               &session);
    flags->Add("checkpoint", "NAME", "import: as this checkpoint.",
               &checkpoint);
    flags->Add("label", "KEY=VALUE", "create, import: a label; repeatable.",
               &labels);
    flags->Add("model", "NAME", "list, import: this model's.", &model);
    flags->AddSwitch("replace",
                     "import: in place of the checkpoint of that name.",
                     &replace);
    flags->AddSwitch("wide",
                     "list: names, times and sizes in full, whatever the "
                     "width.",
                     &wide);
  }

  std::string session;
  std::string checkpoint;
  std::vector<std::string> labels;
  std::string model;
  bool replace = false;
  bool wide = false;
};

// A line of at most 79 characters, whatever the names are.
std::string Row(const v1::CheckpointInfo& checkpoint, absl::Time now) {
  return absl::StrFormat("%-25s %-19s %6d %8d %8s %8s\n",
                         Shortened(checkpoint.checkpoint_id(), 25),
                         Shortened(checkpoint.model(), 19),
                         checkpoint.version(), checkpoint.position(),
                         Bytes(checkpoint.state_bytes()),
                         Ago(ToTime(checkpoint.last_used_time()), now));
}

std::string Heading() {
  return absl::StrFormat("%-25s %-19s %6s %8s %8s %8s\n", "checkpoint", "model",
                         "turns", "tokens", "size", "used");
}

// Everything in full, in one line.
std::string WideRow(const v1::CheckpointInfo& checkpoint) {
  return absl::StrFormat(
      "%-32s %-20s %7d %10d %-7s %12d  %s  %s\n", checkpoint.checkpoint_id(),
      checkpoint.model(), checkpoint.version(), checkpoint.position(),
      checkpoint.pending_token() ? "yes" : "no", checkpoint.state_bytes(),
      FullTime(ToTime(checkpoint.create_time())),
      FullTime(ToTime(checkpoint.last_used_time())));
}

std::string WideHeading() {
  return absl::StrFormat("%-32s %-20s %7s %10s %-7s %12s  %-20s  %s\n",
                         "checkpoint", "model", "turns", "tokens", "pending",
                         "bytes", "made", "used");
}

void PrintCheckpoint(const v1::CheckpointInfo& checkpoint) {
  Print(
      absl::StrFormat("checkpoint  %s\n"
                      "model       %s\n"
                      "version     %d\n"
                      "tokens      %d fed%s\n"
                      "state       %s (%d bytes)\n"
                      "made        %s\n",
                      checkpoint.checkpoint_id(), checkpoint.model(),
                      checkpoint.version(), checkpoint.position(),
                      checkpoint.pending_token() ? " and one pending" : "",
                      Bytes(checkpoint.state_bytes()), checkpoint.state_bytes(),
                      FullTime(ToTime(checkpoint.create_time()))));
  for (const auto& [key, value] : checkpoint.labels()) {
    Print(absl::StrFormat("label       %s=%s\n", key, value));
  }
}

// One invocation of `checkpoints`, once its arguments are read.
class CheckpointsVerb {
 public:
  CheckpointsVerb(const GlobalFlags& global, const CheckpointsFlags& flags)
      : global_(global),
        flags_(flags),
        client_(MakeClientOptions(global)),
        call_({.deadline = global.deadline}) {}

  int List() {
    v1::ListCheckpointsRequest request;
    request.set_model(flags_.model);
    return ShowPages<v1::ListCheckpointsResponse, v1::ListCheckpointsRequest>(
        global_, std::move(request),
        [this](const v1::ListCheckpointsRequest& page) {
          return client_.ListCheckpoints(page, call_);
        },
        flags_.wide ? WideHeading() : Heading(),
        [this](const v1::ListCheckpointsResponse& response) {
          const absl::Time now = absl::Now();
          for (const v1::CheckpointInfo& one : response.checkpoints()) {
            Print(flags_.wide ? WideRow(one) : Row(one, now));
          }
        });
  }

  int Create(v1::CheckpointSessionRequest request, const std::string& name) {
    request.set_checkpoint_id(name);
    request.set_session_id(flags_.session);
    return ShowResponse<v1::CheckpointInfo>(
        global_, client_.CreateCheckpoint(request, call_), PrintCheckpoint);
  }

  int Export(const Invocation& invocation, const std::string& name,
             const std::string& file) {
    v1::ExportRequest request;
    request.set_checkpoint_id(name);
    return ExportState(invocation, request, file, &client_);
  }

  int Import(const Invocation& invocation, v1::ImportHeader header,
             const std::string& file) {
    header.set_checkpoint_id(flags_.checkpoint);
    header.set_model(flags_.model);
    header.set_replace(flags_.replace);
    return ImportState(invocation, header, file, &client_,
                       [](const v1::ImportResponse& response) {
                         PrintCheckpoint(response.checkpoint());
                       });
  }

  int Delete(absl::Span<const std::string> names) {
    return ShowOfEach<v1::DeleteCheckpointResponse>(
        global_, names, [this](const std::string& name) {
          v1::DeleteCheckpointRequest request;
          request.set_checkpoint_id(name);
          return client_.DeleteCheckpoint(request, call_);
        });
  }

 private:
  const GlobalFlags& global_;
  const CheckpointsFlags& flags_;
  Client client_;
  const CallOptions call_;
};

}  // namespace

int RunCheckpoints(Invocation invocation) {
  CheckpointsFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  v1::CheckpointSessionRequest create;
  const absl::Status read = ReadLabels(flags.labels, create.mutable_labels());
  if (!read.ok()) return arguments.Refuse(read.message());

  std::vector<std::string> names = arguments.positional();
  if (names.empty()) return arguments.Refuse("what about the checkpoints?");
  const std::string action = names[0];
  names.erase(names.begin());
  CheckpointsVerb verb(invocation.global, flags);
  if (action == "list" && names.empty()) return verb.List();
  if (action == "create" && names.size() == 1) {
    if (flags.session.empty()) {
      return arguments.Refuse("of which session? Give --session ID");
    }
    return verb.Create(std::move(create), names[0]);
  }
  if (action == "export" && names.size() == 2) {
    return verb.Export(invocation, names[0], names[1]);
  }
  if (action == "import" && names.size() == 1) {
    if (flags.checkpoint.empty()) {
      return arguments.Refuse("as which checkpoint? Give --checkpoint NAME");
    }
    v1::ImportHeader header;
    *header.mutable_labels() = create.labels();
    return verb.Import(invocation, std::move(header), names[0]);
  }
  if (action == "delete" && !names.empty()) return verb.Delete(names);

  return arguments.RefuseAction(action, "names");
}

}  // namespace engram::client
