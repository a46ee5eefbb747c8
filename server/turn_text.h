// TurnText: the text of one turn's answer, token by token: whole characters
// only, stop strings found and cut, what may become one held back.
//
// Special tokens and stop tokens show no text, but what they stand for takes
// part in the search: a stop string may be one, or have one in it.
//
// Not thread-safe; one per sequence. A token costs time in proportion to its
// bytes, however much is held back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/sampling.h"
#include "model/tokenizer.h"
#include "server/request.h"
#include "server/stop_matcher.h"

namespace engram {

class TurnText {
 public:
  // `tokenizer` may be nullptr: then there is no text. It must outlive this.
  TurnText(const Tokenizer* tokenizer, const std::vector<std::string>& stop);

  struct Piece {
    std::string bytes;     // of the token, exactly
    std::string text;      // what may be shown now
    bool stopped = false;  // a stop string is complete; nothing may follow
  };
  // `hidden`: the token shows no text; special tokens never do. Of the stop
  // strings that a token completes the one that begins first cuts. After a stop
  // nothing comes any more.
  Piece Append(int32_t id, bool hidden = false);

  // The end without a stop string: all that was held back.
  std::string Flush();

 private:
  // Adds `text` to what is held back; true if a stop string is complete. Then
  // *cut is where the first one begins.
  bool Search(const std::string& text, bool hidden, size_t* cut);
  // Takes the first `bytes` that are held back: those of them that are shown.
  std::string Release(size_t bytes);

  const Tokenizer* const tokenizer_;
  TextDecoder decoder_;
  StopMatcher matcher_;
  // Text that is not yet shown, as the matcher has seen it, and the parts of it
  // that never will be: [begin, end), in order.
  std::string held_back_;
  std::vector<std::pair<size_t, size_t>> hidden_;
  bool first_ = true;  // no token came before
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
