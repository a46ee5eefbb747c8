#include "model/added_tokens.h"

#include <string>

#include "model/unicode.h"

namespace engram {
namespace {

bool IsWholeWord(std::string_view text, size_t begin, size_t end) {
  return !EndsWithWord(text.substr(0, begin)) &&
         !StartsWithWord(text.substr(end));
}

}  // namespace

void AddedTokenFinder::Add(const AddedToken& token, std::string_view text) {
  int32_t node = 0;
  for (const char byte : text) {
    const auto next_node = static_cast<int32_t>(token_at_node_.size());
    const auto [edge, is_new] = edges_.try_emplace({node, byte}, next_node);
    if (is_new) token_at_node_.push_back(kNone);
    node = edge->second;
  }
  // Two tokens may become equal by normalisation: the first one counts.
  if (token_at_node_[node] != kNone) return;
  token_at_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  tokens_.back().content = std::string(text);
  starts_[static_cast<uint8_t>(text.front())] = true;
}

const AddedToken* AddedTokenFinder::LongestAtStart(
    std::string_view text) const {
  int32_t node = 0;
  int32_t longest = kNone;
  for (const char byte : text) {
    const auto edge = edges_.find({node, byte});
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_node_[node] != kNone) longest = token_at_node_[node];
  }
  return longest == kNone ? nullptr : &tokens_[longest];
}

AddedTokenFinder::Match AddedTokenFinder::FindFrom(std::string_view text,
                                                   size_t begin) const {
  for (; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    const AddedToken* token = LongestAtStart(text.substr(begin));
    if (token != nullptr) return {token, begin, begin + token->content.size()};
  }
  return {};
}

// Hugging Face's `tokenizers` decides on each match in turn, and so do we: a
// match that is turned down still hides those that overlap it.
std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Split(
    std::string_view text, bool parse_special_tokens) const {
  std::vector<Piece> pieces;
  size_t done = 0;  // everything before it is in `pieces`
  const auto add_text_until = [&](size_t end) {
    if (done < end) pieces.push_back({text.substr(done, end - done), -1});
  };
  for (Match match = FindFrom(text, 0); match.token != nullptr;
       match = FindFrom(text, match.end)) {
    const AddedToken& token = *match.token;
    if (token.special && !parse_special_tokens) continue;
    if (token.single_word && !IsWholeWord(text, match.begin, match.end)) {
      continue;
    }
    size_t begin = match.begin;
    size_t end = match.end;
    if (token.strip_left && done < begin) {
      begin -= WhiteSpaceAtEnd(text.substr(done, begin - done));
    }
    if (token.strip_right) end += WhiteSpaceAtStart(text.substr(end));
    add_text_until(begin);
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  add_text_until(text.size());
  return pieces;
}

}  // namespace engram
