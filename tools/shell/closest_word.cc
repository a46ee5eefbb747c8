#include "tools/shell/closest_word.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// The number of single-letter changes and swaps of neighbours that turn one
// word into the other.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> distance(a.size() + 1,
                                            std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) distance[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) distance[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      distance[i][j] = std::min({distance[i - 1][j] + 1, distance[i][j - 1] + 1,
                                 distance[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
      }
    }
  }
  return distance[a.size()][b.size()];
}

}  // namespace

std::string ClosestWord(absl::string_view word,
                        absl::Span<const std::string> candidates) {
  std::string closest;
  // No name of ours is so long, and the work grows with the square.
  if (word.size() > 64) return closest;
  size_t smallest = 1 + word.size() / 3;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance <= smallest && (closest.empty() || distance < smallest)) {
      smallest = distance;
      closest = candidate;
    }
  }
  if (!closest.empty()) return closest;
  for (const std::string& candidate : candidates) {
    if (word.size() >= 3 && absl::StartsWith(candidate, word)) return candidate;
  }
  return "";
}

std::string DidYouMean(absl::string_view word,
                       absl::Span<const std::string> candidates,
                       absl::string_view prefix) {
  const std::string closest = ClosestWord(word, candidates);
  if (closest.empty()) return "";
  return absl::StrCat("; did you mean ", prefix, closest, "?");
}

}  // namespace engram
