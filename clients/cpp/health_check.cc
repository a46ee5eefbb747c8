#include "clients/cpp/health_check.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <vector>

#include "absl/time/clock.h"
#include "clients/cpp/channel.h"
#include "clients/cpp/server_address.h"

namespace engram {
namespace {

// Request and response have one field each, of number 1: on the wire they are
// what these standard messages are, which spares us a copy of their protocol.
using Request = google::protobuf::StringValue;
using Response = google::protobuf::Int32Value;

std::string Name(int status) {
  switch (status) {
    case 1:
      return "SERVING";
    case 2:
      return "NOT_SERVING";
    case 3:
      return "SERVICE_UNKNOWN";
    default:
      return "UNKNOWN";
  }
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::string> CheckHealth(const std::string& server,
                                        const std::string& service,
                                        absl::Duration deadline) {
  absl::StatusOr<std::string> address = ParseServerAddress(server);
  if (!address.ok()) return address.status();
  Request request;
  request.set_value(service);
  const grpc::Slice slice(request.SerializeAsString());
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::ClientContext context;
  if (deadline != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  }
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(OpenChannel(*address, /*own_connection=*/true));
  const auto call = stub.PrepareUnaryCall(
      &context, "/grpc.health.v1.Health/Check", sent, &queue);
  grpc::ByteBuffer received;
  grpc::Status status;
  call->StartCall();
  call->Finish(&received, &status, /*tag=*/nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }
  Response response;
  if (!response.ParseFromString(Bytes(received))) {
    return absl::InternalError("the answer of the health service is damaged");
  }
  return Name(response.value());
}

}  // namespace engram
