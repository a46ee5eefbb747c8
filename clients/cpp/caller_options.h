// As whom a client calls a server that wants to know.
#pragma once

#include <string>

namespace engram::client {

struct CallerOptions {
  // A file that holds a key and nothing else (api_key.h); every call shows it.
  // Empty: there is none.
  std::string api_key_file;
  // Whose sessions are meant, for operators, who may act for any tenant. Empty:
  // those of the key's own.
  std::string tenant;

  bool operator==(const CallerOptions&) const = default;
};

// What the environment variables ENGRAM_API_KEY_FILE and ENGRAM_TENANT say.
CallerOptions DefaultCaller();

}  // namespace engram::client
