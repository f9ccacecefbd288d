// Finds the allocation that had an address at a time: addresses are reused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "collate/block_key.h"
#include "trace/rows.h"

namespace torchprof {

class AllocationIndex {
 public:
  explicit AllocationIndex(const std::vector<Allocation>& allocations) : allocations_(allocations) {
    for (size_t row = 0; row < allocations.size(); ++row) {
      rows_.push_back(static_cast<int32_t>(row));
    }
    std::stable_sort(rows_.begin(), rows_.end(), [&](int32_t a, int32_t b) {
      return key(allocations[a]) < key(allocations[b]);  // stable: by start within an address
    });
    for (size_t i = 0; i < rows_.size();) {
      const uint64_t block = key(allocations[rows_[i]]);
      const size_t first = i;
      while (i < rows_.size() && key(allocations[rows_[i]]) == block) {
        ++i;
      }
      ranges_.emplace(block, std::pair{static_cast<uint32_t>(first), static_cast<uint32_t>(i)});
    }
  }

  // The row of the allocation at this address of a device and at this time, or kNoRow.
  int32_t find(uint64_t address, int8_t device_type, int64_t time) const {
    const auto found = ranges_.find(block_key(address, device_type));
    if (found == ranges_.end()) {
      return kNoRow;
    }
    const auto first = rows_.begin() + found->second.first;
    const auto last = rows_.begin() + found->second.second;
    const auto after =
        std::upper_bound(first, last, time, [&](int64_t at, int32_t row) { return at < allocations_[row].start; });
    return after != first && is_allocated(*std::prev(after), time) ? *std::prev(after) : kNoRow;
  }

  // When the next block was allocated at this address after a time; kNever if there is none.
  int64_t next_start(uint64_t address, int8_t device_type, int64_t time) const {
    const auto found = ranges_.find(block_key(address, device_type));
    for (uint32_t i = found == ranges_.end() ? 0 : found->second.first; found != ranges_.end() && i < found->second.second;
         ++i) {
      if (const int64_t start = allocations_[rows_[i]].start; start > time) {
        return start;
      }
    }
    return kNever;
  }

  bool is_allocated(int32_t row, int64_t time) const {
    const Allocation& allocation = allocations_[row];
    return allocation.start <= time && (allocation.end == kNever || time <= allocation.end);
  }

 private:
  static uint64_t key(const Allocation& allocation) { return block_key(allocation.address, allocation.device_type); }

  const std::vector<Allocation>& allocations_;
  std::vector<int32_t> rows_;  // by address and device, then start
  std::unordered_map<uint64_t, std::pair<uint32_t, uint32_t>> ranges_;
};

}  // namespace torchprof
