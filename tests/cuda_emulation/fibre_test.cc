// Fibres go on where they were left.
#include "tests/cuda_emulation/device/fibre.h"

#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/device/sanitizer.h"

namespace engram::emulation {
namespace {

using ::testing::ElementsAre;

Fibre* test = nullptr;
Fibre* first = nullptr;
Fibre* second = nullptr;
std::vector<int> visits;

void CountBy(int step, Fibre& self, Fibre& next) {
  int count = 0;
  double half = 0;
  for (;;) {
    count += step;
    half += 0.5 * step;
    {
      const Unseen unseen;
      visits.push_back(count);
      visits.push_back(static_cast<int>(2 * half));
    }
    Fibre::Switch(self, next);
  }
}
void First() { CountBy(1, *first, *second); }
void Second() { CountBy(10, *second, *test); }

TEST(FibreTest, EachHasAStackOfItsOwn) {
  const Unseen unseen;
  Fibre own;
  Fibre one(&First);
  Fibre two(&Second);
  test = &own;
  first = &one;
  second = &two;
  visits.clear();
  for (int i = 0; i < 3; ++i) Fibre::Switch(own, one);
  EXPECT_THAT(visits, ElementsAre(1, 1, 10, 10, 2, 2, 20, 20, 3, 3, 30, 30));
}

[[gnu::noinline]] int Deeper(int depth) {
  volatile char frame[1024];
  std::memset(const_cast<char*>(frame), depth, sizeof(frame));
  return depth == 0 ? frame[0] : Deeper(depth - 1) + frame[1];
}
void Deep() {
  visits.push_back(Deeper(1 << 20));
  Fibre::Switch(*first, *test);
}

TEST(FibreDeathTest, AStackThatIsTooSmallEndsTheProcess) {
  Fibre own;
  Fibre deep(&Deep);
  test = &own;
  first = &deep;
  EXPECT_DEATH(Fibre::Switch(own, deep), "");
}

}  // namespace
}  // namespace engram::emulation
