#include "model/foreign_content.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/quoted.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

struct Known {
  std::string_view start;
  const char* clause;
};

constexpr Known kKnownStarts[] = {
    {"version https://git-lfs.github.com",
     "is a pointer of git-lfs, not the file itself; fetch it with "
     "`git lfs pull` in the folder, or download the file"},
    {"PK\x03\x04",
     "is a zip archive, as torch.save writes pickled weights; "
     "tools/convert/convert.py turns it into a folder that is served"},
    {"\x80\x02\x8a\x0al\xfc\x9c",
     "is a pickle in the format from before torch 1.6; save it again with a "
     "newer torch, then tools/convert/convert.py converts it"},
    {"\x80\x02",
     "is a Python pickle, which is never read; save the weights as "
     "safetensors (model.save_pretrained does)"},
    {"GGUF",
     "is a GGUF file for llama.cpp; download the model's safetensors instead"},
    {"\x89HDF", "is an HDF5 file (TensorFlow); download safetensors instead"},
    {"\x1f\x8b", "is compressed by gzip; unpack it"},
    {"\xfd"
     "7zXZ",
     "is compressed by xz; unpack it"},
    {"(\xb5/\xfd", "is compressed by zstd; unpack it"},
};

bool IsMarkup(std::string_view start) {
  const std::string text =
      absl::AsciiStrToLower(absl::StripLeadingAsciiWhitespace(
          absl::string_view(start.data(), start.size())));
  for (const char* tag : {"<!doctype", "<html", "<head", "<?xml", "<body"}) {
    if (absl::StartsWith(text, tag)) return true;
  }
  return false;
}

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool IsBrokenLink(const std::string& path) {
  std::error_code error;
  return fs::is_symlink(fs::symlink_status(path, error)) &&
         !fs::exists(path, error);
}

// Files beside the weights whose names end as those of weights do.
bool IsOfTraining(const std::string& name) {
  for (const char* start :
       {"training_args", "optimizer", "scheduler", "rng_state", "scaler",
        "model.safetensors", "model-"}) {
    if (absl::StartsWith(name, start)) return true;
  }
  return false;
}

// What a file of this name says, or "".
std::string ClauseOfName(const std::string& name) {
  if (IsOfTraining(name)) return "";
  if (name == "adapter_config.json" || name == "adapter_model.safetensors") {
    return "is an adapter (PEFT, LoRA) without its base model; merge them with "
           "merge_and_unload() and save_pretrained()";
  }
  if (name == "params.json" || absl::StartsWith(name, "consolidated")) {
    return absl::StrCat(
        "has ", Quoted(name),
        ", which belongs to the layout of mistral-inference; download the "
        "model in Hugging Face's layout (config.json, model*.safetensors)");
  }
  if (name == "snapshots") {
    return "is the root of a download cache; give the folder of a revision "
           "below its snapshots/ instead";
  }
  for (const char* pickle :
       {".bin.index.json", ".bin", ".pt", ".pth", ".ckpt"}) {
    if (!absl::EndsWith(name, pickle)) continue;
    return absl::StrCat(
        "has ", Quoted(name),
        "; pickled weights are not read by the server: "
        "`tools/convert/convert.py FOLDER NEW_FOLDER` converts them");
  }
  if (absl::EndsWith(name, ".gguf")) {
    return absl::StrCat("has ", Quoted(name),
                        ", a GGUF file for llama.cpp; "
                        "download the model's safetensors instead");
  }
  for (const char* other : {".h5", ".msgpack", ".onnx", ".tflite"}) {
    if (!absl::EndsWith(name, other)) continue;
    return absl::StrCat("has ", Quoted(name),
                        " of another framework; "
                        "download the model's safetensors instead");
  }
  if (absl::EndsWith(name, ".safetensors")) {
    return absl::StrCat("has ", Quoted(name),
                        "; if these are all the weights, rename it to "
                        "model.safetensors");
  }
  return "";
}

// What `folder` is instead of a model folder, or "".
std::string ForeignFolder(const std::string& folder) {
  std::string clause;
  for (const std::string& name : NamesIn(folder)) {
    if (IsBrokenLink(absl::StrCat(folder, "/", name))) {
      return absl::StrCat("has ", Quoted(name),
                          ", a link to a file that is not there (a download "
                          "that was moved or not completed)");
    }
    // Of several, what is told first is what is not the weights by their name.
    if (clause.empty()) clause = ClauseOfName(name);
  }
  return clause;
}

}  // namespace

std::string ForeignContent(std::string_view content) {
  constexpr size_t kStartBytes = 1024;
  const std::string_view start = content.substr(0, kStartBytes);
  for (const Known& known : kKnownStarts) {
    if (start.starts_with(known.start)) return known.clause;
  }
  if (IsMarkup(start)) {
    return "is a web page, not the file: the download met an error or a login; "
           "download it again";
  }
  if (start.starts_with("{\"error\"")) {
    return "is an error message of a download, not the file; download it again";
  }
  return "";
}

absl::Status NoModelFolder(const std::string& folder, const std::string& alone,
                           const std::string& what_is_not_there) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat(folder, ": no such folder"));
  }
  if (!fs::is_directory(status)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": is a file, expected the folder of a model"));
  }
  const std::string clause = ForeignFolder(folder);
  return absl::NotFoundError(
      clause.empty()
          ? absl::StrCat(folder, ": ", alone)
          : absl::StrCat(folder, ": ", clause, " (", what_is_not_there, ")"));
}

}  // namespace engram
