// What `engram sessions import` and `engram checkpoints import` do.
#pragma once

#include <string>

#include "absl/functional/function_ref.h"
#include "clients/cpp/client.h"
#include "clients/cpp/verb.h"
#include "engram/v1/sessions.pb.h"

namespace engram::client {

// Sends the file that is named, or standard input for "-", and shows what
// became of it. Returns the exit code. After Ctrl-C the server keeps nothing.
int ImportState(const Invocation& invocation, const v1::ImportHeader& header,
                const std::string& file, Client* client,
                absl::FunctionRef<void(const v1::ImportResponse&)> show);

}  // namespace engram::client
