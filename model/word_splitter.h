// WordSplitter: the pattern by which GPT-2 and GPT-NeoX cut text into words.
//
// Thread-safe.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

// PCRE2's types, so that its header stays out of ours.
struct pcre2_real_code_8;
struct pcre2_real_match_data_8;

namespace engram {

class WordSplitter {
 public:
  // INTERNAL: PCRE2 refuses the pattern, which is a constant.
  static absl::StatusOr<std::unique_ptr<const WordSplitter>> Create();

  // Cuts one text; every byte of it is in exactly one word.
  // Not thread-safe; one per text. Splitter and text must outlive it.
  class Words {
   public:
    // REQUIRES: valid UTF-8.
    Words(const WordSplitter& splitter, std::string_view text);
    ~Words();
    Words(const Words&) = delete;
    Words& operator=(const Words&) = delete;

    // The next word, or an empty one at the end. INTERNAL: PCRE2 fails.
    absl::StatusOr<std::string_view> Next();

   private:
    const WordSplitter& splitter_;
    const std::string_view text_;
    size_t done_ = 0;
    pcre2_real_match_data_8* match_;
  };

  ~WordSplitter();
  WordSplitter(const WordSplitter&) = delete;
  WordSplitter& operator=(const WordSplitter&) = delete;

 private:
  explicit WordSplitter(pcre2_real_code_8* pattern) : pattern_(pattern) {}

  pcre2_real_code_8* pattern_;
};

}  // namespace engram
