#include "model/strict_json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/foreign_content.h"
#include "model/quoted.h"
#include "nlohmann/json.hpp"

namespace engram {
namespace {

constexpr size_t kDepthMax = 64;
constexpr size_t kValuesMax = 4'000'000;

// Walks the text without building anything; the first violation stops it.
class LimitChecker final : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& problem() const { return problem_; }

  bool null() override { return Value(); }
  bool boolean(bool) override { return Value(); }
  bool number_integer(int64_t) override { return Value(); }
  bool number_unsigned(uint64_t) override { return Value(); }
  bool number_float(double, const std::string&) override { return Value(); }
  bool string(std::string&) override { return Value(); }
  bool binary(nlohmann::json::binary_t&) override { return Value(); }
  bool start_object(size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(); }
  bool end_array() override { return Close(); }

  bool key(std::string& name) override {
    if (keys_.back().insert(name).second) return true;
    return Refuse(absl::StrCat("key ", Quoted(name), " is there twice"));
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    return Refuse(absl::StrCat("not JSON at byte ", position));
  }

 private:
  bool Value() {
    if (++values_ <= kValuesMax) return true;
    return Refuse(absl::StrCat("more than ", kValuesMax, " JSON values"));
  }

  bool Open() {
    if (keys_.size() == kDepthMax) {
      return Refuse(absl::StrCat("JSON nested deeper than ", kDepthMax));
    }
    keys_.emplace_back();
    return Value();
  }

  bool Close() {
    keys_.pop_back();
    return true;
  }

  bool Refuse(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  std::vector<std::set<std::string>> keys_;  // of each open object or array
  size_t values_ = 0;
  std::string problem_;
};

// Closes a file descriptor at the end of its scope.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               const std::string& file) {
  LimitChecker checker;
  if (!nlohmann::json::sax_parse(text, &checker)) {
    const std::string clause = ForeignContent(text);
    return absl::DataLossError(
        absl::StrCat(file, ": ", clause.empty() ? checker.problem() : clause));
  }
  nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (value.is_discarded()) {
    return absl::DataLossError(absl::StrCat(file, ": not JSON"));
  }
  return value;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          size_t bytes_max) {
  // Without O_NONBLOCK the open of a named pipe would wait for a writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.value < 0) {
    // A path that leads through a file leads to none.
    return absl::ErrnoToStatus(errno == ENOTDIR ? ENOENT : errno, path);
  }
  struct stat status;
  if (fstat(file.value, &status) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(status.st_mode)) {
    return absl::DataLossError(absl::StrCat(path, ": not a regular file"));
  }
  if (static_cast<uint64_t>(status.st_size) > bytes_max) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", status.st_size, " bytes, limit ", bytes_max));
  }
  std::string content(status.st_size, '\0');
  size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t got =
        read(file.value, content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, path);
    if (got == 0) break;
    filled += got;
  }
  content.resize(filled);
  return content;
}

}  // namespace engram
