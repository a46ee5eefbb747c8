#include "server/turn_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace engram {

TurnText::TurnText(const Tokenizer* tokenizer, std::vector<std::string> stop)
    : tokenizer_(tokenizer), stop_(std::move(stop)), decoder_(tokenizer) {}

TurnText::Piece TurnText::Append(int32_t id) {
  Piece piece;
  piece.stopped = stopped_;
  if (stopped_) return piece;
  if (tokenizer_ == nullptr || tokenizer_->IsSpecial(id)) return piece;
  TextDecoder::Piece decoded = decoder_.Append(id);
  piece.bytes = std::move(decoded.bytes);
  held_back_ += decoded.text;

  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) {
    cut = std::min(cut, held_back_.find(stop));
  }
  if (cut != std::string::npos) {
    stopped_ = piece.stopped = true;
    piece.text = held_back_.substr(0, cut);
    held_back_.clear();
    return piece;
  }
  const size_t shown = held_back_.size() - PossibleStopBytes();
  piece.text = held_back_.substr(0, shown);
  held_back_.erase(0, shown);
  return piece;
}

std::string TurnText::Flush() {
  if (stopped_ || tokenizer_ == nullptr) return "";
  return std::exchange(held_back_, "") + decoder_.Flush();
}

size_t TurnText::PossibleStopBytes() const {
  size_t longest = 0;
  for (const std::string& stop : stop_) {
    size_t length = std::min(stop.size() - 1, held_back_.size());
    for (; length > longest; --length) {
      if (std::string_view(held_back_).substr(held_back_.size() - length) ==
          std::string_view(stop).substr(0, length)) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}

namespace {

// One token on its own, as valid UTF-8.
std::string TextOf(const Tokenizer* tokenizer, int32_t id) {
  if (tokenizer == nullptr) return "";
  TextDecoder decoder(tokenizer);
  std::string text = decoder.Append(id).text;
  return text + decoder.Flush();
}

}  // namespace

TokenOutcome MakeTokenEvent(TurnText* text, const Tokenizer* tokenizer,
                            int32_t index, int32_t id, bool is_stop_token,
                            std::optional<float> logprob,
                            const std::vector<LogProbability>& top) {
  TokenOutcome outcome;
  outcome.event.index = index;
  outcome.event.id = id;
  outcome.event.logprob = logprob;
  for (const LogProbability& alternative : top) {
    outcome.event.top.push_back({alternative.id,
                                 TextOf(tokenizer, alternative.id),
                                 alternative.value});
  }
  if (is_stop_token) {
    outcome.stops = true;
    return outcome;
  }
  TurnText::Piece piece = text->Append(id);
  outcome.event.text = std::move(piece.text);
  outcome.event.bytes = std::move(piece.bytes);
  outcome.stops = piece.stopped;
  return outcome;
}

}  // namespace engram
