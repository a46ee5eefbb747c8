// TurnText: the text of one turn's answer, token by token: whole characters
// only, stop strings found and cut, what may become one held back.
//
// Special tokens and stop tokens show no text, but what they stand for takes
// part in the search: a stop string may be one, or have one in it.
//
// Who makes it: whoever reads the answer's TokenStream, while the engine runs
// its next step. But only text tells whether a stop string is complete, and
// what follows it must never be kept; so the text of a turn with stop strings
// is the engine's, made when a step is finished. For a token that is a few
// bytes and as many moves of an automaton, less than any way to wait for
// another thread, and it leaves every other turn alone.
//
// Not thread-safe; one per answer. A token costs time in proportion to its
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

// A token of an answer as the model gives it.
struct SampledToken {
  int32_t index = 0;  // in the answer
  int32_t id = 0;
  bool is_stop_token = false;  // it shows no text
  // What was asked for, or nothing.
  std::optional<float> logprob;
  std::vector<LogProbability> top;
  // Its text, once it is read.
  std::optional<TurnText::Piece> piece;

  // It is the next token of `text`.
  void Read(TurnText* text) { piece = text->Append(id, is_stop_token); }
  // Whether nothing may follow it, as far as it was read.
  bool ends_turn() const {
    return is_stop_token || (piece.has_value() && piece->stopped);
  }
};

// One token on its own, as valid UTF-8; empty without a tokenizer.
std::string TextOf(const Tokenizer* tokenizer, int32_t id);

// The token as the client sees it; without text if it was not read.
// `tokenizer` may be nullptr: then alternatives have no text either.
TokenEvent MakeTokenEvent(SampledToken token, const Tokenizer* tokenizer);

}  // namespace engram
