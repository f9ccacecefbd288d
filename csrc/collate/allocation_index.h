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
  struct Range {
    uint32_t first = 0, last = 0;
  };

 public:
  explicit AllocationIndex(const std::vector<Allocation>& allocations) : allocations_(allocations), rows_(allocations.size()) {
    std::vector<Range*> ranges;  // of every row: the map never moves them
    ranges.reserve(allocations.size());
    ranges_.reserve(std::min<size_t>(allocations.size(), 1024));
    for (const Allocation& allocation : allocations) {
      ranges.push_back(&ranges_[key(allocation)]);
      ++ranges.back()->last;
    }
    uint32_t first = 0;
    for (auto& [block, range] : ranges_) {
      const uint32_t count = range.last;
      range = {first, first};
      first += count;
    }
    for (size_t row = 0; row < rows_.size(); ++row) {
      rows_[ranges[row]->last++] = static_cast<int32_t>(row);
    }
  }

  // The row of the allocation at this address of a device and at this time, or kNoRow.
  int32_t find(uint64_t address, int8_t device_type, int64_t time) const {
    const auto found = ranges_.find(block_key(address, device_type));
    if (found == ranges_.end()) {
      return kNoRow;
    }
    const auto first = rows_.begin() + found->second.first;
    const auto last = rows_.begin() + found->second.last;
    const auto after =
        std::upper_bound(first, last, time, [&](int64_t at, int32_t row) { return at < allocations_[row].start; });
    return after != first && is_allocated(*std::prev(after), time) ? *std::prev(after) : kNoRow;
  }

  // When the next block was allocated at this address after a time; kNever if there is none.
  int64_t next_start(uint64_t address, int8_t device_type, int64_t time) const {
    const auto found = ranges_.find(block_key(address, device_type));
    for (uint32_t i = found == ranges_.end() ? 0 : found->second.first; found != ranges_.end() && i < found->second.last; ++i) {
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
  std::vector<int32_t> rows_;                   // by address and device, then start
  std::unordered_map<uint64_t, Range> ranges_;  // of rows_
};

}  // namespace torchprof
