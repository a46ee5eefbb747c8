#include "model/word_splitter.h"

#include "model/unicode.h"

namespace engram {
namespace {

enum class Kind { kLetter, kNumber, kWhiteSpace, kOther };

Kind KindOf(char32_t character) {
  if (IsLetter(character)) return Kind::kLetter;
  if (IsNumber(character)) return Kind::kNumber;
  if (IsWhiteSpace(character)) return Kind::kWhiteSpace;
  return Kind::kOther;
}

// Bytes of an English ending at the start of `text`, or 0.
size_t EndingLength(std::string_view text) {
  for (const std::string_view ending :
       {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  return 0;
}

struct Run {
  size_t length = 0;       // bytes of characters of one kind
  size_t last_length = 0;  // of the last of them
};

// REQUIRES: `text` starts with a character of `kind`.
Run RunOf(Kind kind, std::string_view text) {
  Run run;
  while (run.length < text.size()) {
    const std::string_view rest = text.substr(run.length);
    if (KindOf(FirstCharacter(rest)) != kind) break;
    run.last_length = StartOfUtf8(rest).length;
    run.length += run.last_length;
  }
  return run;
}

// Bytes of the word that `text` starts with. REQUIRES: not empty.
size_t WordLength(std::string_view text) {
  const size_t ending = EndingLength(text);
  if (ending > 0) return ending;
  // A space goes with what follows it, unless that is white space too.
  const size_t space = text.front() == ' ' && text.size() > 1 ? 1 : 0;
  const std::string_view word = text.substr(space);
  const Kind kind = KindOf(FirstCharacter(word));
  if (kind != Kind::kWhiteSpace) return space + RunOf(kind, word).length;
  const Run white_space = RunOf(Kind::kWhiteSpace, text);
  const bool leaves_one = white_space.length < text.size() &&
                          white_space.length > white_space.last_length;
  return white_space.length - (leaves_one ? white_space.last_length : 0);
}

}  // namespace

std::string_view WordSplitter::Next() {
  if (rest_.empty()) return rest_;
  const std::string_view word = rest_.substr(0, WordLength(rest_));
  rest_.remove_prefix(word.size());
  return word;
}

}  // namespace engram
