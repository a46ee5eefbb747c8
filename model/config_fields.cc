#include "model/config_fields.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status.h"
#include "model/strict_json.h"

namespace engram {
namespace {

using nlohmann::json;

// Python writes Infinity and NaN bare, which is not JSON. They are turned into
// the form that newer transformers write, {"__float__": "Infinity"}, outside
// of strings only.
std::string WrapBareNonFinite(std::string_view text) {
  std::string wrapped;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    bool bare = false;
    if (in_string) {
      if (text[i] == '\\' && i + 1 < text.size()) length = 2;
    } else {
      for (std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, word.size()) != word) continue;
        length = word.size();
        bare = true;
        break;
      }
    }
    if (text[i] == '"') in_string = !in_string;
    const std::string_view piece = text.substr(i, length);
    if (bare) {
      wrapped.append("{\"__float__\": \"").append(piece).append("\"}");
    } else {
      wrapped.append(piece);
    }
    i += length;
  }
  return wrapped;
}

}  // namespace

std::string ShownJson(const json& value) {
  const std::string text =
      value.dump(-1, ' ', true, json::error_handler_t::replace);
  constexpr size_t kShownBytes = 100;
  if (text.size() <= kShownBytes) return text;
  return absl::StrCat(text.substr(0, kShownBytes), "...");
}

absl::StatusOr<json> ParseConfigObject(std::string_view text,
                                       const std::string& file) {
  ENGRAM_ASSIGN_OR_RETURN(json value,
                          ParseStrictJson(WrapBareNonFinite(text), file));
  if (!value.is_object()) {
    return absl::DataLossError(absl::StrCat(file, ": not a JSON object"));
  }
  return value;
}

const json* ConfigFields::Find(const char* name) const {
  const auto found = object_.find(name);
  if (found == object_.end() || found->is_null()) return nullptr;
  return &*found;
}

std::string ConfigFields::ShownField(const char* name) const {
  const json* value = Find(name);
  return value == nullptr ? "missing" : ShownJson(*value);
}

absl::Status ConfigFields::Bad(const char* name,
                               const std::string& expected) const {
  return absl::DataLossError(absl::StrCat(
      file_, ": ", name, " is ", ShownField(name), ", expected ", expected));
}

absl::Status ConfigFields::Unsupported(const char* name,
                                       const char* supported) const {
  return absl::UnimplementedError(absl::StrCat(
      file_, ": ", name, " is ", ShownField(name), "; supported: ", supported));
}

absl::Status ConfigFields::RequireOneOf(
    const char* name, const std::vector<json>& supported) const {
  const json* value = Find(name);
  std::vector<std::string> shown;
  for (const json& one : supported) {
    if (value == nullptr || *value == one) return absl::OkStatus();
    shown.push_back(ShownJson(one));
  }
  return Unsupported(name, absl::StrJoin(shown, ", ").c_str());
}

absl::StatusOr<int64_t> ConfigFields::Integer(
    const char* name, int64_t low, int64_t high,
    std::optional<int64_t> missing) const {
  const json* value = Find(name);
  if (value == nullptr) {
    if (missing.has_value()) return *missing;
    return absl::DataLossError(absl::StrCat(file_, ": ", name, " is missing"));
  }
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() &&
                      value->get<uint64_t>() >
                          uint64_t{std::numeric_limits<int64_t>::max()}) &&
                    value->get<int64_t>() >= low &&
                    value->get<int64_t>() <= high;
  if (fits) return value->get<int64_t>();
  return Bad(name, absl::StrCat("an integer from ", low, " to ", high));
}

absl::StatusOr<double> ConfigFields::Number(const char* name, double low,
                                            double high, double missing) const {
  const json* value = Find(name);
  if (value == nullptr) return missing;
  const double number = value->is_number() ? value->get<double>() : 0;
  if (number >= low && number <= high) return number;
  return Bad(name, absl::StrCat("a number from ", low, " to ", high));
}

absl::StatusOr<std::optional<bool>> ConfigFields::Boolean(
    const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return Bad(name, "true or false");
  return std::optional<bool>(value->get<bool>());
}

absl::StatusOr<std::vector<int64_t>> ConfigFields::Layers(
    const char* name, int64_t layers) const {
  std::vector<int64_t> result;
  const json* list = Find(name);
  if (list == nullptr) return result;
  const std::string expected =
      absl::StrCat("a list of distinct layers from 0 to ", layers - 1);
  if (!list->is_array()) return Bad(name, expected);
  for (const json& layer : *list) {
    const bool fits = layer.is_number_unsigned() &&
                      layer.get<uint64_t>() < static_cast<uint64_t>(layers);
    if (!fits) return Bad(name, expected);
    result.push_back(layer.get<int64_t>());
  }
  std::sort(result.begin(), result.end());
  if (std::adjacent_find(result.begin(), result.end()) != result.end()) {
    return Bad(name, expected);
  }
  return result;
}

absl::StatusOr<int64_t> ConfigFields::RotaryDim(const char* name,
                                                int64_t head_dim) const {
  ENGRAM_ASSIGN_OR_RETURN(const int64_t dimensions,
                          Integer(name, 0, head_dim, 0));
  if (dimensions % 2 == 0) return dimensions;
  return Bad(name, absl::StrCat("an even number up to ", head_dim));
}

absl::StatusOr<ConfigFields> ConfigFields::Object(const char* name) const {
  static const json* const none = new json(json::object());
  const json* value = Find(name);
  if (value != nullptr && !value->is_object()) return Bad(name, "an object");
  return ConfigFields(absl::StrCat(file_, ": ", name),
                      value == nullptr ? *none : *value);
}

absl::StatusOr<std::vector<int32_t>> ConfigFields::TokenIds(
    const char* name, int64_t vocab, std::vector<std::string>* warnings) const {
  std::vector<int32_t> ids;
  const json* value = Find(name);
  if (value == nullptr) return ids;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    if (!id.is_number_integer()) {
      return Bad(name, absl::StrCat("token ids from 0 to ", vocab - 1));
    }
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() >= static_cast<uint64_t>(vocab)) {
      warnings->push_back(absl::StrCat(
          file_name(), ": ", name, " has ", ShownJson(id),
          ", which is ignored: the model has ids from 0 to ", vocab - 1));
      continue;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace engram
