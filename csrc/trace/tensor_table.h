// tensor <-> row. A cache of recent tensors, so that a tensor that is used again adds no row.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "trace/append_log.h"
#include "trace/list_table.h"
#include "trace/rows.h"

namespace torchprof {

class TensorTable {
 public:
  TensorTable(AppendLog<Tensor>& rows, ListTable& shapes) : rows_(rows), shapes_(shapes) {}

  // The row of this tensor, whose `shape` is not read; kNoRow when the budget is spent.
  int32_t row(Tensor tensor, const int64_t* dims, size_t ndim) {
    Recent& recent = recent_[slot(tensor.storage, dims, ndim)];
    if (same(recent.tensor, tensor) && recent.row != kNoRow && shapes_.equal(recent.tensor.shape, dims, ndim)) {
      return recent.row;
    }
    Tensor* const row = rows_.room();
    if (row == nullptr) {
      return kNoRow;
    }
    tensor.shape = shapes_.id(dims, ndim);
    *row = tensor;
    rows_.keep();
    recent = {tensor, static_cast<int32_t>(rows_.size() - 1)};
    return recent.row;
  }

 private:
  static constexpr unsigned kBits = 9;
  struct Recent {
    Tensor tensor{};
    int32_t row = kNoRow;
  };

  // Every operand waits for this hash, so it is short: the address, and enough of the shape to separate a tensor from its views.
  static size_t slot(uint64_t storage, const int64_t* dims, size_t ndim) {
    uint64_t key = storage ^ ndim;
    if (ndim != 0) {
      key += static_cast<uint64_t>(dims[0]) * 0xC2B2AE3D27D4EB4Fu ^ static_cast<uint64_t>(dims[ndim - 1]) << 20;
    }
    return key * 0x9E3779B97F4A7C15u >> (64 - kBits);
  }

  // Of the last four no one alone differs often. Compared one by one, the compiler would gather them in memory and wait for that.
  static bool same(const Tensor& a, const Tensor& b) {
    return a.storage == b.storage && a.storage_bytes == b.storage_bytes && a.bytes == b.bytes &&
           ((a.dtype ^ b.dtype) | (a.device_type ^ b.device_type) | (a.device_index ^ b.device_index) | (a.flags ^ b.flags)) ==
               0;
  }

  AppendLog<Tensor>& rows_;
  ListTable& shapes_;
  std::array<Recent, size_t{1} << kBits> recent_{};
};

}  // namespace torchprof
