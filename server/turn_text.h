// TurnText: the text of one turn's answer, token by token: whole characters
// only, stop strings found and cut, what may become one held back.
//
// Not thread-safe; one per sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/sampler.h"
#include "model/tokenizer.h"
#include "server/request.h"

namespace engram {

class TurnText {
 public:
  // `tokenizer` may be nullptr: then there is no text. It must outlive this.
  TurnText(const Tokenizer* tokenizer, std::vector<std::string> stop);

  struct Piece {
    std::string bytes;  // of the token, exactly
    std::string text;   // what may be shown now
    bool stopped = false;  // a stop string is complete; nothing may follow
  };
  // Special tokens add no text; after a stop string, nothing does.
  Piece Append(int32_t id);

  // The end without a stop string: all that was held back.
  std::string Flush();

 private:
  // Length of the longest end of held_back_ that begins a stop string.
  size_t PossibleStopBytes() const;

  const Tokenizer* const tokenizer_;
  const std::vector<std::string> stop_;
  TextDecoder decoder_;
  std::string held_back_;
  bool stopped_ = false;
};

// A token as the client sees it, and whether it ends the turn.
struct TokenOutcome {
  TokenEvent event;
  bool stops = false;
};

// The event of the token at `index` of an answer. A stop token has no text.
// `logprob` and `top` are what was asked for, or nothing.
TokenOutcome MakeTokenEvent(TurnText* text, const Tokenizer* tokenizer,
                            int32_t index, int32_t id, bool is_stop_token,
                            std::optional<float> logprob,
                            const std::vector<LogProbability>& top);

}  // namespace engram
