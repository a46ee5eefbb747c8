#include "clients/cpp/api_key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

// Far more than any key, and a bound on what /dev/zero takes.
constexpr size_t kMostBytes = 4096;

absl::Status Wrong(const std::string& file, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the key file ", file, " ", why));
}

// All of it, if that is no more than a key can be; else a byte more.
absl::StatusOr<std::string> ReadSome(const std::string& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return Wrong(file, absl::StrCat("cannot be read: ", strerror(errno)));
  }
  const absl::Cleanup close_file = [&] { close(descriptor); };
  std::string text;
  // Room for the end of the line.
  while (text.size() <= kMostBytes + 2) {
    char bytes[kMostBytes];
    const ssize_t count = read(descriptor, bytes, sizeof(bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return Wrong(file, absl::StrCat("cannot be read: ", strerror(errno)));
    }
    if (count == 0) break;
    text.append(bytes, static_cast<size_t>(count));
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> ReadApiKey(const std::string& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadSome(file));
  absl::string_view key = text;
  if (absl::ConsumeSuffix(&key, "\n")) absl::ConsumeSuffix(&key, "\r");
  if (key.empty()) return Wrong(file, "is empty: it must hold a key");
  if (key.find('\n') != key.npos) {
    return Wrong(file,
                 "has several lines: it must hold one key and nothing else");
  }
  if (key.size() > kMostBytes) {
    return Wrong(file, absl::StrCat("has more than ", kMostBytes,
                                    " bytes: it must hold one key"));
  }
  // gRPC ends the process over metadata that HTTP/2 cannot carry.
  const auto wrong =
      std::find_if_not(key.begin(), key.end(), absl::ascii_isgraph);
  if (wrong != key.end()) {
    return Wrong(file, absl::StrCat("has a character that no key has: byte ",
                                    wrong - key.begin() + 1));
  }
  return std::string(key);
}

std::string ApiKeyWarning(const std::string& file) {
  struct stat found = {};
  if (stat(file.c_str(), &found) != 0 ||
      (found.st_mode & (S_IRGRP | S_IROTH)) == 0) {
    return "";
  }
  return absl::StrFormat(
      "the key file %s can be read by others (mode %03o): chmod 600 it", file,
      found.st_mode & 0777);
}

}  // namespace engram::client
