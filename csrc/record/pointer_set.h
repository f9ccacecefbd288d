// A set of pointers, an open hash table: a model has tens of thousands of objects, and std::unordered_set allocates for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace torchprof {

inline size_t hash_of(const void* pointer) {
  return static_cast<size_t>((reinterpret_cast<uint64_t>(pointer) >> 4) * 0x9E3779B97F4A7C15U >> 16);
}

class PointerSet {
 public:
  // Whether it is new. Never nullptr.
  bool insert(const void* pointer) {
    if (2 * (count_ + 1) > slots_.size()) {
      grow();
    }
    const void*& slot = find(slots_, pointer);
    if (slot != nullptr) {
      return false;
    }
    slot = pointer;
    ++count_;
    return true;
  }

  size_t size() const { return count_; }

 private:
  static const void*& find(std::vector<const void*>& slots, const void* pointer) {
    size_t at = hash_of(pointer);
    while (slots[at & (slots.size() - 1)] != nullptr && slots[at & (slots.size() - 1)] != pointer) {
      ++at;
    }
    return slots[at & (slots.size() - 1)];
  }

  void grow() {
    std::vector<const void*> larger(slots_.empty() ? 64 : slots_.size() * 4);
    for (const void* const pointer : slots_) {
      if (pointer != nullptr) {
        find(larger, pointer) = pointer;
      }
    }
    slots_ = std::move(larger);
  }

  std::vector<const void*> slots_;  // a power of two
  size_t count_ = 0;
};

}  // namespace torchprof
