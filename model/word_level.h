// WordLevel: every word between white space is one token.
//
// Thread-safe after loading.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/piecewise_tokenizer.h"

namespace engram {

class WordLevel : public PiecewiseTokenizer {
 public:
  // DATA_LOSS as PiecewiseTokenizer::Build.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      const TokenizerFile& file);

  std::string Bytes(int32_t id, bool first) const override;

 protected:
  absl::Status EncodePiece(std::string_view piece, WorkCheck* check,
                           std::vector<int32_t>* ids) const override;

 private:
  int32_t unknown_id_ = -1;  // stands for words not in the vocabulary; -1: none
};

}  // namespace engram
