#include "server/grpc_port.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/clock.h"
#include "server/connections.h"
#include "server/health_service.h"
#include "server/live_calls.h"
#include "server/log.h"
#include "server/rare_line.h"

namespace engram {
namespace {

// Enough for what reaches us through proxies; gRPC takes some 20 KB for each.
constexpr int64_t kDefaultConnections = 4096;

// After the deadline: for answers that are just on their way, then for gRPC to
// see the ends of what was cancelled, then for its clients to see that it
// stops.
constexpr absl::Duration kLateDelivery = absl::Milliseconds(250);
constexpr absl::Duration kEndOfCalls = absl::Milliseconds(250);
constexpr absl::Duration kGoodbye = absl::Milliseconds(500);

// A connection that has not said by then that it speaks HTTP/2 is closed.
constexpr absl::Duration kHandshakeLimit = absl::Seconds(20);

// What gRPC has to say, as events like any other.
void LogFromGrpc(gpr_log_func_args* arguments) {
  const std::string message = arguments->message;
  if (absl::StrContains(arguments->file, "ssl_transport_security")) {
    // A client that speaks no TLS, or is not believed, is no error of ours, and
    // whoever reaches the port can make handshakes fail.
    static RareLine line(RealClock());
    const std::optional<int64_t> untold = line.Note();
    if (!untold.has_value()) return;
    Log("tls_handshake_failed", {{"message", message}, {"untold", *untold}});
    return;
  }
  const LogLevel level = arguments->severity == GPR_LOG_SEVERITY_ERROR
                             ? LogLevel::kError
                             : LogLevel::kInfo;
  Log(level, "grpc",
      {{"message", message},
       {"source", absl::StrCat(arguments->file, ":", arguments->line)}});
}

// Of gRPC's own services, reflection and channelz, which keep a thread for each
// call: over it calls end with RESOURCE_EXHAUSTED. Ours need none of them.
constexpr int kThreadsOfStandardServices = 64;

// As gRPC takes times: 0 would mean something else, and INT_MAX is for ever.
int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::clamp<int64_t>(
      absl::ToInt64Milliseconds(duration), 1, std::numeric_limits<int>::max()));
}

// gRPC's plugin of reflection is there for all servers of a process.
class NoReflection final : public grpc::ServerBuilderOption {
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*
                         plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return plugin->name() == "proto_server_reflection";
    });
  }
};

void SetArguments(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(
      std::min<int64_t>(options.max_message_bytes, INT32_MAX)));
  builder->SetMaxSendMessageSize(-1);
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, static_cast<int>(options.max_streams)},
      {GRPC_ARG_MAX_CONNECTION_IDLE_MS,
       Milliseconds(options.max_connection_idle)},
      {GRPC_ARG_MAX_CONNECTION_AGE_MS,
       Milliseconds(options.max_connection_age)},
      {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
       Milliseconds(options.max_connection_age_grace)},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(kHandshakeLimit)},
      {GRPC_ARG_KEEPALIVE_TIME_MS, 60'000},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1}};
  for (const auto& [name, value] : arguments) {
    builder->AddChannelArgument(name, value);
  }
  // Each queue has a thread of its own among them, and else there is one queue
  // for each processor.
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetResourceQuota(
      grpc::ResourceQuota("engram").SetMaxThreads(kThreadsOfStandardServices));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcPort>> GrpcPort::Open(
    const ServerOptions& options,
    const std::shared_ptr<grpc::ServerCredentials>& credentials,
    const std::vector<std::unique_ptr<grpc::Service>>& services,
    AskToGoOn may_go_on) {
  gpr_set_log_function(LogFromGrpc);
  grpc::EnableDefaultHealthCheckService(false);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::channelz::experimental::InitChannelzService();

  std::unique_ptr<GrpcPort> port(new GrpcPort);
  ENGRAM_RETURN_IF_ERROR(port->Listen(options));
  Connections* const connections = port->connections_.get();
  port->calls_ = std::make_unique<LiveCalls>(
      [=](absl::string_view peer) { connections->CallBegan(peer); },
      [=](absl::string_view peer) { connections->CallEnded(peer); });

  grpc::ServerBuilder builder;
  SetArguments(options, &builder);
  for (const auto& service : services) builder.RegisterService(service.get());
  port->health_ = HealthService::Create();
  builder.RegisterService(port->health_->service());
  if (options.reflection == ReflectionMode::kOff) {
    builder.SetOption(std::make_unique<NoReflection>());
  }
  auto experimental = builder.experimental();
  std::vector<
      std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      factories;
  factories.push_back(port->calls_->MakeFactory());
  factories.push_back(
      std::make_unique<StandardCallGuard>(std::move(may_go_on)));
  experimental.SetInterceptorCreators(std::move(factories));
  port->acceptor_ = experimental.AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      credentials);
  port->server_ = builder.BuildAndStart();
  if (port->server_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve gRPC on ", options.grpc_address));
  }
  connections->Start([acceptor = port->acceptor_.get()](int descriptor) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters
        connection;
    connection.fd = descriptor;
    acceptor->HandleNewConnection(&connection);
  });
  return port;
}

absl::Status GrpcPort::Listen(const ServerOptions& options) {
  const int64_t most = ConnectionsThatFit();
  Connections::Options limits;
  limits.limit = options.max_connections;
  if (limits.limit == 0) limits.limit = std::min(most, kDefaultConnections);
  if (limits.limit > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-connections is ", limits.limit,
        ", and the limit of descriptors (ulimit -n) leaves room for ", most));
  }
  ENGRAM_ASSIGN_OR_RETURN(connections_,
                          Connections::Listen(options.grpc_address, limits));
  return absl::OkStatus();
}

GrpcPort::~GrpcPort() {
  if (server_ != nullptr) Close(absl::InfinitePast());
}

const std::string& GrpcPort::address() const { return connections_->address(); }

void GrpcPort::SetHealth(const std::string& service, bool serving) {
  health_->Set(service, serving);
}

void GrpcPort::Close(absl::Time deadline) {
  deadline = std::max(deadline, RealClock()->Now() + kLateDelivery);
  calls_->AwaitNone(LiveCalls::Of::kOurServices, deadline);
  // gRPC closes a connection as soon as its last call is over, and the kernel
  // then throws away what a client that still sends has not fetched.
  if (!connections_->AwaitSent(deadline)) connections_->BreakUnsent();
  connections_->Stop();
  calls_->EndAll("the server is stopping; try another one");
  calls_->AwaitNone(LiveCalls::Of::kAll, RealClock()->Now() + kEndOfCalls);
  // Each client is asked to go and closes its connection when it has read all
  // that came before; those that don't are left.
  server_->Shutdown(absl::ToChronoTime(RealClock()->Now() + kGoodbye));
  server_->Wait();
  server_ = nullptr;
}

}  // namespace engram
