#include "clients/cpp/bench_workload.h"

#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace engram::client {
namespace {

// No server takes more in one message.
constexpr int32_t kLengthMax = 1 << 28;

// The last word keeps prompts and arrivals apart, which are numbered alike.
enum class Purpose : uint32_t { kTurn = 1, kArrival = 2 };

std::mt19937_64 RandomFor(uint64_t seed, int64_t first, int64_t second,
                          Purpose purpose) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  std::seed_seq words = {low(seed),
                         high(seed),
                         low(first),
                         high(first),
                         low(second),
                         high(second),
                         static_cast<uint32_t>(purpose)};
  return std::mt19937_64(words);
}

}  // namespace

absl::StatusOr<LengthRange> ParseLengthRange(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits("..", 1));
  const bool is_range = text.find("..") != absl::string_view::npos;
  LengthRange range;
  if (!absl::SimpleAtoi(parts.first, &range.least) ||
      !absl::SimpleAtoi(is_range ? parts.second : parts.first, &range.most) ||
      range.least < 0 || range.most < range.least || range.most > kLengthMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text,
                     "' is neither a length such as 128 nor a range such as "
                     "64..256, up to ",
                     kLengthMax));
  }
  return range;
}

std::string ToString(const LengthRange& range) {
  if (range.least == range.most) return absl::StrCat(range.least);
  return absl::StrCat(range.least, "..", range.most);
}

BenchTurn DrawTurn(uint64_t seed, int64_t conversation, int64_t turn,
                   const LengthRange& prompt_tokens,
                   const LengthRange& output_tokens, int64_t vocabulary_size) {
  std::mt19937_64 random = RandomFor(seed, conversation, turn, Purpose::kTurn);
  const auto draw_length = [&](const LengthRange& range) {
    return std::uniform_int_distribution<int32_t>(range.least,
                                                  range.most)(random);
  };
  BenchTurn result;
  result.prompt.resize(draw_length(prompt_tokens));
  result.output_tokens = draw_length(output_tokens);
  std::uniform_int_distribution<int64_t> draw_id(0, vocabulary_size - 1);
  for (int32_t& id : result.prompt) id = static_cast<int32_t>(draw_id(random));
  return result;
}

std::chrono::nanoseconds DrawArrivalGap(uint64_t seed, int64_t arrival,
                                        double rate) {
  std::mt19937_64 random = RandomFor(seed, arrival, 0, Purpose::kArrival);
  const std::chrono::duration<double> seconds(
      std::exponential_distribution<double>(rate)(random));
  return std::chrono::duration_cast<std::chrono::nanoseconds>(seconds);
}

}  // namespace engram::client
