// The call trees of all threads as one: equal stacks are one row, and the caller's row comes before.
//
//   thread 0:  main ─► step ─► forward     ┐     main ─► step ─► forward
//   thread 1:  main ─► step ─► backward    ┘──►              └─► backward
//
// While a recording adds up its steps, every log has only what the tree of its thread got meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "collate/interner.h"
#include "trace/flat_map.h"
#include "trace/string_table.h"
#include "trace/tables.h"
#include "trace/thread_log.h"

namespace torchprof {

class MergedStacks {
 public:
  // Adds the new functions and nodes of a tree, and empties them. Without room, stacks that are not known are lost.
  void add(ThreadLog& log);
  void set_room(bool has_room) { has_room_ = has_room; }

  // No later log has this tree. The next one with its number is another.
  void forget(int32_t tree);

  // Appends the row of every op of the log, which is appended to `ops` already, to `stacks`. Empties what the log has of them.
  void place_ops(ThreadLog& log, const std::vector<Op>& ops, std::vector<int32_t>& stacks);
  int32_t row(const ThreadLog& log, int32_t node);
  uint32_t row_of_memory(const ThreadLog& log, uint32_t stack);

  void copy_into(Tables& tables, Interner& interner) const;

  int64_t bytes() const;                                    // about
  uint64_t take_lost() { return std::exchange(lost_, 0); }  // of how many ops, calls and blocks, since the last time

 private:
  struct Tree {
    std::vector<uint32_t> functions;
    std::vector<int32_t> rows;
  };
  static constexpr int32_t kLost = -2;  // in place of a row

  // Each of these returns the row of what it is given, which is added if it is new; kNoName or kLost: it is, and there is no room.
  uint32_t string(const std::string& text);
  uint32_t function(const std::string& name, const std::string* file, int32_t first_line);
  int32_t stack(const Stack& stack);

  bool has_room_ = true;
  uint64_t lost_ = 0;
  size_t in_trees_ = 0;      // rows of all of them
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
