#include "collate/stacks.h"

namespace torchprof {
namespace {

constexpr int32_t kUnplaced = -2;  // an op without a stack of its own

uint64_t key_of(int32_t high, int32_t low) {
  return static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 | static_cast<uint32_t>(low);
}

// The number of a key: those of a map are counted from 0. kNoName: it is new, and there is no room.
uint32_t number_of(FlatMap<uint32_t>& map, uint32_t high, int32_t low, bool has_room) {
  const uint64_t key = key_of(static_cast<int32_t>(high), low);
  if (const uint32_t* const known = map.find(key)) {
    return *known;
  }
  return has_room ? *map.try_emplace(key, static_cast<uint32_t>(map.size())).first : kNoName;
}

}  // namespace

uint32_t MergedStacks::string(const std::string& text) {
  return has_room_ ? strings_.id(std::string_view(text)) : strings_.find(text, kNoName);
}

uint32_t MergedStacks::function(const std::string& name, const std::string* file, int32_t first_line) {
  Function function{string(name), kNoRow, first_line};
  if (file != nullptr) {
    function.file = static_cast<int32_t>(string(*file));
  }
  if (function.name == kNoName || (file != nullptr && function.file == kNoRow)) {
    return kNoName;
  }
  const uint32_t names = number_of(names_, function.name, function.file, has_room_);
  const uint32_t id = names == kNoName ? kNoName : number_of(function_ids_, names, first_line, has_room_);
  if (id == functions_.size()) {
    functions_.push_back(function);
  }
  return id;
}

int32_t MergedStacks::stack(const Stack& stack) {
  if (stack.parent == kLost || stack.function == kNoName) {
    return kLost;
  }
  const uint32_t place = number_of(places_, stack.function, stack.line, has_room_);
  if (place == kNoName) {
    return kLost;
  }
  const uint64_t key = key_of(stack.parent, static_cast<int32_t>(place));
  if (const int32_t* const known = stack_ids_.find(key)) {
    return *known;
  }
  if (!has_room_) {
    return kLost;
  }
  const auto [row, is_new] = stack_ids_.try_emplace(key, static_cast<int32_t>(stacks_.size()));
  if (is_new) {
    stacks_.push_back(stack);
  }
  return *row;
}

void MergedStacks::add(ThreadLog& log) {
  if (log.tree_number == kNoRow) {
    return;
  }
  if (trees_.size() <= static_cast<size_t>(log.tree_number)) {
    trees_.resize(static_cast<size_t>(log.tree_number) + 1);
  }
  Tree& tree = trees_[static_cast<size_t>(log.tree_number)];
  in_trees_ += log.tree_rows.functions.size() + log.tree_rows.nodes.size();
  log.tree_rows.functions.drain([&](const Function* rows, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const std::string* const file = rows[i].file == kNoRow ? nullptr : &log.strings[static_cast<uint32_t>(rows[i].file)];
      tree.functions.push_back(function(log.strings[rows[i].name], file, rows[i].first_line));
    }
  });
  log.tree_rows.nodes.drain([&](const Stack* rows, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const int32_t parent = rows[i].parent == kNoRow ? kNoRow : tree.rows[static_cast<size_t>(rows[i].parent)];
      tree.rows.push_back(stack({parent, tree.functions[rows[i].function], rows[i].line}));
    }
  });
}

void MergedStacks::forget(int32_t tree) {
  if (static_cast<size_t>(tree) < trees_.size()) {
    const Tree ended = std::exchange(trees_[static_cast<size_t>(tree)], {});
    in_trees_ -= ended.functions.size() + ended.rows.size();
  }
}

int32_t MergedStacks::row(const ThreadLog& log, int32_t node) {
  const int32_t found = node == kNoRow ? kNoRow : trees_[static_cast<size_t>(log.tree_number)].rows[static_cast<size_t>(node)];
  lost_ += found == kLost ? 1 : 0;
  return found == kLost ? kNoRow : found;
}

uint32_t MergedStacks::row_of_memory(const ThreadLog& log, uint32_t stack) {
  if (stack >= kUnknownStack) {
    return stack;
  }
  const auto found = static_cast<uint32_t>(row(log, static_cast<int32_t>(stack)));
  return found < kUnknownStack ? found : kUnknownStack;
}

void MergedStacks::place_ops(ThreadLog& log, const std::vector<Op>& ops, std::vector<int32_t>& stacks) {
  const size_t first = stacks.size();
  stacks.resize(ops.size(), kUnplaced);
  log.op_stacks.drain([&](const OpStack* rows, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      stacks[first + static_cast<size_t>(rows[i].op)] = row(log, rows[i].stack);
    }
  });
  for (size_t i = first; i < ops.size(); ++i) {
    if (i - first >= log.ops_with_stacks) {
      stacks[i] = kNoRow;
    } else if (stacks[i] == kUnplaced) {
      stacks[i] = ops[i].parent == kNoRow ? kNoRow : stacks[static_cast<size_t>(ops[i].parent)];
    }
  }
}

int64_t MergedStacks::bytes() const {
  constexpr size_t kOfMap = 32, kOfName = 96;  // of a map for each of its keys, and of a name besides its characters
  const size_t found = stacks_.size() * (sizeof(Stack) + kOfMap) + places_.size() * kOfMap +
                       functions_.size() * (sizeof(Function) + 2 * kOfMap) + strings_.size() * kOfName + strings_.characters();
  return static_cast<int64_t>(found + in_trees_ * sizeof(int32_t));
}

void MergedStacks::copy_into(Tables& tables, Interner& interner) const {
  const auto string = [&](int32_t row) {
    return row == kNoRow ? kNoRow : static_cast<int32_t>(interner.string(strings_[static_cast<uint32_t>(row)]));
  };
  for (const Function& function : functions_) {
    tables.functions.push_back(
        {static_cast<uint32_t>(string(static_cast<int32_t>(function.name))), string(function.file), function.first_line});
  }
  tables.stacks = stacks_;
}

}  // namespace torchprof
