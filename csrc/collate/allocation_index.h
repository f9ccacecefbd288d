// Finds the allocation that had an address at a time: addresses are reused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "collate/block_key.h"
#include "trace/flat_map.h"
#include "trace/rows.h"

namespace torchprof {

class AllocationIndex {
  struct Range {
    uint32_t first = 0, last = 0;
  };

 public:
  explicit AllocationIndex(const std::vector<Allocation>& allocations) : allocations_(allocations), rows_(allocations.size()) {
    std::vector<uint32_t> range_of;  // of every row
    range_of.reserve(allocations.size());
    for (const Allocation& allocation : allocations) {
      const auto [number, is_new] = numbers_.try_emplace(key(allocation), static_cast<uint32_t>(ranges_.size()));
      if (is_new) {
        ranges_.emplace_back();
      }
      range_of.push_back(*number);
      ++ranges_[*number].last;
    }
    uint32_t first = 0;
    for (Range& range : ranges_) {
      const uint32_t count = range.last;
      range = {first, first};
      first += count;
    }
    for (size_t row = 0; row < rows_.size(); ++row) {
      rows_[ranges_[range_of[row]].last++] = static_cast<int32_t>(row);
    }
  }

  // The row of the allocation at this address of a device and at this time, or kNoRow.
  int32_t find(uint64_t address, int8_t device_type, int64_t time) const {
    const Range range = range_at(address, device_type);
    const auto first = rows_.begin() + range.first;
    const auto last = rows_.begin() + range.last;
    const auto after =
        std::upper_bound(first, last, time, [&](int64_t at, int32_t row) { return at < allocations_[row].start; });
    return after != first && is_allocated(*std::prev(after), time) ? *std::prev(after) : kNoRow;
  }

  // When the next block was allocated at this address after a time; kNever if there is none.
  int64_t next_start(uint64_t address, int8_t device_type, int64_t time) const {
    const Range range = range_at(address, device_type);
    for (uint32_t i = range.first; i < range.last; ++i) {
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
  Range range_at(uint64_t address, int8_t device_type) const {
    const uint32_t* const number = numbers_.find(block_key(address, device_type));
    return number != nullptr ? ranges_[*number] : Range{};
  }
  static uint64_t key(const Allocation& allocation) { return block_key(allocation.address, allocation.device_type); }

  const std::vector<Allocation>& allocations_;
  std::vector<int32_t> rows_;  // by address and device, then start
  std::vector<Range> ranges_;  // of rows_
  FlatMap<uint32_t> numbers_;  // of ranges_, by address and device
};

}  // namespace torchprof
