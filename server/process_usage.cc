#include "server/process_usage.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace engram {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// When the machine was started, in seconds since 1970.
double BootTime() {
  const std::string text = ReadFile("/proc/stat");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    double seconds = 0;
    if (words.size() == 2 && words[0] == "btime" &&
        absl::SimpleAtod(words[1], &seconds)) {
      return seconds;
    }
  }
  return 0;
}

// The fields of /proc/self/stat from the third on: the second is the program's
// name in brackets, in which anything may stand. See proc(5).
std::vector<std::string> StatFields() {
  const std::string text = ReadFile("/proc/self/stat");
  const size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return {};
  return absl::StrSplit(absl::string_view(text).substr(end_of_name + 1), ' ',
                        absl::SkipEmpty());
}

int64_t CountDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int64_t count = -1;  // that of the folder itself
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(folder);
  return count;
}

int64_t MaxDescriptors() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur == RLIM_INFINITY) {
    return std::numeric_limits<int64_t>::max();
  }
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace

ProcessUsage ReadProcessUsage() {
  ProcessUsage usage;
  usage.open_descriptors = CountDescriptors();
  usage.max_descriptors = MaxDescriptors();
  const std::vector<std::string> fields = StatFields();
  // By the numbers of proc(5), which counts from 1.
  const auto field = [&](size_t number) {
    int64_t value = 0;
    if (number - 3 >= fields.size() ||
        !absl::SimpleAtoi(fields[number - 3], &value)) {
      return int64_t{0};
    }
    return value;
  };
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  usage.cpu_seconds = static_cast<double>(field(14) + field(15)) / ticks;
  usage.threads = field(20);
  // Read once: the kernel's answer moves when the clock is set.
  static const double boot_time = BootTime();
  usage.start_time_seconds = boot_time + static_cast<double>(field(22)) / ticks;
  usage.virtual_bytes = field(23);
  usage.resident_bytes = field(24) * sysconf(_SC_PAGESIZE);
  return usage;
}

}  // namespace engram
