#include "tests/integration/moved_states.h"

#include <gtest/gtest.h>

#include "tests/integration/generic_call.h"

namespace engram {

// The file of a session's state.
std::string Export(const std::string& address, const std::string& session_id) {
  GenericCall call(address, "/engram.v1.Sessions/Export");
  v1::ExportRequest request;
  request.set_session_id(session_id);
  EXPECT_TRUE(call.Write(request));
  call.WritesDone();
  std::string file;
  v1::ExportResponse response;
  while (call.Read(&response)) file += response.data();
  const absl::Status status = call.Finish();
  EXPECT_TRUE(status.ok()) << status;
  return file;
}

v1::ImportRequest HeaderFor(const std::string& session_id, bool replace) {
  v1::ImportRequest request;
  request.mutable_header()->set_session_id(session_id);
  request.mutable_header()->set_replace(replace);
  return request;
}

v1::ImportRequest Part(const std::string& bytes) {
  v1::ImportRequest request;
  request.set_data(bytes);
  return request;
}

// How an import ends of these messages and no more.
absl::StatusOr<v1::ImportResponse> Import(
    const std::string& address,
    const std::vector<v1::ImportRequest>& messages) {
  GenericCall call(address, kImportMethod);
  for (const v1::ImportRequest& message : messages) {
    if (!call.Write(message)) break;
  }
  call.WritesDone();
  v1::ImportResponse response;
  const bool answered = call.Read(&response);
  const absl::Status status = call.Finish();
  if (!status.ok()) return status;
  EXPECT_TRUE(answered);
  return response;
}

absl::StatusOr<v1::ImportResponse> Import(const std::string& address,
                                          const v1::ImportRequest& header,
                                          const std::string& file) {
  const size_t middle = file.size() / 2;
  return Import(address, {header, Part(file.substr(0, middle)),
                          Part(file.substr(middle))});
}

}  // namespace engram
