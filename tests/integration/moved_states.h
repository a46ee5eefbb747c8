// States that tests move as files from one server to another.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engram/v1/sessions.pb.h"

namespace engram {

inline constexpr char kImportMethod[] = "/engram.v1.Sessions/Import";

// The file of a session's state.
std::string Export(const std::string& address, const std::string& session_id);

v1::ImportRequest HeaderFor(const std::string& session_id,
                            bool replace = false);
v1::ImportRequest Part(const std::string& bytes);

// How an import ends of these messages and no more.
absl::StatusOr<v1::ImportResponse> Import(
    const std::string& address, const std::vector<v1::ImportRequest>& messages);
// The same of a whole file.
absl::StatusOr<v1::ImportResponse> Import(const std::string& address,
                                          const v1::ImportRequest& header,
                                          const std::string& file);

}  // namespace engram
