// The call trees of all threads as one: equal stacks are one row, and the caller's row comes before.
//
//   thread 0:  main ─► step ─► forward     ┐     main ─► step ─► forward
//   thread 1:  main ─► step ─► backward    ┘──►              └─► backward
//
// While a recording adds up its steps, every log has only what the tree of its thread got meanwhile.
#pragma once

#include <cstdint>
#include <vector>

#include "collate/interner.h"
#include "trace/flat_map.h"
#include "trace/string_table.h"
#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

class MergedStacks {
 public:
  // Adds the new functions and nodes of a tree, and empties them.
  void add(ThreadLog& log);

  // Appends the row of every op of the log, which is appended to `ops` already, to `stacks`. Empties what the log has of them.
  void place_ops(ThreadLog& log, const std::vector<Op>& ops, std::vector<int32_t>& stacks) const;
  int32_t row(const ThreadLog& log, int32_t node) const;
  uint32_t row_of_memory(const ThreadLog& log, uint32_t stack) const;

  void copy_into(Tables& tables, Interner& interner) const;

 private:
  struct Tree {
    std::vector<uint32_t> functions;
    std::vector<int32_t> rows;
  };
  uint32_t function(const Function& function);
  int32_t stack(const Stack& stack);

  std::vector<Tree> trees_;  // by number
  StringTable strings_;
  std::vector<Function> functions_;
  std::vector<Stack> stacks_;
  FlatMap<uint32_t> names_;         // by name and file
  FlatMap<uint32_t> function_ids_;  // by these and the first line
  FlatMap<uint32_t> places_;        // by function and line
  FlatMap<int32_t> stack_ids_;      // by parent and place
};

}  // namespace torchprof
