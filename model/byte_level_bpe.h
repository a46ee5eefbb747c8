// ByteLevelBpe: the tokenizer of GPT-2 and GPT-NeoX.
//
// A piece of text is cut into words by a pattern; each byte of a word is a
// symbol, and pairs of neighbours are merged, best merge first, as long as
// there is one. Without merges it is a plain byte tokenizer.
// Source: Sennrich et al., "Neural Machine Translation of Rare Words with
// Subword Units", 2016; bytes and pattern as in GPT-2 (Radford et al. 2019).
//
// Thread-safe after loading.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/piecewise_tokenizer.h"

namespace engram {

class ByteLevelBpe : public PiecewiseTokenizer {
 public:
  // DATA_LOSS as PiecewiseTokenizer::Build, and a merge of or to something that
  // is no token. UNIMPLEMENTED: an unknown token where it could be needed.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      const TokenizerFile& file);

  std::string Bytes(int32_t id, bool first) const override;

 protected:
  absl::Status EncodePiece(std::string_view piece, WorkCheck* check,
                           std::vector<int32_t>* ids) const override;

 private:
  struct Merge {
    int32_t rank;  // less is better
    int32_t id;    // of the result
  };
  // A row of symbols as a doubly linked list, so that merging is O(1).
  struct Symbol {
    int32_t id;        // kGone: merged into the one on its left
    int32_t previous;  // positions in the row; kEnd: none
    int32_t next;
  };
  // "Merge the symbol at `position` with the next one": may be out of date when
  // its turn comes. The best merge is first, the leftmost of equals.
  struct Proposal {
    int32_t rank;
    int32_t position;
    bool operator<(const Proposal& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  // Memory that is used again for every word of a piece.
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Proposal> proposals;  // heap
  };

  static constexpr int32_t kGone = -1;
  static constexpr int32_t kEnd = -1;

  absl::Status BuildAlphabet(const TokenizerFile& file);
  absl::Status BuildMerges(const TokenizerFile& file);
  absl::Status EncodeWord(std::string_view word, WorkCheck* check,
                          Scratch* scratch, std::vector<int32_t>* ids) const;
  absl::Status StartSymbols(std::string_view word,
                            std::vector<Symbol>* symbols) const;
  const Merge* FindMerge(const std::vector<Symbol>& symbols,
                         int32_t position) const;
  void Propose(int32_t position, Scratch* scratch) const;
  absl::Status MergeAll(WorkCheck* check, Scratch* scratch) const;

  std::array<int32_t, 256> id_of_byte_;  // -1: no such token
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
  // A word that is a token as a whole; only if the file says so.
  absl::flat_hash_map<std::string, int32_t> id_of_word_;
  bool add_prefix_space_ = false;
  bool split_words_ = true;         // otherwise a piece is one word
  std::vector<std::string> bytes_;  // by id
};

}  // namespace engram
