#include "model/character_table.h"

#include <string>

#include "absl/container/flat_hash_map.h"

namespace engram {

CharacterTable::CharacterTable(absl::Span<const UnicodeRun> runs) {
  absl::flat_hash_map<std::string, uint32_t> known;
  std::string page(kPageSize, '\0');
  size_t run = 0;
  for (size_t i = 0; i < pages_.size(); ++i) {
    for (size_t j = 0; j < kPageSize; ++j) {
      const size_t character = i * kPageSize + j;
      while (run + 1 < runs.size() && runs[run + 1].first <= character) ++run;
      page[j] = static_cast<char>(runs[run].value);
    }
    const auto [place, is_new] =
        known.try_emplace(page, static_cast<uint32_t>(values_.size()));
    if (is_new) values_.insert(values_.end(), page.begin(), page.end());
    pages_[i] = place->second;
  }
}

}  // namespace engram
