// uint64_t -> a small value, in one array: a lookup is one access to memory most of the time, and nothing is allocated for a key.
//
//   slot of 17:  [ 17 | … ]          a key stands in its slot, or in the next that is free
//   slot of 42:  [ 42 | … ]
//                [ 9  | … ]          also has the slot of 42
//                [ kFree ]
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchprof {

template <typename Value>
class FlatMap {
  static_assert(std::is_trivially_copyable_v<Value>);

 public:
  static constexpr uint64_t kFree = UINT64_MAX;  // no key

  // nullptr: there is none. Adding and erasing keys moves values.
  Value* find(uint64_t key) {
    const size_t at = slot_of(key);
    return size_ != 0 && slots_[at].key == key ? &slots_[at].value : nullptr;
  }
  const Value* find(uint64_t key) const { return const_cast<FlatMap*>(this)->find(key); }

  // The value of the key, and whether it was added with this value.
  std::pair<Value*, bool> try_emplace(uint64_t key, const Value& value) {
    if (4 * (size_ + 1) > 3 * slots_.size()) {
      grow();
    }
    Slot& slot = slots_[slot_of(key)];
    const bool is_new = slot.key == kFree;
    if (is_new) {
      slot = {key, value};
      ++size_;
    }
    return {&slot.value, is_new};
  }
  Value& operator[](uint64_t key) { return *try_emplace(key, Value{}).first; }

  void erase(uint64_t key) {
    size_t hole = slot_of(key);
    if (size_ == 0 || slots_[hole].key != key) {
      return;
    }
    // What could not have its own slot moves up, so that there is no gap before it.
    for (size_t at = next(hole); slots_[at].key != kFree; at = next(at)) {
      const size_t distance = (at - first_slot(slots_[at].key)) & (slots_.size() - 1);
      if (distance >= ((at - hole) & (slots_.size() - 1))) {
        slots_[hole] = slots_[at];
        hole = at;
      }
    }
    slots_[hole].key = kFree;
    --size_;
  }

  void reserve(size_t keys) {
    while (3 * slots_.size() < 4 * (keys + 1)) {
      grow();
    }
  }
  size_t size() const { return size_; }
  void clear() {
    slots_.clear();
    size_ = 0;
  }

  // Calls f(key, value) for each.
  template <typename Function>
  void for_each(Function f) const {
    for (const Slot& slot : slots_) {
      if (slot.key != kFree) {
        f(slot.key, slot.value);
      }
    }
  }

 private:
  struct Slot {
    uint64_t key;
    Value value;
  };
  static constexpr size_t kFewest = 16;

  // Twice, as the upper half of a key, such as the row of a signature, would not spread otherwise.
  size_t first_slot(uint64_t key) const {
    constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u;
    key *= kOdd;
    return static_cast<size_t>(((key ^ key >> 32) * kOdd) >> shift_);
  }
  size_t next(size_t slot) const { return (slot + 1) & (slots_.size() - 1); }

  // Of the key, or a free one.
  size_t slot_of(uint64_t key) const {
    if (slots_.empty()) {
      return 0;
    }
    size_t at = first_slot(key);
    while (slots_[at].key != key && slots_[at].key != kFree) {
      at = next(at);
    }
    return at;
  }

  void grow() {
    std::vector<Slot> before(slots_.empty() ? kFewest : 2 * slots_.size(), Slot{kFree, Value{}});
    slots_.swap(before);
    shift_ = 64;
    for (size_t size = slots_.size(); size > 1; size /= 2) {
      --shift_;
    }
    for (const Slot& slot : before) {
      if (slot.key != kFree) {
        slots_[slot_of(slot.key)] = slot;
      }
    }
  }

  std::vector<Slot> slots_;  // a power of two, a quarter of them free at least
  size_t size_ = 0;
  int shift_ = 64;
};

}  // namespace torchprof
