// Sums steps up, so that a recording of any length takes constant memory: see OpTotal, CallTotal and KernelTotal.
//
//   tables of a step ──add──► op_totals, call_totals, kernel_totals  ──take──► tables without rows per event
//                                  ▲      │ FLOPs and bytes of each, which Python knows
//                                  └merge: one row for all but the first shapes of an op in a module, ... see merged_rows.cpp
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "collate/interner.h"
#include "collate/phase_times.h"
#include "collate/signatures.h"
#include "collate/stacks.h"
#include "trace/flat_map.h"
#include "trace/tables.h"

namespace torchprof {

// Figures of every row of op_totals, for all its ops together.
struct OpFigures {
  std::vector<int64_t> flops;
  std::vector<double> moved;
  std::vector<uint8_t> unknown;  // as in OpTotal
};

class Totals {
 public:
  // The sums take about half of these bytes at most. What has no room is counted in losses().
  explicit Totals(int64_t budget_bytes) : budget_(budget_bytes) {}

  // `allocated`: bytes by every op of the step. Where it throws (std::bad_alloc), no figure has changed; more cannot be added then.
  void add(const Tables& step, const PhaseTimes& times, const std::vector<int64_t>& allocated);

  // Whether so many rows were added that merge() is worth its time. Its figures are those of the rows of copy(); `registered`: the
  // addresses of the modules of the model.
  bool is_merge_due() const;
  void merge(const OpFigures& figures, const std::unordered_set<uint64_t>& registered);
  void move_modules(const NewAddresses& addresses) { interner_.move_modules(addresses); }
  size_t op_rows() const { return tables_.op_totals.size(); }
  size_t shapes_kept() const { return shapes_kept_; }  // of each op in each module

  // The sums, with the strings, shapes, signatures, modules and stacks that they refer to.
  Tables copy(const MergedStacks& stacks) const;
  const Losses& losses() const { return losses_; }
  int64_t bytes() const;  // about
  // What somebody else took of the same budget.
  void set_taken_beside(int64_t bytes) { beside_ = bytes; }
  bool has_room() const { return bytes() + beside_ < budget_ / 2; }

 private:
  class Translation;
  // Sums that are equal but for the stack.
  struct Group {
    uint32_t number;
    uint32_t stacks;  // how many have sums of their own
  };
  // Name, name of the op, module, device, kind, direction, phase, and whether in a graph.
  using KernelKey = std::tuple<uint32_t, uint32_t, int32_t, int8_t, int8_t, uint8_t, uint8_t, uint8_t, uint8_t>;

  static KernelKey key_of(const KernelTotal& total) {
    return {total.name, total.op,        total.module, total.device_type, total.device_index,
            total.kind, total.direction, total.phase,  total.in_graph};
  }

  void take_over(Translation& translate, const Tables& before, const OpFigures& figures);
  size_t rows() const { return tables_.op_totals.size() + tables_.call_totals.size() + tables_.kernel_totals.size(); }
  size_t most_ranges() const { return kMostRanges * shapes_kept_ / kMostShapes; }
  // The longest that a module that is registered nowhere is not called and has sums of its own, in steps.
  uint32_t longest_idle() const { return static_cast<uint32_t>(kLongestIdle * shapes_kept_ / kMostShapes); }
  // These rows are added if they are new; kNoRoom: they are, and have no room.
  size_t row_of(const OpTotal& key);
  size_t row_of(const CallTotal& key);
  template <typename Total>
  size_t row_with_stack(FlatMap<Group>& groups, FlatMap<size_t>& rows, uint64_t word, Total key, std::vector<Total>& table);

  uint32_t add_signature(const Signature& signature, const Tables& step, const std::vector<uint32_t>& strings,
                         const std::vector<uint32_t>& shapes);
  // By row of the step; kNoRoom: it has none, which is counted.
  std::vector<size_t> rows_of_ops(const Tables& step, const std::vector<uint32_t>& signatures,
                                  const std::vector<uint32_t>& modules);
  std::vector<size_t> rows_of_calls(const Tables& step, const std::vector<uint32_t>& modules);
  std::vector<size_t> rows_of_kernels(const Tables& step, const std::vector<uint32_t>& strings,
                                      const std::vector<uint32_t>& modules);

  static constexpr size_t kNoRoom = SIZE_MAX;
  static constexpr size_t kMostShapes = 16;
  static constexpr uint32_t kMostStacks = 64;  // that have sums of their own, of those that are equal but for the stack
  static constexpr size_t kMostNewRows = 4096;
  static constexpr size_t kMostRanges = 1024;  // names of user ranges that have sums of their own, where rows are merged
  static constexpr size_t kLongestIdle = 256;

  int64_t budget_;
  int64_t beside_ = 0;
  uint32_t steps_ = 0;            // that were added
  std::vector<uint32_t> called_;  // by module: the latest of them in which it was
  size_t shapes_kept_ = kMostShapes;
  size_t rows_settled_ = 0;  // that were there after the latest merge, or after the first step: most steps are like it
  Losses losses_;
  Interner interner_;
  SignatureTable known_;
  Tables tables_;
  FlatMap<Group> op_groups_;    // by signature, module, phase and nesting
  FlatMap<Group> call_groups_;  // by module and phase
  FlatMap<size_t> op_rows_;     // by group and stack
  FlatMap<size_t> call_rows_;
  std::map<KernelKey, size_t> kernel_rows_;
};

}  // namespace torchprof
