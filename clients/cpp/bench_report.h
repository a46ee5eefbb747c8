// What `engram-bench` prints.
#pragma once

#include <string>

#include "clients/cpp/bench_load.h"
#include "clients/cpp/bench_measurements.h"
#include "clients/cpp/bench_options.h"

namespace engram::client {

// For people: a table of latencies and the rates.
std::string ReportText(const BenchOptions& options,
                       const Measurements& measurements);

// For scripts: one line, everything with its parameters.
std::string ReportJson(const BenchOptions& options,
                       const Measurements& measurements);

// One line without its end; `before` is the progress reported last.
std::string ProgressLine(const BenchProgress& before, const BenchProgress& now);

}  // namespace engram::client
