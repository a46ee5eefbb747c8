#include "server/unary_call.h"

#include <memory>
#include <utility>

#include "kernels/status.h"
#include "model/quoted.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/wire.h"

namespace engram {
namespace {

// Clear() would keep the memory.
void Free(google::protobuf::Message* message) {
  const std::unique_ptr<google::protobuf::Message> emptied(message->New());
  emptied->GetReflection()->Swap(emptied.get(), message);
}

}  // namespace

UnaryCallBase::UnaryCallBase(const CallSurroundings& around,
                             grpc::CallbackServerContext* context,
                             Caller caller, const grpc::ByteBuffer* message,
                             grpc::ByteBuffer* reply, const char* method)
    : around_(around),
      context_(context),
      caller_(std::move(caller)),
      message_(message),
      reply_(reply),
      method_(method),
      reservation_(&around.replies, context->peer()),
      work_(&around.threads) {}

void UnaryCallBase::Start(std::shared_ptr<UnaryCallBase> self) {
  {
    absl::MutexLock lock(&mutex_);
    self_ = self;
  }
  const grpc::ByteBuffer bytes = TakeBytes(message_);
  work_.Start(context_->peer(), bytes.Length(),
              [self = std::move(self), bytes](const absl::Status& status) {
                if (!status.ok()) return self->Answer(status, nullptr);
                self->Run(bytes);
              });
}

void UnaryCallBase::SetSubject(Subject subject) {
  subject_ = std::move(subject);
  // Of a client's making, and kept until the answer is read.
  subject_.session_id = Shortened(subject_.session_id);
}

void UnaryCallBase::OnCancel() {
  const absl::Status reason = CancelReason(*context_);
  work_.Cancel(reason);
  OnGone(reason);
}

void UnaryCallBase::OnDone() {
  unread_.Cancel();
  std::shared_ptr<UnaryCallBase> self;
  absl::MutexLock lock(&mutex_);
  self = std::move(self_);
  // Declared before the lock, so that what may be the last reference goes
  // after.
}

void UnaryCallBase::Answer(absl::Status status,
                           google::protobuf::Message* response, bool reported) {
  if (status.ok()) {
    status = WriteReply(*response);
    if (!status.ok()) reported = false;
  }
  // What waits for the client to read are the bytes alone.
  if (response != nullptr) Free(response);
  const size_t bytes = status.ok() ? reply_->Length() : 0;
  reservation_.Resize(static_cast<int64_t>(bytes)).IgnoreError();
  if (!reported) {
    around_.models.ReportAnswer(caller_, method_, subject_.model,
                                subject_.session_id, status);
  }
  {
    absl::MutexLock lock(&mutex_);
    if (self_ == nullptr) return;
    unread_.Set(absl::ToChronoTime(RealClock()->Now() +
                                   around_.options.slow_reader_timeout),
                [weak = std::weak_ptr<UnaryCallBase>(self_)](bool expired) {
                  if (!expired) return;
                  if (const auto call = weak.lock()) call->EndIfUnread();
                });
  }
  Finish(ToGrpc(status, context_));
}

absl::Status UnaryCallBase::WriteReply(
    const google::protobuf::Message& response) {
  const auto size = static_cast<int64_t>(response.ByteSizeLong());
  // The message is still there while its bytes are made.
  if (size > reservation_.bytes()) {
    ENGRAM_RETURN_IF_ERROR(reservation_.Resize(size));
  }
  return SerializeMessage(response, reply_);
}

// gRPC is done with a call once the transport has taken all of its answer,
// which it does as the client reads.
void UnaryCallBase::EndIfUnread() {
  absl::MutexLock lock(&mutex_);
  if (self_ == nullptr) return;  // it was read
  Log("reply_unread", {{"method", std::string(method_)},
                       {"peer", context_->peer()},
                       {"bytes", reservation_.bytes()}});
  context_->TryCancel();
}

}  // namespace engram
