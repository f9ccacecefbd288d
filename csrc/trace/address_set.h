// A set of addresses that only grows, for millions of insertions of few that differ. 0 is no member.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace torchprof {

class AddressSet {
 public:
  void insert(uint64_t address) {
    if (slots_.empty() || slots_[first_slot(address)] != address) {
      find_or_add(address);
    }
  }

  bool contains(uint64_t address) const { return address != 0 && !slots_.empty() && slots_[find(address)] == address; }

  void insert(const AddressSet& more) {
    for (const uint64_t address : more.slots_) {
      if (address != 0) {
        insert(address);
      }
    }
  }

 private:
  size_t first_slot(uint64_t address) const {
    return static_cast<size_t>((address >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (slots_.size() - 1);
  }

  // The slot of an address, or the empty one where it belongs.
  size_t find(uint64_t address) const {
    size_t slot = first_slot(address);
    while (slots_[slot] != address && slots_[slot] != 0) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }

  // Out of the way of the many that are members.
  [[gnu::noinline]] void find_or_add(uint64_t address) {
    if (2 * size_ >= slots_.size()) {
      grow();
    }
    uint64_t& slot = slots_[find(address)];
    size_ += slot == 0 && address != 0 ? 1 : 0;
    slot = address;
  }

  void grow() {
    std::vector<uint64_t> old(slots_.empty() ? 1024 : 2 * slots_.size(), 0);  // a power of two
    slots_.swap(old);
    for (const uint64_t address : old) {
      if (address != 0) {
        slots_[find(address)] = address;
      }
    }
  }

  std::vector<uint64_t> slots_;
  size_t size_ = 0;
};

}  // namespace torchprof
