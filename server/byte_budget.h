// ByteBudget: how much memory something may take in all, shared by those who
// take of it.
//
// Thread-safe; a Share may outlive its budget.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

namespace engram {

class ByteBudget {
 public:
  explicit ByteBudget(size_t limit) : limit_(limit) {}

  // Bytes that are taken until it goes.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept
        : taken_(std::move(other.taken_)),
          bytes_(std::exchange(other.bytes_, 0)) {}
    Share& operator=(Share&& other) noexcept {
      std::swap(taken_, other.taken_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Share() {
      if (taken_ != nullptr) *taken_ -= bytes_;
    }

   private:
    friend class ByteBudget;
    Share(std::shared_ptr<std::atomic<size_t>> taken, size_t bytes)
        : taken_(std::move(taken)), bytes_(bytes) {}

    std::shared_ptr<std::atomic<size_t>> taken_;
    size_t bytes_ = 0;
  };

  // nullopt if they are more than what is left.
  std::optional<Share> Take(size_t bytes) {
    size_t before = *taken_;
    do {
      if (before > limit_ || bytes > limit_ - before) return std::nullopt;
    } while (!taken_->compare_exchange_weak(before, before + bytes));
    return Share(taken_, bytes);
  }

  size_t limit() const { return limit_; }
  size_t taken() const { return *taken_; }

 private:
  const size_t limit_;
  const std::shared_ptr<std::atomic<size_t>> taken_ =
      std::make_shared<std::atomic<size_t>>(0);
};

}  // namespace engram
