// A call by the name of its method, without generated code: what a generic
// client does. Whether a method streams is for the caller to know.
//
// One thread only.
#pragma once

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace engram {

// Name and value of each entry.
using CallMetadata = std::vector<std::pair<std::string, std::string>>;

class GenericCall {
 public:
  // `method` is "/package.Service/Method". Over after kTestLimit, like every
  // call of a test.
  GenericCall(const std::string& address, const std::string& method,
              const CallMetadata& metadata = {});
  ~GenericCall();  // cancels what is still running

  bool Write(const google::protobuf::Message& request);
  bool WriteBytes(const std::string& bytes);
  void WritesDone();
  // False at the end of the stream.
  bool Read(google::protobuf::Message* response);
  // After Read was false.
  absl::Status Finish();

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

// One request, one response.
absl::Status CallOnce(const std::string& address, const std::string& method,
                      const google::protobuf::Message& request,
                      google::protobuf::Message* response,
                      const CallMetadata& metadata = {});

}  // namespace engram
