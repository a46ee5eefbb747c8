#include "model/state_pool.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

size_t LayerBytes(const StateComponent& component) {
  return component.floats() * sizeof(float);
}

size_t Aligned(size_t bytes) {
  return (bytes + kStateAlignment - 1) / kStateAlignment * kStateAlignment;
}

}  // namespace

int64_t StateComponent::floats() const {
  int64_t product = 1;
  for (int64_t dimension : shape) product *= dimension;
  return product;
}

StatePool::StatePool(Backend* backend, std::vector<StateComponent> components,
                     int slots)
    : backend_(backend),
      components_(std::move(components)),
      slots_(slots),
      taken_(slots, false),
      tokens_(slots, 0) {
  for (const StateComponent& component : components_) {
    offsets_.push_back(state_bytes_);
    state_bytes_ += Aligned(component.layers * LayerBytes(component));
  }
  // The last is taken first: slots go out in ascending order at the start.
  for (int slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(
    Backend* backend, std::vector<StateComponent> components, int slots,
    KeyValueShape key_values, size_t kv_bytes) {
  ENGRAM_CHECK(slots >= 1);
  std::unique_ptr<StatePool> pool(
      new StatePool(backend, std::move(components), slots));
  if (key_values.layers > 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        pool->key_values_,
        KeyValuePool::Create(backend, key_values, kv_bytes, slots));
  }
  size_t bytes = 0;
  if (__builtin_mul_overflow(pool->state_bytes_, static_cast<size_t>(slots),
                             &bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(slots, " slots of ", pool->state_bytes_,
                     " bytes: more than can be addressed"));
  }
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(bytes);
  if (!buffer.ok()) {
    return absl::Status(
        buffer.status().code(),
        absl::StrCat("no memory for ", slots, " slots of ", pool->state_bytes_,
                     " bytes: ", buffer.status().message()));
  }
  pool->buffer_ = std::move(*buffer);
  return pool;
}

KeyValueUse StatePool::key_values() const {
  return key_values_ == nullptr ? KeyValueUse() : key_values_->use();
}

int64_t StatePool::BlocksFor(int64_t tokens, int source) const {
  const int64_t shared =
      source < 0 ? 0 : tokens_[source] / kKeyValueBlockTokens;
  return KeyValueBlocks(tokens) - shared;
}

int StatePool::TryTake(int64_t tokens, int source) {
  ENGRAM_CHECK(source == -1 || IsTaken(source));
  if (free_.empty()) return -1;
  const int slot = free_.back();
  if (key_values_ != nullptr &&
      !key_values_->Reserve(slot, BlocksFor(tokens, source))) {
    return -1;
  }
  free_.pop_back();
  taken_[slot] = true;
  return slot;
}

bool StatePool::FitsBeside(absl::Span<const int> others, int64_t tokens,
                           int source) const {
  if (key_values_ == nullptr) return true;
  int64_t blocks = BlocksFor(tokens, source);
  for (int slot : others) blocks += key_values_->claimed(slot);
  return blocks <= key_values_->use().blocks;
}

int StatePool::Take() {
  const int slot = TryTake(0);
  if (slot >= 0) ENGRAM_CHECK_OK(Clear(slot));
  return slot;
}

void StatePool::Free(int slot) {
  ENGRAM_CHECK(IsTaken(slot));
  if (key_values_ != nullptr) key_values_->Free(slot);
  taken_[slot] = false;
  free_.push_back(slot);
}

void StatePool::Seal(int slot) {
  ENGRAM_CHECK(IsTaken(slot));
  if (key_values_ != nullptr) key_values_->EndReservation(slot);
}

absl::Status StatePool::Clear(int slot) {
  ENGRAM_CHECK(IsTaken(slot));
  if (key_values_ != nullptr) key_values_->Clear(slot);
  tokens_[slot] = 0;
  return backend_->Zero(At(slot), state_bytes_);
}

absl::Status StatePool::CopySlot(int target, int source) {
  ENGRAM_CHECK(IsTaken(target) && IsTaken(source));
  if (target == source) return absl::OkStatus();
  if (key_values_ != nullptr) {
    ENGRAM_RETURN_IF_ERROR(key_values_->Copy(target, source));
  }
  tokens_[target] = tokens_[source];
  return backend_->Copy(At(target), At(source), state_bytes_);
}

size_t StatePool::bytes(int slot) const {
  return state_bytes_ + (key_values_ == nullptr ? 0 : key_values_->bytes(slot));
}

absl::StatusOr<StatePool::HostMemory> StatePool::AllocateHost(
    size_t bytes) const {
  absl::StatusOr<std::unique_ptr<Buffer>> memory =
      backend_->AllocateHost(bytes);
  const bool is_ordinary = absl::IsResourceExhausted(memory.status());
  if (is_ordinary) memory = AllocateOrdinaryMemory(bytes);
  ENGRAM_RETURN_IF_ERROR(memory.status());
  return HostMemory{*std::move(memory),
                    backend_->is_asynchronous() && !is_ordinary};
}

absl::Status StatePool::Save(int slot, void* block) const {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceEvent> copied,
                          BeginSavePart(slot, 0, bytes(slot), block));
  return copied->Wait();
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> StatePool::BeginSavePart(
    int slot, size_t begin, size_t count, void* part) const {
  ENGRAM_CHECK(IsTaken(slot) && begin + count <= bytes(slot));
  char* target = static_cast<char*>(part);
  std::unique_ptr<DeviceEvent> copied;  // of the last copy, and so of all
  if (begin < state_bytes_) {
    const size_t own = std::min(count, state_bytes_ - begin);
    ENGRAM_ASSIGN_OR_RETURN(
        copied, backend_->BeginCopyToHost(target, At(slot) + begin, own));
    target += own;
    begin += own;
    count -= own;
  }
  if (count > 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        copied,
        key_values_->BeginSavePart(slot, begin - state_bytes_, count, target));
  }
  return copied == nullptr ? MakeReachedEvent() : std::move(copied);
}

const float* StatePool::SavedLayer(const void* block, int component,
                                   int64_t layer) const {
  const StateComponent& shape = components_[component];
  ENGRAM_CHECK(layer >= 0 && layer < shape.layers);
  return reinterpret_cast<const float*>(static_cast<const char*>(block) +
                                        offsets_[component] +
                                        layer * LayerBytes(shape));
}

const float* StatePool::SavedKeyValues(const void* block, int64_t layer,
                                       int64_t index) const {
  ENGRAM_CHECK(key_values_ != nullptr);
  return reinterpret_cast<const float*>(static_cast<const char*>(block) +
                                        state_bytes_ +
                                        key_values_->SavedAt(layer, index));
}

absl::Status StatePool::Restore(int slot, const void* block, int64_t tokens) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceEvent> copied,
                          BeginRestore(slot, block, tokens));
  return copied->Wait();
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> StatePool::BeginRestore(
    int slot, const void* block, int64_t tokens) {
  ENGRAM_CHECK(IsTaken(slot));
  tokens_[slot] = tokens;
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<DeviceEvent> copied,
      backend_->BeginCopyFromHost(At(slot), block, state_bytes_));
  if (key_values_ != nullptr && tokens > 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        copied,
        key_values_->BeginRestore(
            slot, static_cast<const char*>(block) + state_bytes_, tokens));
  } else if (key_values_ != nullptr) {
    key_values_->Clear(slot);
  }
  return copied;
}

absl::Status StatePool::Append(int slot_in, int slot_out, int64_t tokens) {
  ENGRAM_CHECK(IsTaken(slot_in) && IsTaken(slot_out));
  tokens_[slot_out] = tokens_[slot_in] + tokens;
  if (key_values_ == nullptr) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(key_values_->Copy(slot_out, slot_in));
  return key_values_->Append(slot_out, tokens);
}

void StatePool::TakeBack(int slot, int64_t tokens) {
  ENGRAM_CHECK(IsTaken(slot) && tokens <= tokens_[slot]);
  tokens_[slot] -= tokens;
  if (key_values_ != nullptr) key_values_->TakeBack(slot, tokens);
}

absl::Span<const int32_t> StatePool::blocks_of(int slot) const {
  if (key_values_ == nullptr) return {};
  return key_values_->blocks_of(slot);
}

LayerShares StatePool::Layer(int component, int64_t layer) const {
  const StateComponent& shape = components_[component];
  ENGRAM_CHECK(layer >= 0 && layer < shape.layers);
  char* const first = At(0) + offsets_[component] + layer * LayerBytes(shape);
  return {reinterpret_cast<float*>(first),
          static_cast<int64_t>(state_bytes_ / sizeof(float))};
}

LayerShares StatePool::KeyValueLayer(int64_t layer) const {
  ENGRAM_CHECK(key_values_ != nullptr);
  return key_values_->Layer(layer);
}

char* StatePool::At(int slot) const {
  return static_cast<char*>(buffer_->data()) + slot * state_bytes_;
}

}  // namespace engram
