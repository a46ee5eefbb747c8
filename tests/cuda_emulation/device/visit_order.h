// VisitOrder: a permutation of 0 .. count-1 that a seed chooses, without
// memory.
#pragma once

#include <cstdint>
#include <numeric>

namespace engram::emulation {

class VisitOrder {
 public:
  VisitOrder(uint64_t count, uint64_t seed) : count_(count) {
    if (count < 2) return;
    seed = Mix(seed);
    first_ = seed % count;
    stride_ = 1 + Mix(seed) % (count - 1);
    while (std::gcd(stride_, count) != 1) --stride_;
  }

  uint64_t at(uint64_t i) const { return (first_ + i * stride_) % count_; }
  // What comes after at(i), without a division.
  uint64_t After(uint64_t at) const {
    const uint64_t next = at + stride_;
    return next < count_ ? next : next - count_;
  }

 private:
  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  uint64_t count_;
  uint64_t first_ = 0;
  uint64_t stride_ = 1;
};

}  // namespace engram::emulation
