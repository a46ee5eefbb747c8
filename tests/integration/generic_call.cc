#include "tests/integration/generic_call.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/time/clock.h"
#include "kernels/status.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

std::shared_ptr<grpc::Channel> OpenOwnConnection(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace

struct GenericCall::Parts {
  Parts(const std::string& address, const std::string& method,
        const CallMetadata& metadata)
      : stub(OpenOwnConnection(address)) {
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    context.set_deadline(absl::ToChronoTime(absl::Now() + kTestLimit));
    stream = stub.PrepareCall(&context, method, &queue);
    stream->StartCall(nullptr);
    started = Await();
  }

  // The end of the one operation in flight; whether it went well.
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    ENGRAM_CHECK(queue.Next(&tag, &ok));
    return ok;
  }

  grpc::GenericStub stub;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
  bool started = false;
  bool finished = false;
};

GenericCall::GenericCall(const std::string& address, const std::string& method,
                         const CallMetadata& metadata)
    : parts_(std::make_unique<Parts>(address, method, metadata)) {}

GenericCall::~GenericCall() {
  if (!parts_->finished) {
    parts_->context.TryCancel();
    Finish().IgnoreError();
  }
  parts_->queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (parts_->queue.Next(&tag, &ok)) {
  }
}

bool GenericCall::Write(const google::protobuf::Message& request) {
  return WriteBytes(request.SerializeAsString());
}

bool GenericCall::WriteBytes(const std::string& bytes) {
  grpc::Slice slice(bytes);
  parts_->stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  return parts_->Await();
}

void GenericCall::WritesDone() {
  parts_->stream->WritesDone(nullptr);
  parts_->Await();
}

bool GenericCall::Read(google::protobuf::Message* response) {
  grpc::ByteBuffer buffer;
  parts_->stream->Read(&buffer, nullptr);
  if (!parts_->Await()) return false;
  std::vector<grpc::Slice> slices;
  ENGRAM_CHECK(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return response->ParseFromString(bytes);
}

absl::Status GenericCall::Finish() {
  grpc::Status status;
  parts_->stream->Finish(&status, nullptr);
  parts_->Await();
  parts_->finished = true;
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
}

absl::Status CallOnce(const std::string& address, const std::string& method,
                      const google::protobuf::Message& request,
                      google::protobuf::Message* response,
                      const CallMetadata& metadata) {
  GenericCall call(address, method, metadata);
  call.Write(request);
  call.WritesDone();
  call.Read(response);
  return call.Finish();
}

}  // namespace engram
