// Connections to a server, with the settings that all our clients share.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace engram {

// `own_connection`: not shared with other channels of this process.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& server,
                                           bool own_connection = false);

}  // namespace engram
