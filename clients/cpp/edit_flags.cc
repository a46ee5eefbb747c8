#include "clients/cpp/edit_flags.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"

namespace engram::client {
namespace {

using Words = absl::Span<const absl::string_view>;

template <typename Number>
bool Read(absl::string_view word, Number* number) {
  return absl::SimpleAtoi(word, number) && *number >= 0;
}

bool ReadPositions(absl::string_view words, v1::KeepOnly* keep_only) {
  for (const absl::string_view word : absl::StrSplit(words, '+')) {
    int64_t position = 0;
    if (word == "before") {
      keep_only->set_before(true);
    } else if (Read(word, &position)) {
      keep_only->add_positions(position);
    } else {
      return false;
    }
  }
  return true;
}

bool ReadReplacement(Words words, v1::ReplaceWrite* replace) {
  int64_t position = 0;
  int32_t token = 0;
  if (!Read(words[0], &position) || !Read(words[1], &token)) return false;
  replace->set_position(position);
  replace->set_token_id(token);
  return true;
}

// What is done, by its name and what follows that.
bool ReadWhat(absl::string_view name, Words words, v1::Edit* edit) {
  if (name == "local-scan" && words.empty()) {
    edit->mutable_local_scan();
    return true;
  }
  if (name == "replace-write" && words.size() == 2) {
    return ReadReplacement(words, edit->mutable_replace_write());
  }
  if (words.size() != 1) return false;
  if (name == "keep-only") {
    return ReadPositions(words[0], edit->mutable_keep_only());
  }
  int64_t position = 0;
  int32_t tap = 0;
  if (name == "cut-tap" && Read(words[0], &tap)) {
    edit->mutable_cut_tap()->set_tap(tap);
    return true;
  }
  if (name == "remove-write" && Read(words[0], &position)) {
    edit->mutable_remove_write()->set_position(position);
    return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<v1::Edit> ParseEdit(absl::string_view text) {
  const std::vector<absl::string_view> words = absl::StrSplit(text, ':');
  v1::Edit edit;
  int32_t layer = 0;
  if (words.size() >= 2 && Read(words[0], &layer) &&
      ReadWhat(words[1], Words(words).subspan(2), &edit)) {
    edit.set_layer(layer);
    return edit;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text,
      "' is no edit; write LAYER:cut-tap:TAP, LAYER:local-scan, "
      "LAYER:remove-write:POSITION, LAYER:replace-write:POSITION:TOKEN or "
      "LAYER:keep-only:POSITION+POSITION, such as 1:cut-tap:2"));
}

}  // namespace engram::client
