#include "server/method_needs.h"

namespace engram {

const std::vector<MethodNeed>& MethodNeeds() {
  static const auto* const needs = new std::vector<MethodNeed>{
      {"Generate", Need::kGenerate},
      {"Converse", Need::kGenerate},
      {"Score", Need::kGenerate},
      {"Sessions.Create", Need::kSessions},
      {"Sessions.Get", Need::kSessions},
      {"Sessions.List", Need::kSessions},
      {"Sessions.Delete", Need::kSessions},
      {"Sessions.Fork", Need::kSessions},
      {"Sessions.Checkpoint", Need::kSessions},
      {"Sessions.ListCheckpoints", Need::kSessions},
      {"Sessions.DeleteCheckpoint", Need::kSessions},
      {"Sessions.Export", Need::kSessions},
      {"Sessions.Import", Need::kSessions},
      {"Inspection.Describe", Need::kInspect},
      {"Inspection.ReadOut", Need::kInspect},
      {"Inspection.Attribute", Need::kInspect},
      {"Inspection.Ablate", Need::kInspect},
      {"Models.List", Need::kKey},
      {"Models.Get", Need::kKey},
      {"Tokenize", Need::kKey},
      {"Detokenize", Need::kKey},
      {"/metrics", Need::kMetrics},
      {"/grpc.health.v1.Health/Check", Need::kNothing},
      {"/grpc.health.v1.Health/Watch", Need::kNothing},
      {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
       Need::kReflection},
      // Of all clients' connections.
      {"/grpc.channelz.v1.Channelz/GetChannel", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetServer", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetServers", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetServerSockets", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetSocket", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetSubchannel", Need::kOperator},
      {"/grpc.channelz.v1.Channelz/GetTopChannels", Need::kOperator},
  };
  return *needs;
}

const MethodNeed* FindMethodNeed(absl::string_view method) {
  for (const MethodNeed& one : MethodNeeds()) {
    if (one.method == method) return &one;
  }
  return nullptr;
}

}  // namespace engram
