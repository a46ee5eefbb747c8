#include "clients/cpp/export_state.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/human.h"
#include "clients/cpp/interrupt.h"
#include "clients/cpp/output_file.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

// The bytes of the file.
absl::StatusOr<int64_t> Write(const v1::ExportRequest& request,
                              const std::string& name, Client* client,
                              const CallOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file,
                          OutputFile::Create(name));
  int64_t bytes = 0;
  ENGRAM_RETURN_IF_ERROR(client->Export(
      request,
      [&](absl::string_view part) {
        bytes += static_cast<int64_t>(part.size());
        return file->Append(part);
      },
      options));
  ENGRAM_RETURN_IF_ERROR(file->Commit());
  return bytes;
}

}  // namespace

int ExportState(const Invocation& invocation, const v1::ExportRequest& request,
                const std::string& file, Client* client) {
  const GlobalFlags& global = invocation.global;
  Cancellation cancellation;
  InterruptScope scope(invocation.interrupt, &cancellation);
  const absl::StatusOr<int64_t> bytes =
      Write(request, file, client,
            {.deadline = global.deadline, .cancellation = &cancellation});
  if (cancellation.cancelled()) return kExitInterrupted;
  if (!bytes.ok()) return ReportError(bytes.status(), global);
  if (file != "-" && !global.json) {
    Print(absl::StrFormat("%s  %s (%d bytes)\n", file, Bytes(*bytes), *bytes));
  }
  return kExitOk;
}

}  // namespace engram::client
