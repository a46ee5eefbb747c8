#include "server/request_ends.h"

#include "server/method_needs.h"

namespace engram {
namespace {

using Code = absl::StatusCode;

// `codes` with the same finish reason, for each of `methods`.
void Add(const std::vector<const char*>& methods, const char* finish_reason,
         const std::vector<Code>& codes, std::vector<RequestEnd>* ends) {
  for (const char* method : methods) {
    for (const Code code : codes)
      ends->push_back({method, finish_reason, code});
  }
}

std::vector<RequestEnd> MakeEndsOfModelCalls() {
  std::vector<RequestEnd> ends;
  const std::vector<const char*> turns = {"Generate", "Converse"};
  Add(turns, "stop", {Code::kOk}, &ends);
  Add(turns, "length", {Code::kOk}, &ends);
  Add(turns, "cancelled",
      {Code::kCancelled, Code::kDeadlineExceeded, Code::kUnavailable}, &ends);
  // Without a reason: replays, and what failed.
  Add(turns, "", {Code::kOk, Code::kAlreadyExists, Code::kAborted}, &ends);
  Add({"Score"}, "length", {Code::kOk}, &ends);
  Add({"Generate", "Converse", "Score"}, "",
      {Code::kInvalidArgument, Code::kNotFound, Code::kFailedPrecondition,
       Code::kResourceExhausted, Code::kUnavailable, Code::kDeadlineExceeded,
       Code::kCancelled, Code::kInternal},
      &ends);
  Add({"Tokenize", "Detokenize"}, "",
      {Code::kOk, Code::kInvalidArgument, Code::kFailedPrecondition,
       Code::kResourceExhausted, Code::kUnavailable},
      &ends);
  return ends;
}

std::vector<RequestEnd> MakeEndsWithoutModel() {
  std::vector<RequestEnd> ends;
  Add({"Generate", "Converse", "Score", "Tokenize", "Detokenize"}, "",
      {Code::kInvalidArgument, Code::kNotFound, Code::kResourceExhausted,
       Code::kUnavailable},
      &ends);
  Add({"Sessions.Create", "Sessions.Get", "Sessions.List", "Sessions.Delete",
       "Sessions.Fork", "Sessions.Checkpoint", "Sessions.ListCheckpoints",
       "Sessions.DeleteCheckpoint", "Sessions.Export", "Sessions.Import",
       "Inspection.Describe", "Inspection.ReadOut", "Inspection.Attribute",
       "Inspection.Ablate"},
      "", {Code::kOk, Code::kInvalidArgument, Code::kNotFound}, &ends);
  Add({"Sessions.Create", "Sessions.Fork", "Sessions.Checkpoint",
       "Sessions.Import"},
      "", {Code::kAlreadyExists}, &ends);
  Add({"Sessions.Create", "Sessions.Fork", "Sessions.Checkpoint",
       "Sessions.Export", "Inspection.ReadOut", "Inspection.Attribute",
       "Inspection.Ablate"},
      "", {Code::kFailedPrecondition}, &ends);
  Add({"Sessions.Create", "Sessions.Fork", "Sessions.Checkpoint",
       "Sessions.Export", "Sessions.Import", "Inspection.Describe",
       "Inspection.ReadOut", "Inspection.Attribute", "Inspection.Ablate"},
      "", {Code::kResourceExhausted, Code::kUnavailable}, &ends);
  Add({"Sessions.Delete", "Sessions.Fork", "Sessions.Import"}, "",
      {Code::kAborted}, &ends);
  Add({"Sessions.Fork"}, "", {Code::kUnimplemented}, &ends);
  Add({"Sessions.Fork", "Sessions.Checkpoint", "Sessions.Export",
       "Inspection.Describe", "Inspection.ReadOut", "Inspection.Attribute",
       "Inspection.Ablate"},
      "", {Code::kInternal}, &ends);
  Add({"Sessions.Export", "Sessions.Import", "Inspection.Describe",
       "Inspection.ReadOut", "Inspection.Attribute", "Inspection.Ablate"},
      "", {Code::kCancelled, Code::kDeadlineExceeded}, &ends);
  Add({"Models.List"}, "", {Code::kOk}, &ends);
  Add({"Models.Get"}, "", {Code::kOk, Code::kInvalidArgument, Code::kNotFound},
      &ends);
  return ends;
}

}  // namespace

std::vector<RequestEnd> EndsOfRefusedCallers() {
  std::vector<const char*> methods = {kUnknownMethod};
  for (const MethodNeed& one : MethodNeeds()) {
    // Pages are no calls.
    if (one.need == Need::kNothing || one.need == Need::kMetrics) continue;
    methods.push_back(one.method);
  }
  std::vector<RequestEnd> ends;
  Add(methods, "", {Code::kUnauthenticated, Code::kPermissionDenied}, &ends);
  return ends;
}

const std::vector<RequestEnd>& EndsOfModelCalls() {
  static const auto* const ends =
      new std::vector<RequestEnd>(MakeEndsOfModelCalls());
  return *ends;
}

const std::vector<RequestEnd>& EndsWithoutModel() {
  static const auto* const ends =
      new std::vector<RequestEnd>(MakeEndsWithoutModel());
  return *ends;
}

}  // namespace engram
