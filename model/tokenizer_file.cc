#include "model/tokenizer_file.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/strict_json.h"

namespace engram {
namespace {

using Json = nlohmann::json;

template <typename... Parts>
absl::Status Damaged(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat("tokenizer.json: ", parts...));
}

template <typename... Parts>
absl::Status NotUnderstood(const Parts&... parts) {
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: ", parts..., " is not supported"));
}

// A value with its place in the file, for messages.
struct Node {
  const Json* json;  // nullptr: absent
  std::string path;

  bool IsNull() const { return json == nullptr || json->is_null(); }
};

Node Child(const Node& parent, const std::string& key) {
  const std::string path =
      parent.path.empty() ? key : absl::StrCat(parent.path, ".", key);
  const auto found = parent.json->find(key);
  if (found == parent.json->end()) return {nullptr, path};
  return {&*found, path};
}

Node Element(const Node& parent, size_t index) {
  return {&(*parent.json)[index], absl::StrCat(parent.path, "[", index, "]")};
}

absl::Status CheckObject(const Node& node) {
  if (node.json == nullptr) return Damaged(node.path, " is missing");
  if (!node.json->is_object()) return Damaged(node.path, " is not an object");
  return absl::OkStatus();
}

absl::Status CheckArray(const Node& node) {
  if (node.json == nullptr) return Damaged(node.path, " is missing");
  if (!node.json->is_array()) return Damaged(node.path, " is not an array");
  return absl::OkStatus();
}

// A setting that somebody added to the format later might change ids.
absl::Status CheckKeys(const Node& object,
                       std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.json->items()) {
    const bool is_known =
        std::find(known.begin(), known.end(), key) != known.end();
    if (!is_known && !value.is_null()) {
      return NotUnderstood("setting ", Quoted(Child(object, key).path));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadString(const Node& node) {
  if (node.json == nullptr) return Damaged(node.path, " is missing");
  const auto* value = node.json->get_ptr<const Json::string_t*>();
  if (value == nullptr) return Damaged(node.path, " is not a string");
  return *value;
}

absl::StatusOr<bool> ReadBool(const Node& node) {
  if (node.json == nullptr) return Damaged(node.path, " is missing");
  const auto* value = node.json->get_ptr<const Json::boolean_t*>();
  if (value == nullptr) return Damaged(node.path, " is not true or false");
  return *value;
}

absl::StatusOr<bool> ReadBoolOr(const Node& node, bool absent) {
  if (node.IsNull()) return absent;
  return ReadBool(node);
}

absl::StatusOr<int32_t> ReadId(const Node& node) {
  if (node.json == nullptr) return Damaged(node.path, " is missing");
  const auto* value = node.json->get_ptr<const Json::number_unsigned_t*>();
  if (value == nullptr) return Damaged(node.path, " is not an id");
  if (*value >= static_cast<uint64_t>(TokenizerFile::kIdsMax)) {
    return Damaged(node.path, " is ", *value, ", limit ",
                   TokenizerFile::kIdsMax - 1);
  }
  return static_cast<int32_t>(*value);
}

absl::StatusOr<std::string> ReadType(const Node& node) {
  ENGRAM_RETURN_IF_ERROR(CheckObject(node));
  return ReadString(Child(node, "type"));
}

absl::Status CheckFalse(const Node& node) {
  ENGRAM_ASSIGN_OR_RETURN(const bool value, ReadBoolOr(node, false));
  return value ? NotUnderstood(node.path, " = true") : absl::OkStatus();
}

// Null, or "", which older files have for "none".
absl::Status CheckEmpty(const Node& node) {
  if (node.IsNull()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::string value, ReadString(node));
  return value.empty() ? absl::OkStatus() : NotUnderstood(node.path);
}

absl::Status CheckNoDropout(const Node& node) {
  if (node.IsNull()) return absl::OkStatus();
  if (!node.json->is_number()) return Damaged(node.path, " is not a number");
  return *node.json == 0 ? absl::OkStatus() : NotUnderstood(node.path);
}

// The parts of a node {"type": "Sequence", `list`: [...]}, or the node itself.
absl::StatusOr<std::vector<Node>> Parts(const Node& node,
                                        const std::string& list) {
  if (node.IsNull()) return std::vector<Node>();
  ENGRAM_ASSIGN_OR_RETURN(const std::string type, ReadType(node));
  if (type != "Sequence") return std::vector<Node>{node};
  ENGRAM_RETURN_IF_ERROR(CheckKeys(node, {"type", list}));
  const Node array = Child(node, list);
  ENGRAM_RETURN_IF_ERROR(CheckArray(array));
  std::vector<Node> parts;
  for (size_t i = 0; i < array.json->size(); ++i) {
    parts.push_back(Element(array, i));
  }
  return parts;
}

absl::Status ReadNormalizer(const Node& normalizer, TokenizerFile* file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Node> parts,
                          Parts(normalizer, "normalizers"));
  for (const Node& part : parts) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string type, ReadType(part));
    if (type != "NFC")
      return NotUnderstood(part.path, " of type ", Quoted(type));
    ENGRAM_RETURN_IF_ERROR(CheckKeys(part, {"type"}));
    file->normalize_nfc = true;
  }
  return absl::OkStatus();
}

absl::Status ReadByteLevelSplitter(const Node& splitter, TokenizerFile* file) {
  ENGRAM_RETURN_IF_ERROR(CheckKeys(
      splitter, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  ENGRAM_ASSIGN_OR_RETURN(file->add_prefix_space,
                          ReadBool(Child(splitter, "add_prefix_space")));
  ENGRAM_ASSIGN_OR_RETURN(file->split_words,
                          ReadBoolOr(Child(splitter, "use_regex"), true));
  return absl::OkStatus();
}

// Each kind of model goes with one kind of splitter.
absl::Status ReadSplitter(const Node& splitter, TokenizerFile* file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Node> parts,
                          Parts(splitter, "pretokenizers"));
  if (parts.size() != 1) {
    return NotUnderstood(splitter.path, " of ", parts.size(), " parts");
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string type, ReadType(parts[0]));
  if (type == "ByteLevel" && file->kind == TokenizerFile::Kind::kByteLevelBpe) {
    return ReadByteLevelSplitter(parts[0], file);
  }
  if (type == "WhitespaceSplit" &&
      file->kind == TokenizerFile::Kind::kWordLevel) {
    return CheckKeys(parts[0], {"type"});
  }
  return NotUnderstood(parts[0].path, " of type ", Quoted(type),
                       " with this type of model");
}

// A template such as {"single": [{"Sequence": {"id": "A"}}]} adds nothing; what
// it says of pairs of texts does not matter here. Others add special tokens to
// what a call without add_special_tokens=False gives; here none are ever added.
absl::Status CheckTemplate(const Node& processor, TokenizerFile* file) {
  ENGRAM_RETURN_IF_ERROR(
      CheckKeys(processor, {"type", "single", "pair", "special_tokens"}));
  const Node single = Child(processor, "single");
  ENGRAM_RETURN_IF_ERROR(CheckArray(single));
  int sequences = 0;
  for (size_t i = 0; i < single.json->size(); ++i) {
    const Node part = Element(single, i);
    ENGRAM_RETURN_IF_ERROR(CheckObject(part));
    ENGRAM_RETURN_IF_ERROR(CheckKeys(part, {"Sequence", "SpecialToken"}));
    sequences += part.json->contains("Sequence") ? 1 : 0;
  }
  if (sequences != 1) {
    return NotUnderstood(single.path, " with ", sequences, " texts");
  }
  if (single.json->size() > 1) {
    file->warnings.push_back(absl::StrCat(
        "tokenizer.json: ", single.path,
        " adds special tokens to a text; here none are added, a request may "
        "write them itself with parse_special_tokens"));
  }
  return absl::OkStatus();
}

absl::Status CheckPostProcessor(const Node& processor, TokenizerFile* file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Node> parts,
                          Parts(processor, "processors"));
  for (const Node& part : parts) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string type, ReadType(part));
    if (type == "TemplateProcessing") {
      ENGRAM_RETURN_IF_ERROR(CheckTemplate(part, file));
    } else if (type != "ByteLevel") {
      return NotUnderstood(part.path, " of type ", Quoted(type));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDecoder(const Node& decoder, const TokenizerFile& file) {
  if (decoder.IsNull()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::string type, ReadType(decoder));
  if (type == "ByteLevel" && file.kind == TokenizerFile::Kind::kByteLevelBpe) {
    return absl::OkStatus();
  }
  return NotUnderstood(decoder.path, " of type ", Quoted(type));
}

absl::StatusOr<AddedToken> ReadAddedToken(const Node& node) {
  ENGRAM_RETURN_IF_ERROR(CheckObject(node));
  ENGRAM_RETURN_IF_ERROR(
      CheckKeys(node, {"id", "content", "special", "normalized", "lstrip",
                       "rstrip", "single_word"}));
  AddedToken token;
  ENGRAM_ASSIGN_OR_RETURN(token.id, ReadId(Child(node, "id")));
  ENGRAM_ASSIGN_OR_RETURN(token.content, ReadString(Child(node, "content")));
  if (token.content.empty()) return Damaged(node.path, " has no content");
  ENGRAM_ASSIGN_OR_RETURN(token.special, ReadBool(Child(node, "special")));
  ENGRAM_ASSIGN_OR_RETURN(token.normalized,
                          ReadBool(Child(node, "normalized")));
  ENGRAM_ASSIGN_OR_RETURN(token.strip_left, ReadBool(Child(node, "lstrip")));
  ENGRAM_ASSIGN_OR_RETURN(token.strip_right, ReadBool(Child(node, "rstrip")));
  ENGRAM_ASSIGN_OR_RETURN(token.single_word,
                          ReadBool(Child(node, "single_word")));
  return token;
}

absl::Status ReadAddedTokens(const Node& list, TokenizerFile* file) {
  if (list.IsNull()) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(CheckArray(list));
  for (size_t i = 0; i < list.json->size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(Element(list, i)));
    file->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const Node& vocabulary, TokenizerFile* file) {
  ENGRAM_RETURN_IF_ERROR(CheckObject(vocabulary));
  file->vocabulary.reserve(vocabulary.json->size());
  for (const auto& [token, value] : vocabulary.json->items()) {
    ENGRAM_ASSIGN_OR_RETURN(const int32_t id,
                            ReadId({&value, absl::StrCat(vocabulary.path, "[",
                                                         Quoted(token), "]")}));
    file->vocabulary.emplace_back(token, id);
  }
  return absl::OkStatus();
}

// A merge is "a b", or ["a", "b"] in newer files.
absl::StatusOr<std::pair<std::string, std::string>> ReadMerge(
    const Node& merge) {
  if (merge.json->is_array() && merge.json->size() == 2) {
    ENGRAM_ASSIGN_OR_RETURN(std::string left, ReadString(Element(merge, 0)));
    ENGRAM_ASSIGN_OR_RETURN(std::string right, ReadString(Element(merge, 1)));
    return std::make_pair(std::move(left), std::move(right));
  }
  if (const auto* text = merge.json->get_ptr<const Json::string_t*>()) {
    const std::vector<std::string> parts = absl::StrSplit(*text, ' ');
    if (parts.size() == 2) return std::make_pair(parts[0], parts[1]);
  }
  return Damaged(merge.path, " is not a pair of tokens");
}

absl::Status ReadMerges(const Node& merges, TokenizerFile* file) {
  ENGRAM_RETURN_IF_ERROR(CheckArray(merges));
  file->merges.reserve(merges.json->size());
  for (size_t i = 0; i < merges.json->size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(auto merge, ReadMerge(Element(merges, i)));
    file->merges.push_back(std::move(merge));
  }
  return absl::OkStatus();
}

absl::Status ReadUnknownToken(const Node& node, TokenizerFile* file) {
  if (node.IsNull()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(file->unknown_token, ReadString(node));
  return absl::OkStatus();
}

absl::Status ReadBpe(const Node& model, TokenizerFile* file) {
  file->kind = TokenizerFile::Kind::kByteLevelBpe;
  ENGRAM_RETURN_IF_ERROR(CheckKeys(
      model, {"type", "dropout", "unk_token", "continuing_subword_prefix",
              "end_of_word_suffix", "fuse_unk", "byte_fallback",
              "ignore_merges", "vocab", "merges"}));
  ENGRAM_RETURN_IF_ERROR(CheckNoDropout(Child(model, "dropout")));
  ENGRAM_RETURN_IF_ERROR(CheckEmpty(Child(model, "continuing_subword_prefix")));
  ENGRAM_RETURN_IF_ERROR(CheckEmpty(Child(model, "end_of_word_suffix")));
  ENGRAM_RETURN_IF_ERROR(CheckFalse(Child(model, "byte_fallback")));
  ENGRAM_RETURN_IF_ERROR(ReadUnknownToken(Child(model, "unk_token"), file));
  ENGRAM_ASSIGN_OR_RETURN(file->ignore_merges,
                          ReadBoolOr(Child(model, "ignore_merges"), false));
  ENGRAM_RETURN_IF_ERROR(ReadVocabulary(Child(model, "vocab"), file));
  return ReadMerges(Child(model, "merges"), file);
}

absl::Status ReadWordLevel(const Node& model, TokenizerFile* file) {
  file->kind = TokenizerFile::Kind::kWordLevel;
  ENGRAM_RETURN_IF_ERROR(CheckKeys(model, {"type", "unk_token", "vocab"}));
  ENGRAM_RETURN_IF_ERROR(ReadUnknownToken(Child(model, "unk_token"), file));
  return ReadVocabulary(Child(model, "vocab"), file);
}

// Older files do not name the type of the model; only BPE has merges.
absl::Status ReadModel(const Node& model, TokenizerFile* file) {
  ENGRAM_RETURN_IF_ERROR(CheckObject(model));
  const Node type = Child(model, "type");
  if (type.json == nullptr) {
    if (model.json->contains("merges")) return ReadBpe(model, file);
    return Damaged(type.path, " is missing");
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string name, ReadString(type));
  if (name == "BPE") return ReadBpe(model, file);
  if (name == "WordLevel") return ReadWordLevel(model, file);
  return NotUnderstood(model.path, " of type ", Quoted(name));
}

// These belong to the call that was made last before the file was written, and
// not to the tokenizer.
void PassOverCallSettings(const Node& root, TokenizerFile* file) {
  for (const char* setting : {"truncation", "padding"}) {
    if (Child(root, setting).IsNull()) continue;
    file->warnings.push_back(
        absl::StrCat("tokenizer.json: ", setting,
                     " is ignored: texts are neither cut nor padded"));
  }
}

}  // namespace

absl::StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view text) {
  ENGRAM_ASSIGN_OR_RETURN(const Json json,
                          ParseStrictJson(text, "tokenizer.json"));
  const Node root = {&json, ""};
  if (!json.is_object()) return Damaged("not an object");
  ENGRAM_RETURN_IF_ERROR(CheckKeys(
      root, {"version", "truncation", "padding", "added_tokens", "normalizer",
             "pre_tokenizer", "post_processor", "decoder", "model"}));
  TokenizerFile file;
  PassOverCallSettings(root, &file);
  ENGRAM_RETURN_IF_ERROR(ReadModel(Child(root, "model"), &file));
  ENGRAM_RETURN_IF_ERROR(ReadAddedTokens(Child(root, "added_tokens"), &file));
  ENGRAM_RETURN_IF_ERROR(ReadNormalizer(Child(root, "normalizer"), &file));
  ENGRAM_RETURN_IF_ERROR(ReadSplitter(Child(root, "pre_tokenizer"), &file));
  ENGRAM_RETURN_IF_ERROR(
      CheckPostProcessor(Child(root, "post_processor"), &file));
  ENGRAM_RETURN_IF_ERROR(CheckDecoder(Child(root, "decoder"), file));
  return file;
}

}  // namespace engram
