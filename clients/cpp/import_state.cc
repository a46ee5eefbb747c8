#include "clients/cpp/import_state.h"

#include <memory>

#include "clients/cpp/cancellation.h"
#include "clients/cpp/input_file.h"
#include "clients/cpp/interrupt.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr size_t kPartBytes = 256 << 10;

absl::StatusOr<v1::ImportResponse> Send(const v1::ImportHeader& header,
                                        const std::string& name, Client* client,
                                        const CallOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<InputFile> file,
                          InputFile::Open(name));
  return client->Import(
      header, [&] { return file->Next(kPartBytes); }, options);
}

}  // namespace

int ImportState(const Invocation& invocation, const v1::ImportHeader& header,
                const std::string& file, Client* client,
                absl::FunctionRef<void(const v1::ImportResponse&)> show) {
  const GlobalFlags& global = invocation.global;
  Cancellation cancellation;
  InterruptScope scope(invocation.interrupt, &cancellation);
  const absl::StatusOr<v1::ImportResponse> response =
      Send(header, file, client,
           {.deadline = global.deadline, .cancellation = &cancellation});
  if (cancellation.cancelled()) return kExitInterrupted;
  return ShowResponse<v1::ImportResponse>(global, response, show);
}

}  // namespace engram::client
