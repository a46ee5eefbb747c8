#include "model/byte_level_bpe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "model/unicode.h"
#include "model/word_splitter.h"

namespace engram {
namespace {

// In vocabularies each byte is written as a printable character: as itself
// where Latin-1 has a printable character there, else the n-th such byte as
// U+0100 + n.
bool IsPrintable(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
         byte >= 174;
}

std::array<char32_t, 256> MakeByteSymbols() {
  std::array<char32_t, 256> symbols;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    symbols[byte] = IsPrintable(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return symbols;
}

const std::array<char32_t, 256>& ByteSymbols() {
  static const std::array<char32_t, 256> symbols = MakeByteSymbols();
  return symbols;
}

// -1: the character stands for no byte.
int ByteOfSymbol(char32_t symbol) {
  const auto& symbols = ByteSymbols();
  const auto found = std::find(symbols.begin(), symbols.end(), symbol);
  return found == symbols.end() ? -1
                                : static_cast<int>(found - symbols.begin());
}

// The bytes that `content` stands for; itself if not all of it are symbols.
std::string BytesOfSymbols(const std::string& content) {
  std::string bytes;
  for (std::string_view rest = content; !rest.empty();
       rest.remove_prefix(StartOfUtf8(rest).length)) {
    const int byte = ByteOfSymbol(FirstCharacter(rest));
    if (byte == -1) return content;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

bool OccursInUtf8(int byte) {
  return byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
}

absl::Status NoToken(size_t merge, const std::string& content) {
  return absl::DataLossError(absl::StrCat("tokenizer.json: model.merges[",
                                          merge, "] has ", Quoted(content),
                                          ", which is not in model.vocab"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ByteLevelBpe::Create(
    const TokenizerFile& file) {
  auto tokenizer = std::make_unique<ByteLevelBpe>();
  ENGRAM_RETURN_IF_ERROR(tokenizer->Build(file));
  ENGRAM_RETURN_IF_ERROR(tokenizer->BuildAlphabet(file));
  ENGRAM_RETURN_IF_ERROR(tokenizer->BuildMerges(file));
  tokenizer->add_prefix_space_ = file.add_prefix_space;
  tokenizer->split_words_ = file.split_words;
  return tokenizer;
}

absl::Status ByteLevelBpe::BuildAlphabet(const TokenizerFile& file) {
  bytes_.resize(ids());
  for (int32_t id = 0; id < ids(); ++id) {
    if (!Knows(id)) continue;
    // Added tokens are not written in symbols. (Hugging Face's `tokenizers`
    // takes those for symbols that might be such, so that it encodes an added
    // "é" but decodes it to the broken byte 0xE9.)
    const Token& known = token(id);
    bytes_[id] = known.added ? known.text : BytesOfSymbols(known.content);
  }
  id_of_byte_.fill(-1);
  for (const auto& [content, id] : file.vocabulary) {
    if (StartOfUtf8(content + " ").length != content.size()) continue;
    const int byte = ByteOfSymbol(FirstCharacter(content));
    if (byte != -1) id_of_byte_[byte] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (id_of_byte_[byte] == -1 && OccursInUtf8(byte) &&
        !file.unknown_token.empty()) {
      return absl::UnimplementedError(absl::StrFormat(
          "tokenizer.json: model.unk_token with no token for byte 0x%02X is "
          "not supported",
          byte));
    }
  }
  return absl::OkStatus();
}

absl::Status ByteLevelBpe::BuildMerges(const TokenizerFile& file) {
  absl::flat_hash_map<std::string, int32_t> vocabulary(file.vocabulary.begin(),
                                                       file.vocabulary.end());
  merges_.reserve(file.merges.size());
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    int32_t ids[3];
    const std::string contents[3] = {left, right, left + right};
    for (int i = 0; i < 3; ++i) {
      const auto found = vocabulary.find(contents[i]);
      if (found == vocabulary.end()) return NoToken(rank, contents[i]);
      ids[i] = found->second;
    }
    merges_.insert_or_assign({ids[0], ids[1]},
                             Merge{static_cast<int32_t>(rank), ids[2]});
  }
  if (file.ignore_merges) {
    for (const auto& [content, id] : file.vocabulary) {
      id_of_word_.emplace(BytesOfSymbols(content), id);
    }
  }
  return absl::OkStatus();
}

absl::Status ByteLevelBpe::EncodePiece(std::string_view piece, WorkCheck* check,
                                       std::vector<int32_t>* ids) const {
  std::string prefixed;
  if (add_prefix_space_ && piece.front() != ' ') {
    prefixed = absl::StrCat(" ", std::string(piece));
    piece = prefixed;
  }
  Scratch scratch;
  if (!split_words_) return EncodeWord(piece, check, &scratch, ids);
  WordSplitter words(piece);
  for (std::string_view word = words.Next(); !word.empty();
       word = words.Next()) {
    ENGRAM_RETURN_IF_ERROR(EncodeWord(word, check, &scratch, ids));
  }
  return absl::OkStatus();
}

absl::Status ByteLevelBpe::EncodeWord(std::string_view word, WorkCheck* check,
                                      Scratch* scratch,
                                      std::vector<int32_t>* ids) const {
  ENGRAM_RETURN_IF_ERROR(check->Done(word.size()));
  if (!id_of_word_.empty()) {
    const auto found =
        id_of_word_.find(absl::string_view(word.data(), word.size()));
    if (found != id_of_word_.end()) {
      ids->push_back(found->second);
      return absl::OkStatus();
    }
  }
  ENGRAM_RETURN_IF_ERROR(StartSymbols(word, &scratch->symbols));
  ENGRAM_RETURN_IF_ERROR(MergeAll(check, scratch));
  for (const Symbol& symbol : scratch->symbols) {
    if (symbol.id != kGone) ids->push_back(symbol.id);
  }
  return absl::OkStatus();
}

absl::Status ByteLevelBpe::StartSymbols(std::string_view word,
                                        std::vector<Symbol>* symbols) const {
  const auto count = static_cast<int32_t>(word.size());
  symbols->clear();
  for (int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<uint8_t>(word[i]);
    if (id_of_byte_[byte] == -1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the vocabulary has no byte 0x%02X", byte));
    }
    symbols->push_back(
        {id_of_byte_[byte], i - 1, i + 1 < count ? i + 1 : kEnd});
  }
  return absl::OkStatus();
}

const ByteLevelBpe::Merge* ByteLevelBpe::FindMerge(
    const std::vector<Symbol>& symbols, int32_t position) const {
  const Symbol& left = symbols[position];
  if (left.id == kGone || left.next == kEnd) return nullptr;
  const auto found = merges_.find({left.id, symbols[left.next].id});
  return found == merges_.end() ? nullptr : &found->second;
}

void ByteLevelBpe::Propose(int32_t position, Scratch* scratch) const {
  const Merge* merge = FindMerge(scratch->symbols, position);
  if (merge == nullptr) return;
  scratch->proposals.push_back({merge->rank, position});
  std::push_heap(scratch->proposals.begin(), scratch->proposals.end());
}

absl::Status ByteLevelBpe::MergeAll(WorkCheck* check, Scratch* scratch) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Proposal>& proposals = scratch->proposals;
  proposals.clear();
  for (size_t i = 0; i < symbols.size(); ++i) {
    Propose(static_cast<int32_t>(i), scratch);
  }
  while (!proposals.empty()) {
    // A word may be as long as a text.
    ENGRAM_RETURN_IF_ERROR(check->Done(1));
    const Proposal best = proposals.front();
    std::pop_heap(proposals.begin(), proposals.end());
    proposals.pop_back();
    const Merge* merge = FindMerge(symbols, best.position);
    if (merge == nullptr || merge->rank != best.rank) continue;  // out of date
    Symbol& left = symbols[best.position];
    Symbol& right = symbols[left.next];
    left.id = merge->id;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kEnd) symbols[left.next].previous = best.position;
    if (left.previous != kEnd) Propose(left.previous, scratch);
    Propose(best.position, scratch);
  }
  return absl::OkStatus();
}

std::string ByteLevelBpe::Bytes(int32_t id, bool first) const {
  return Knows(id) ? bytes_[id] : "";
}

}  // namespace engram
