#include "server/flag_values.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

bool HasFlag(const std::vector<std::string>& arguments,
             absl::string_view flag) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [flag](const std::string& argument) {
                       return argument.substr(0, argument.find('=')) == flag;
                     });
}

absl::Status BadUse(absl::string_view what, absl::string_view use) {
  return absl::InvalidArgumentError(absl::StrCat(what, "; ", use));
}

absl::StatusOr<std::map<std::string, std::string>> ReadFlagValues(
    const std::vector<std::string>& arguments,
    absl::Span<const absl::string_view> known, absl::string_view use) {
  std::map<std::string, std::string> values;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    const std::string flag = arguments[i].substr(0, equals);
    if (std::find(known.begin(), known.end(), flag) == known.end()) {
      return BadUse(absl::StrCat("unknown argument \"", arguments[i], "\""),
                    use);
    }
    std::string value;
    if (equals != std::string::npos) {
      value = arguments[i].substr(equals + 1);
    } else if (++i < arguments.size()) {
      value = arguments[i];
    }
    if (value.empty()) return BadUse(absl::StrCat(flag, " needs a value"), use);
    if (!values.emplace(flag.substr(2), std::move(value)).second) {
      return BadUse(absl::StrCat(flag, " is there twice"), use);
    }
  }
  return values;
}

}  // namespace engram
