#include "server/watched_metrics.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace engram {
namespace {

TEST(WatchedMetrics, AskForTheValueAtEveryScrape) {
  WatchedMetrics watched;
  double value = 1;
  watched.Watch(prometheus::MetricType::Counter, "things_total", "Things.",
                [&] { return value; }, {});
  EXPECT_EQ(watched.Collect()[0].metric[0].counter.value, 1);
  value = 2;
  const std::vector<prometheus::MetricFamily> families = watched.Collect();
  ASSERT_EQ(families.size(), 1);
  EXPECT_EQ(families[0].name, "engram_things_total");
  EXPECT_EQ(families[0].help, "Things.");
  EXPECT_EQ(families[0].type, prometheus::MetricType::Counter);
  EXPECT_EQ(families[0].metric[0].counter.value, 2);
}

TEST(WatchedMetrics, AreOneFamilyIfTheyHaveOneName) {
  WatchedMetrics watched;
  for (const std::string kind : {"a", "b"}) {
    watched.Watch(prometheus::MetricType::Gauge, "things", "Things.",
                  [kind] { return kind == "a" ? 1 : 2; }, {{"kind", kind}});
  }
  watched.Watch(prometheus::MetricType::Gauge, "others", "Others.",
                [] { return 3; }, {});
  const std::vector<prometheus::MetricFamily> families = watched.Collect();
  ASSERT_EQ(families.size(), 2);
  ASSERT_EQ(families[0].metric.size(), 2);
  EXPECT_EQ(families[0].metric[1].label[0].name, "kind");
  EXPECT_EQ(families[0].metric[1].label[0].value, "b");
  EXPECT_EQ(families[0].metric[1].gauge.value, 2);
  EXPECT_EQ(families[1].metric[0].gauge.value, 3);
}

}  // namespace
}  // namespace engram
