#include "model/word_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// English endings; then letters, digits or other signs, each with at most one
// space before it; then white space, whose last character stays with the word
// that follows. `\s` is spelt out as a property: PCRE2's own differs from
// Unicode's White_Space in U+180E.
constexpr char kPattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d)"
    R"(| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+)"
    R"(|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";

absl::Status Failure(const char* what, int code) {
  PCRE2_UCHAR message[128] = {};
  pcre2_get_error_message(code, message, sizeof(message));
  return absl::InternalError(absl::StrCat(
      what, ": ", reinterpret_cast<const char*>(message), " (", code, ")"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const WordSplitter>> WordSplitter::Create() {
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* pattern = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED,
      PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr);
  if (pattern == nullptr) return Failure("word pattern", code);
  // Where PCRE2 has no compiler for this machine, its interpreter does it.
  pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<const WordSplitter>(new WordSplitter(pattern));
}

WordSplitter::~WordSplitter() { pcre2_code_free(pattern_); }

WordSplitter::Words::Words(const WordSplitter& splitter, std::string_view text)
    : splitter_(splitter),
      text_(text),
      match_(pcre2_match_data_create_from_pattern(splitter.pattern_, nullptr)) {
}

WordSplitter::Words::~Words() { pcre2_match_data_free(match_); }

absl::StatusOr<std::string_view> WordSplitter::Words::Next() {
  if (done_ == text_.size()) return std::string_view();
  // The text was checked already; checking it again for every word would take
  // quadratic time.
  const int code =
      pcre2_match(splitter_.pattern_,
                  reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                  done_, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, match_, nullptr);
  if (code < 0) return Failure("splitting words", code);
  const size_t end = pcre2_get_ovector_pointer(match_)[1];
  const std::string_view word = text_.substr(done_, end - done_);
  done_ = end;
  return word;
}

}  // namespace engram
