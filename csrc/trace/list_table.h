// list of integers <-> id: the dims of a shape, the words of a signature. A model repeats a few hundred of them, so a small
// direct-mapped cache answers almost every lookup.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "trace/append_log.h"
#include "trace/rows.h"

namespace torchprof {

class ListTable {
 public:
  // `share`: what lists count towards; nullptr: nothing. Where it is spent, a new list is as if there were no memory.
  explicit ListTable(Share* share = nullptr) : share_(share) {}

  uint32_t id(const int64_t* values, size_t count) {
    const uint64_t hash = hash_of(values, count);
    Recent& recent = recent_[hash % kRecent];
    if (recent.hash == hash && recent.known && equal(recent.id, values, count)) {
      return recent.id;
    }
    const uint32_t id = find_or_add(hash, values, count);
    recent = {hash, id, true};
    return id;
  }

  // The id of a list that is known, else `otherwise`.
  uint32_t find(const int64_t* values, size_t count, uint32_t otherwise) const {
    auto [candidate, last] = ids_.equal_range(hash_of(values, count));
    while (candidate != last && !equal(candidate->second, values, count)) {
      ++candidate;
    }
    return candidate != last ? candidate->second : otherwise;
  }

  const std::vector<Shape>& lists() const { return lists_; }
  const std::vector<int64_t>& values() const { return values_; }

  static uint64_t hash_of(const int64_t* values, size_t count) {
    uint64_t hash = count;
    for (size_t i = 0; i < count; ++i) {
      hash = (hash ^ static_cast<uint64_t>(values[i])) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }

  bool equal(uint32_t id, const int64_t* values, size_t count) const {
    const Shape& list = lists_[id];
    if (list.ndim != count) {
      return false;
    }
    const int64_t* const known = values_.data() + list.first;
    for (size_t i = 0; i < count; ++i) {  // lists are short: calling memcmp would take longer
      if (known[i] != values[i]) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kRecent = 256;
  struct Recent {
    uint64_t hash = 0;
    uint32_t id = 0;
    bool known = false;
  };

  uint32_t find_or_add(uint64_t hash, const int64_t* values, size_t count) {
    auto [candidate, last] = ids_.equal_range(hash);
    for (; candidate != last; ++candidate) {
      if (equal(candidate->second, values, count)) {
        return candidate->second;
      }
    }
    if (share_ != nullptr) {
      share_->take(kBytesOfList + static_cast<int64_t>(count * sizeof(int64_t)));
    }
    const auto id = static_cast<uint32_t>(lists_.size());
    const size_t first = values_.size();
    lists_.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(count)});
    try {
      values_.insert(values_.end(), values, values + count);
      ids_.emplace(hash, id);
    } catch (...) {
      lists_.pop_back();
      values_.resize(first);
      throw;
    }
    return id;
  }

  static constexpr int64_t kBytesOfList = 64;

  Share* share_;
  std::array<Recent, kRecent> recent_{};
  std::vector<Shape> lists_;
  std::vector<int64_t> values_;
  std::unordered_multimap<uint64_t, uint32_t> ids_;
};

}  // namespace torchprof
