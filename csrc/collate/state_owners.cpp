#include "collate/state_owners.h"

#include <tuple>
#include <utility>

namespace torchprof {
namespace {

constexpr int64_t kNumber = 8;  // bytes: parameters may share a learning rate, or a count of steps

void own(Allocation& state, int32_t module) {
  if (state.start == kNever && state.module == kNoRow && state.bytes > kNumber) {
    state.module = module;
  }
}

// The first inputs of an op that are parameters, or else gradients, whose module is known: where they begin, and how many they are.
std::pair<size_t, size_t> owned_list(const Tables& tables, const std::vector<int32_t>& rows, uint16_t use) {
  const auto is_one = [&](int32_t row) {
    return row != kNoRow && (tables.allocations[row].uses & use) != 0 && tables.allocations[row].module != kNoRow;
  };
  size_t first = 0;
  while (first < rows.size() && !is_one(rows[first])) {
    ++first;
  }
  size_t after = first;
  while (after < rows.size() && is_one(rows[after])) {
    ++after;
  }
  return {first, after - first};
}

}  // namespace

void own_state(Tables& tables, const Op& op, const std::vector<int32_t>& rows) {
  if ((op.flags & kAttributed) != 0 && op.module_call != kNoRow) {
    for (const int32_t row : rows) {
      if (row != kNoRow) {
        own(tables.allocations[row], static_cast<int32_t>(tables.module_calls[op.module_call].module));
      }
    }
    return;
  }
  auto [first, count] = owned_list(tables, rows, kParameter);
  if (count == 0) {
    std::tie(first, count) = owned_list(tables, rows, kGradient);
  }
  for (size_t i = 0; count > 1 && i < rows.size(); ++i) {
    const Allocation& owner = tables.allocations[rows[first + (i + count - first % count) % count]];
    if (rows[i] != kNoRow && tables.allocations[rows[i]].bytes == owner.bytes) {
      own(tables.allocations[rows[i]], owner.module);
    }
  }
}

}  // namespace torchprof
