// Messages as bytes: every method of ours takes and gives them so, because gRPC
// answers one that it cannot decode with UNIMPLEMENTED and not a word, or takes
// it for the end of a stream.
//
// Thread-safe: pure functions.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace engram {

// INVALID_ARGUMENT names the field and the place that is no message of this
// type, or no UTF-8.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message* message);

// The bytes of a call's message: shared, not copied, and freed when they have
// been read. `message` is left empty, for gRPC would keep it to the call's end.
grpc::ByteBuffer TakeBytes(const grpc::ByteBuffer* message);

// INTERNAL: it is longer than a message may be.
absl::Status SerializeMessage(const google::protobuf::Message& message,
                              grpc::ByteBuffer* bytes);

}  // namespace engram
