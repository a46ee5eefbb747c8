#include "model/renamed_checkpoint.h"

#include <map>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/quoted.h"

namespace engram {
namespace {

constexpr std::string_view kBackbone = "backbone.";
constexpr std::string_view kHead = "lm_head.";
constexpr std::string_view kWrappers[] = {"module.", "_orig_mod.", "model."};
// Every model has one of these, and no wrapper's own tensors do.
constexpr std::string_view kFirstNorms[] = {"layers.0.norm.weight",
                                            "layers.0.norm1.weight"};

// What stands before the first layer's norm in the names of `checkpoint`, or
// "backbone." if there is no such tensor, or several.
std::string FindPrefix(const Checkpoint& checkpoint) {
  std::string prefix(kBackbone);
  int found = 0;
  for (const std::string& name : checkpoint.Names()) {
    for (const std::string_view norm : kFirstNorms) {
      if (!name.ends_with(norm)) continue;
      prefix = name.substr(0, name.size() - norm.size());
      ++found;
    }
  }
  return found == 1 ? prefix : std::string(kBackbone);
}

bool IsWrappers(std::string_view prefix) {
  while (!prefix.empty()) {
    bool known = false;
    for (const std::string_view wrapper : kWrappers) {
      if (!prefix.starts_with(wrapper)) continue;
      prefix.remove_prefix(wrapper.size());
      known = true;
      break;
    }
    if (!known) return false;
  }
  return true;
}

class RenamedCheckpoint final : public Checkpoint {
 public:
  RenamedCheckpoint(std::unique_ptr<Checkpoint> checkpoint,
                    std::map<std::string, std::string, std::less<>> stored)
      : checkpoint_(std::move(checkpoint)), stored_(std::move(stored)) {}

  bool Has(std::string_view name) const override {
    return stored_.find(name) != stored_.end();
  }
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, stored] : stored_) names.push_back(name);
    return names;
  }
  absl::StatusOr<Tensor> Get(std::string_view name) const override {
    return checkpoint_->Get(StoredName(name));
  }
  absl::StatusOr<Tensor> Get(std::string_view name,
                             const std::vector<int64_t>& shape) const override {
    return checkpoint_->Get(StoredName(name), shape);
  }
  absl::StatusOr<const void*> Data(
      std::string_view name, std::string_view type,
      const std::vector<int64_t>& shape) const override {
    return checkpoint_->Data(StoredName(name), type, shape);
  }
  std::string Hash() const override { return checkpoint_->Hash(); }

 private:
  std::string StoredName(std::string_view name) const {
    const auto found = stored_.find(name);
    return found == stored_.end() ? std::string(name) : found->second;
  }

  const std::unique_ptr<Checkpoint> checkpoint_;
  const std::map<std::string, std::string, std::less<>> stored_;  // by usual
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> WithUsualNames(
    std::unique_ptr<Checkpoint> checkpoint,
    std::vector<std::string>* warnings) {
  const std::string prefix = FindPrefix(*checkpoint);
  const bool is_bare = !prefix.ends_with(kBackbone);
  const std::string wrappers =
      is_bare ? prefix : prefix.substr(0, prefix.size() - kBackbone.size());
  if (prefix == kBackbone || !IsWrappers(wrappers)) return checkpoint;
  std::map<std::string, std::string, std::less<>> stored;
  for (const std::string& name : checkpoint->Names()) {
    std::string usual = name;
    if (absl::StartsWith(usual, wrappers)) usual.erase(0, wrappers.size());
    if (is_bare && !usual.starts_with(kHead)) usual.insert(0, kBackbone);
    const auto [there, is_new] = stored.emplace(usual, name);
    if (is_new) continue;
    return absl::DataLossError(
        absl::StrCat("tensors ", Quoted(there->second), " and ", Quoted(name),
                     " are both ", Quoted(usual), "; expected one of them"));
  }
  warnings->push_back(
      absl::StrCat("the tensors are named \"", prefix,
                   "layers...\", and were read as \"backbone.layers...\""));
  return std::unique_ptr<Checkpoint>(std::make_unique<RenamedCheckpoint>(
      std::move(checkpoint), std::move(stored)));
}

}  // namespace engram
