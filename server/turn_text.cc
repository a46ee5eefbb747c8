#include "server/turn_text.h"

#include <algorithm>
#include <utility>

namespace engram {

TurnText::TurnText(const Tokenizer* tokenizer,
                   const std::vector<std::string>& stop)
    : tokenizer_(tokenizer), decoder_(tokenizer), matcher_(stop) {}

TurnText::Piece TurnText::Append(int32_t id, bool hidden) {
  Piece piece;
  piece.stopped = stopped_;
  if (stopped_ || tokenizer_ == nullptr) return piece;
  hidden = hidden || tokenizer_->IsSpecial(id);
  std::string text;
  if (hidden) {
    piece.bytes = text = tokenizer_->Bytes(id, first_);
    // What is shown goes on with the rest of a character that is cut here; for
    // the search the two are not neighbours.
    if (decoder_.is_within_character()) matcher_.Restart();
  } else {
    TextDecoder::Piece decoded = decoder_.Append(id);
    piece.bytes = std::move(decoded.bytes);
    text = std::move(decoded.text);
  }
  first_ = false;

  size_t cut = 0;
  if (Search(text, hidden, &cut)) {
    stopped_ = piece.stopped = true;
    piece.text = Release(cut);
    held_back_.clear();
    hidden_.clear();
  } else {
    piece.text = Release(held_back_.size() - matcher_.pending());
  }
  return piece;
}

bool TurnText::Search(const std::string& text, bool hidden, size_t* cut) {
  if (hidden && !text.empty()) {
    hidden_.emplace_back(held_back_.size(), held_back_.size() + text.size());
  }
  bool found = false;
  for (const char byte : text) {
    held_back_.push_back(byte);
    const size_t length = matcher_.Append(byte);
    if (length == 0) continue;
    const size_t begin = held_back_.size() - length;
    *cut = found ? std::min(*cut, begin) : begin;
    found = true;
  }
  return found;
}

std::string TurnText::Release(size_t bytes) {
  std::string shown;
  size_t done = 0;
  for (auto& [begin, end] : hidden_) {
    if (begin < bytes) {
      shown.append(held_back_, done, begin - done);
      done = std::min(end, bytes);
    }
    begin -= std::min(begin, bytes);
    end -= std::min(end, bytes);
  }
  std::erase_if(hidden_, [](const auto& part) { return part.second == 0; });
  shown.append(held_back_, done, bytes - done);
  held_back_.erase(0, bytes);
  return shown;
}

std::string TurnText::Flush() {
  if (stopped_ || tokenizer_ == nullptr) return "";
  return Release(held_back_.size()) + decoder_.Flush();
}

std::string TextOf(const Tokenizer* tokenizer, int32_t id) {
  if (tokenizer == nullptr) return "";
  TextDecoder decoder(tokenizer);
  std::string text = decoder.Append(id).text;
  return text + decoder.Flush();
}

TokenEvent MakeTokenEvent(SampledToken token, const Tokenizer* tokenizer) {
  TokenEvent event;
  event.index = token.index;
  event.id = token.id;
  event.logprob = token.logprob;
  for (const LogProbability& alternative : token.top) {
    event.top.push_back(
        {alternative.id, TextOf(tokenizer, alternative.id), alternative.value});
  }
  if (token.piece.has_value()) {
    event.text = std::move(token.piece->text);
    event.bytes = std::move(token.piece->bytes);
  }
  return event;
}

}  // namespace engram
