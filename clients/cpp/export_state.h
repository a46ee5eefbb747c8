// What `engram sessions export` and `engram checkpoints export` do.
#pragma once

#include <string>

#include "clients/cpp/client.h"
#include "clients/cpp/verb.h"
#include "engram/v1/sessions.pb.h"

namespace engram::client {

// Writes the state to the file that is named, or to standard output for "-",
// and says how much. Returns the exit code. Ctrl-C leaves no file behind.
int ExportState(const Invocation& invocation, const v1::ExportRequest& request,
                const std::string& file, Client* client);

}  // namespace engram::client
