// What `engram-eval` prints about one evaluation.
#pragma once

#include <string>

#include "clients/cpp/eval_options.h"
#include "clients/cpp/eval_run.h"

namespace engram::client {

// For people.
std::string EvalReportText(const std::string& server,
                           const Evaluation& evaluation,
                           const EvalResult& result);

// For scripts: one line, everything with its parameters. Rates are from 0 to 1.
std::string EvalReportJson(const std::string& server,
                           const Evaluation& evaluation,
                           const EvalResult& result);

// One line without its end.
std::string EvalProgressLine(const Evaluation& evaluation,
                             const EvalProgress& progress);

// "99.9" of 0.9987, but 100.0 and 0.0 only if all or none are right.
std::string Percent(double rate);

// "1,048,576".
std::string WithCommas(int64_t number);

}  // namespace engram::client
