// dims <-> id. A model meets a few hundred shapes over and over: a small direct-mapped cache answers almost all.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "events.h"

namespace torchprof {

class ShapeTable {
 public:
  uint32_t id(const int64_t* dims, size_t ndim) {
    const uint64_t hash = hash_of(dims, ndim);
    Recent& recent = recent_[hash % kRecent];
    if (recent.hash == hash && recent.known && equal(recent.id, dims, ndim)) {
      return recent.id;
    }
    const uint32_t id = find_or_add(hash, dims, ndim);
    recent = {hash, id, true};
    return id;
  }

  const std::vector<Shape>& shapes() const { return shapes_; }
  const std::vector<int64_t>& dims() const { return dims_; }

  static uint64_t hash_of(const int64_t* dims, size_t ndim) {
    uint64_t hash = ndim;
    for (size_t i = 0; i < ndim; ++i) {
      hash = (hash ^ static_cast<uint64_t>(dims[i])) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }

  bool equal(uint32_t id, const int64_t* dims, size_t ndim) const {
    const Shape& shape = shapes_[id];
    if (shape.ndim != ndim) {
      return false;
    }
    const int64_t* const known = dims_.data() + shape.first;
    for (size_t i = 0; i < ndim; ++i) {  // a handful: a call of memcmp would take longer
      if (known[i] != dims[i]) {
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

  uint32_t find_or_add(uint64_t hash, const int64_t* dims, size_t ndim) {
    auto [candidate, last] = ids_.equal_range(hash);
    for (; candidate != last; ++candidate) {
      if (equal(candidate->second, dims, ndim)) {
        return candidate->second;
      }
    }
    const auto id = static_cast<uint32_t>(shapes_.size());
    shapes_.push_back({static_cast<uint32_t>(dims_.size()), static_cast<uint32_t>(ndim)});
    dims_.insert(dims_.end(), dims, dims + ndim);
    ids_.emplace(hash, id);
    return id;
  }

  std::array<Recent, kRecent> recent_{};
  std::vector<Shape> shapes_;
  std::vector<int64_t> dims_;
  std::unordered_multimap<uint64_t, uint32_t> ids_;
};

}  // namespace torchprof
