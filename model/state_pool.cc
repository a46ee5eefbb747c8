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

}  // namespace

int64_t StateComponent::floats() const {
  int64_t product = 1;
  for (int64_t dimension : shape) product *= dimension;
  return product;
}

StatePool::StatePool(Backend* backend, std::vector<StateComponent> components,
                     int slots, std::unique_ptr<KeyValuePool> key_values)
    : backend_(backend),
      components_(std::move(components)),
      slots_(slots),
      key_values_(std::move(key_values)),
      taken_(slots, false) {
  for (const StateComponent& component : components_) {
    state_bytes_ += component.layers * LayerBytes(component);
  }
  // The last is taken first: slots go out in ascending order at the start.
  for (int slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(
    Backend* backend, std::vector<StateComponent> components, int slots,
    std::unique_ptr<KeyValuePool> key_values) {
  ENGRAM_CHECK(slots >= 1);
  std::unique_ptr<StatePool> pool(new StatePool(backend, std::move(components),
                                                slots, std::move(key_values)));
  for (const StateComponent& component : pool->components_) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(component.layers * LayerBytes(component),
                               static_cast<size_t>(slots), &bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat(slots, " slots of ", pool->state_bytes_,
                       " bytes: more than can be addressed"));
    }
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(bytes);
    if (!buffer.ok()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no memory for ", slots, " slots of ", pool->state_bytes_, " bytes; ",
          component.name, " alone takes ", bytes,
          " bytes: ", buffer.status().message()));
    }
    pool->buffers_.push_back(std::move(*buffer));
  }
  return pool;
}

int StatePool::Take() {
  const int slot = TakeForOverwrite();
  if (slot >= 0) Clear(slot);
  return slot;
}

size_t StatePool::bytes(int slot) const {
  return state_bytes_ + (key_values_ == nullptr ? 0 : key_values_->bytes(slot));
}

void StatePool::Clear(int slot) {
  ENGRAM_CHECK(IsTaken(slot));
  if (key_values_ != nullptr) key_values_->Clear(slot);
  for (size_t i = 0; i < components_.size(); ++i) {
    for (int64_t layer = 0; layer < components_[i].layers; ++layer) {
      backend_->Zero(Piece(i, layer, slot), LayerBytes(components_[i]));
    }
  }
}

int StatePool::TakeForOverwrite() {
  if (free_.empty()) return -1;
  const int slot = free_.back();
  free_.pop_back();
  taken_[slot] = true;
  return slot;
}

void StatePool::Free(int slot) {
  ENGRAM_CHECK(IsTaken(slot));
  if (key_values_ != nullptr) key_values_->Free(slot);
  taken_[slot] = false;
  free_.push_back(slot);
}

void StatePool::CopySlot(int target, int source) {
  ENGRAM_CHECK(IsTaken(target) && IsTaken(source));
  if (target == source) return;
  if (key_values_ != nullptr) key_values_->Copy(target, source);
  for (size_t i = 0; i < components_.size(); ++i) {
    for (int64_t layer = 0; layer < components_[i].layers; ++layer) {
      backend_->Copy(Piece(i, layer, target), Piece(i, layer, source),
                     LayerBytes(components_[i]));
    }
  }
}

void StatePool::Save(int slot, void* block) const {
  SavePart(slot, 0, bytes(slot), block);
}

void StatePool::SavePart(int slot, size_t begin, size_t count,
                         void* part) const {
  ENGRAM_CHECK(IsTaken(slot) && begin + count <= bytes(slot));
  char* target = static_cast<char*>(part);
  size_t first = 0;  // byte of the component
  for (size_t i = 0; i < components_.size() && count > 0; ++i) {
    const size_t piece = LayerBytes(components_[i]);
    const size_t end = first + components_[i].layers * piece;
    while (count > 0 && begin < end) {
      const int64_t layer = (begin - first) / piece;
      const size_t within = (begin - first) % piece;
      const size_t bytes = std::min(count, piece - within);
      backend_->CopyToHost(
          target, reinterpret_cast<const char*>(Piece(i, layer, slot)) + within,
          bytes);
      target += bytes;
      begin += bytes;
      count -= bytes;
    }
    first = end;
  }
  if (count > 0) key_values_->SavePart(slot, begin - first, count, target);
}

void StatePool::Restore(int slot, const void* block, int64_t tokens) {
  ENGRAM_CHECK(IsTaken(slot));
  const char* source = static_cast<const char*>(block);
  for (size_t i = 0; i < components_.size(); ++i) {
    const size_t bytes = LayerBytes(components_[i]);
    for (int64_t layer = 0; layer < components_[i].layers; ++layer) {
      backend_->CopyFromHost(Piece(i, layer, slot), source, bytes);
      source += bytes;
    }
  }
  if (key_values_ != nullptr) key_values_->Restore(slot, source, tokens);
}

float* StatePool::Layer(int component, int64_t layer) {
  return Piece(component, layer, 0);
}

float* StatePool::Piece(int component, int64_t layer, int slot) const {
  const StateComponent& shape = components_[component];
  ENGRAM_CHECK(layer >= 0 && layer < shape.layers);
  return buffers_[component]->floats() +
         (layer * slots_ + slot) * shape.floats();
}

}  // namespace engram
