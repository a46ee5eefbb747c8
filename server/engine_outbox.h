// EngineOutbox: what an engine tells. It lies in the sequences' streams at
// once; the readers that wait for it are told together, when Deliver hands them
// to server/delivery.
//
// Engine thread only.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/delivery.h"
#include "server/request.h"
#include "server/token_stream.h"

namespace engram {

class EngineOutbox {
 public:
  // `delivery` must outlive this.
  explicit EngineOutbox(Delivery* delivery) : delivery_(delivery) {}

  void Tell(const std::shared_ptr<TokenStream>& stream,
            TokenStream::Item item) {
    if (stream->Push(std::move(item))) waiting_.push_back(stream);
  }
  // As TokenStream::End.
  void End(const std::shared_ptr<TokenStream>& stream, absl::Status status,
           const TurnFigures& figures) {
    if (stream->End(std::move(status), figures)) waiting_.push_back(stream);
  }

  void Deliver() {
    if (!waiting_.empty()) delivery_->Add(std::exchange(waiting_, {}));
  }

 private:
  Delivery* const delivery_;
  Delivery::Streams waiting_;  // whose readers wait for what they have
};

}  // namespace engram
