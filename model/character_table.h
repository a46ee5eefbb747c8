// CharacterTable: one byte for every character, looked up in two steps.
//
// Pages of 256 characters that are alike, as most are, lie in memory once.
// Thread-safe: constant.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/unicode_tables.h"

namespace engram {

class CharacterTable {
 public:
  explicit CharacterTable(absl::Span<const UnicodeRun> runs);

  // 0 above U+10FFFF.
  uint8_t operator[](char32_t character) const {
    const size_t page = character >> kPageBits;
    if (page >= pages_.size()) return 0;
    return values_[pages_[page] + (character & (kPageSize - 1))];
  }

 private:
  static constexpr int kPageBits = 8;
  static constexpr size_t kPageSize = size_t{1} << kPageBits;

  std::array<uint32_t, (0x110000 >> kPageBits)> pages_;  // where they begin
  std::vector<uint8_t> values_;
};

}  // namespace engram
