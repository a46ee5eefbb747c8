#include "clients/cpp/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

namespace engram {

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& server,
                                           bool own_connection) {
  grpc::ChannelArguments arguments;
  // A score of a long text is larger than gRPC's default of 4 MiB.
  arguments.SetMaxReceiveMessageSize(-1);
  // A server that vanished without closing the connection is noticed although
  // nothing is being sent, as during a long prompt.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // gRPC's own waits between connection attempts grow up to two minutes, and
  // calls fail at once in between. Ours are the ones that count.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, own_connection ? 1 : 0);
  arguments.SetUserAgentPrefix("engram");
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace engram
