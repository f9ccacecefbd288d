// What one thread recorded: its rows, its tables of names and shapes, and the ops and module calls that are open now. Only that
// thread writes to it, without a lock. collate() reads it when the thread no longer writes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "trace/address_set.h"
#include "trace/append_log.h"
#include "trace/call_tree.h"
#include "trace/collective_names.h"
#include "trace/list_table.h"
#include "trace/op_classes.h"
#include "trace/rows.h"
#include "trace/string_table.h"
#include "trace/tensor_table.h"

namespace torchprof {

// Where a thread is in Python. Equal ones are the same only while C that was called from there has not returned.
struct Position {
  const void* frame = nullptr;
  const void* instruction = nullptr;
  bool operator==(const Position&) const = default;
};

class ThreadLog {
 public:
  struct OpenOp {
    const void* key = nullptr;
    Op* op = nullptr;                // nullptr: it was dropped
    int32_t row = kNoRow;            // of this op; where it was dropped, of the nearest recorded op around it
    Arguments* arguments = nullptr;  // nullptr: its outputs are not kept
    bool counted = false;  // it, or an op around it, is counted by a formula; set by CountedOpObserver only, as is the next
    bool unknown = false;  // it, or an op around it, is unknown
    bool has_tangents = false;
    Position began_at;       // where stacks are recorded
    int32_t stack = kNoRow;  // the same
  };

  // What its end fills in. Two pointers, which are returned in registers.
  struct ClosedOp {
    Op* op = nullptr;  // nullptr: there is no row, as it was dropped or did not begin here
    Arguments* arguments = nullptr;
  };

  // `tree`: nullptr where stacks are not recorded.
  ThreadLog(Budget& budget, uint16_t thread, Thread identity, const OpClasses& classes = none(), uint64_t posix_id = 0,
            CallTree* tree = nullptr)
      : share(budget),
        ops(budget),
        operands(budget),
        tensors(budget),
        arguments(budget),
        module_calls(budget),
        memory_events(budget),
        blocks_met(budget),
        allocator_totals(budget),
        op_stacks(budget),
        tree_rows(budget),
        tree(tree),
        tree_number(tree != nullptr ? tree->number() : kNoRow),
        strings(&share),
        shapes(&share),
        identity(identity),
        posix_id(posix_id),
        thread_(thread),
        tensor_table_(tensors, shapes),
        classes_(classes) {
    share.take(sizeof(ThreadLog));
    open_ops_.reserve(64);
    open_calls_.reserve(64);
  }

  Share share;  // of the budget: besides rows, itself, its names and its shapes
  AppendLog<Op> ops;
  AppendLog<int32_t> operands;
  AppendLog<Tensor> tensors;
  AppendLog<Arguments> arguments;
  AppendLog<ModuleCall> module_calls;
  AppendLog<MemoryEvent> memory_events;
  AppendLog<BlockMet> blocks_met;
  AppendLog<AllocatorTotal> allocator_totals;
  AppendLog<OpStack> op_stacks;
  TreeRows tree_rows;
  CallTree* const tree;                   // of this thread, which alone uses it
  const int32_t tree_number;              // of the tree, which may have ended with its thread; kNoRow: stacks are not recorded
  uint64_t stacks_lost = 0;               // ops, calls and allocations whose stack did not fit the budget
  uint32_t ops_with_stacks = UINT32_MAX;  // the ops from this row on have none, as it did not fit
  AddressSet storages_read;               // see note_storages()
  AddressSet known_blocks;  // see meet_block(), as the next; no addresses, but what stands for a storage with its memory
  uint64_t known_blocks_version = 0;
  std::vector<Module> modules;
  StringTable strings;
  ListTable shapes;
  const Thread identity;
  const uint64_t posix_id;      // pthread_self()
  uint64_t unmatched_ends = 0;  // ops that ended here but began before the recording or on another thread

  // An op began. `key` identifies it again at its end. Returns the row to fill in, or nullptr when the budget is spent, or the memory
  // of the process: then it is dropped. The op is open in both cases, but for one that even this has no memory for.
  Op* open_op(const void* key, const char* name) noexcept {
    try {
      const uint32_t signature = strings.id(name);
      OpenOp& open = add_open_op(key);
      Op* const op = ops.append();
      if (op != nullptr) {
        op->signature = signature;
        op->end = kNever;
        op->parent = open.row;
        op->module_call = current_call();
        op->thread = thread_;
        op->flags = 0;
        op->inputs = op->outputs = operands.size();
        op->n_inputs = op->n_outputs = 0;
        open.op = op;
        open.row = static_cast<int32_t>(ops.size() - 1);
      }
      return op;
    } catch (const std::bad_alloc&) {
      return drop_op(key);
    }
  }

  // The open op that is `up` levels above the innermost, if what runs now has its stack: it began at the same position, and C that was
  // called from there has not returned. Python that was called meanwhile would be another frame. Of a range nothing follows, as what
  // opened it may have returned.
  const OpenOp* op_with_stack_of(const Position& now, size_t up) const {
    const OpenOp* const open = up < open_ops_.size() ? &open_ops_[open_ops_.size() - 1 - up] : nullptr;
    return open != nullptr && open->op != nullptr && !is_range(*open) && open->began_at == now ? open : nullptr;
  }

  bool is_outside_ops() const { return open_ops_.empty() || open_ops_.back().op == nullptr || is_range(open_ops_.back()); }

  // Something of an op does not fit: it is there, with less than it has.
  void truncate(Op& op) noexcept {
    op.flags |= kTruncated;
    operands.drop();
  }

  // The op that was opened last began here.
  void place_op(const Position& position, int32_t stack) {
    OpenOp& open = open_ops_.back();
    open.began_at = position;
    open.stack = stack;
    const OpenOp* const around = open_ops_.size() > 1 ? &open_ops_[open_ops_.size() - 2] : nullptr;
    // A range may move out of the op that it begins in.
    const bool is_inherited = around != nullptr && around->op != nullptr && around->stack == stack && !is_range(open);
    if (open.op == nullptr || is_inherited) {
      return;
    }
    OpStack* const row = op_stacks.dropped() == 0 ? op_stacks.append() : nullptr;
    if (row != nullptr) {
      *row = {open.row, stack};
    } else {
      ops_with_stacks = std::min(ops_with_stacks, static_cast<uint32_t>(open.row));
      ++stacks_lost;
    }
  }

  // MemoryEvent::stack of a block that is allocated now, with this row of stacks.
  uint32_t stack_of_memory(int32_t stack) const {
    const bool is_of_op =
        open_ops_.empty() ? stack == kNoRow : open_ops_.back().op != nullptr && open_ops_.back().stack == stack;
    return is_of_op ? kStackOfOp : stack == kNoRow ? kUnknownStack : static_cast<uint32_t>(stack);
  }

  // The op with this key ended.
  ClosedOp close_op(const void* key) {
    if (is_innermost_op(key)) {
      const ClosedOp closed{open_ops_.back().op, open_ops_.back().arguments};
      open_ops_.pop_back();
      return closed;
    }
    return close_below(key);
  }

  bool is_innermost_op(const void* key) const { return !open_ops_.empty() && open_ops_.back().key == key; }
  // The row of the innermost open op, if it has this key and was not dropped.
  int32_t row_of_innermost_op(const void* key) const {
    return is_innermost_op(key) && open_ops_.back().op != nullptr ? open_ops_.back().row : kNoRow;
  }
  // The row of the innermost open module call.
  int32_t innermost_call() const { return current_call(); }
  // Also where the budget left no row for the call.
  bool is_inside_a_call() const { return !open_calls_.empty(); }

  // The name of the open op that is `up` levels above the innermost; empty if there is none.
  std::string_view open_name(size_t up) const {
    const Op* const op = up < open_ops_.size() ? open_ops_[open_ops_.size() - 1 - up].op : nullptr;
    return op != nullptr ? std::string_view(strings[op->signature]) : std::string_view();
  }

  // What the name of an op says, by row of strings.
  struct alignas(4) NameFacts {
    bool keeps_arguments = false;
    bool has_formula = false;
    bool is_of_collectives = false;
  };
  const NameFacts& facts_of(uint32_t name) {
    if (name >= name_facts_.size()) {
      find_facts(name);
    }
    return name_facts_[name];
  }

  // The class of an op. The name of an operator stays at one address while it is registered, so that is remembered.
  OpClass class_of(const char* name, bool of_dispatcher) {
    auto& recent = recent_classes_[reinterpret_cast<uint64_t>(name) * 0x9E3779B97F4A7C15U >> 55];
    if (recent.address == name && std::strcmp(recent.row->first.c_str(), name) == 0) {
      return recent.row->second;
    }
    const auto* const row = classes_.find(name);
    if (row == nullptr) {
      return OpClasses::unlisted(name, of_dispatcher);
    }
    recent = {name, row};
    return row->second;
  }

  // These are for CountedOpObserver. Whether an op with this key is open:
  bool is_open(const void* key) const {
    return std::any_of(open_ops_.rbegin(), open_ops_.rend(), [key](const OpenOp& open) { return open.key == key; });
  }
  bool is_counted_around() const { return !open_ops_.empty() && open_ops_.back().counted; }
  bool is_unknown_around() const { return !open_ops_.empty() && open_ops_.back().unknown; }
  // The op that was opened last was given tensors with tangents.
  void mark_tangents(Op& op) {
    op.flags |= kHasTangents;
    open_ops_.back().has_tangents = true;
  }
  bool are_tangents_around() const { return !open_ops_.empty() && open_ops_.back().has_tangents; }
  void set_class_of_open_op(OpClass kind, bool plain) {
    OpenOp& open = open_ops_.back();
    open.counted = kind == OpClass::kCounted && plain;
    open.unknown = !open.counted && (kind == OpClass::kUnknown || kind == OpClass::kCounted ||
                                     (open_ops_.size() > 1 && open_ops_[open_ops_.size() - 2].unknown));
  }

  // Adds the inputs of the op that was opened last. Its outputs are filled in at its end, where they are kept.
  void add_arguments(const std::string& text, bool keep_outputs) {
    if (Arguments* const row = arguments.room()) {
      *row = {open_ops_.back().row, strings.id(std::string_view(text)), strings.id(std::string_view("[]"))};
      arguments.keep();
      open_ops_.back().arguments = keep_outputs ? row : nullptr;
    }
  }

  // A module was called. Whether the call is open now, which only the memory of the process may prevent. `entered`: see enter_call().
  bool open_call(uint64_t address, const char* type, bool entered = true) noexcept {
    const size_t around = open_calls_.size();
    try {
      const int32_t parent = current_call();
      open_calls_.push_back({nullptr, parent, address, entered});
      const uint32_t module = module_id(address, type);
      if (ModuleCall* const call = module_calls.append()) {
        *call = {};
        call->start = call->end = kNever;
        call->module = module;
        call->parent = parent;
        call->op = current_op();
        call->inputs = call->outputs = operands.size();
        call->thread = thread_;
        call->stack = kNoRow;
        open_calls_.back().call = call;
        open_calls_.back().row = static_cast<int32_t>(module_calls.size() - 1);
      }
    } catch (const std::bad_alloc&) {
      module_calls.drop();
    }
    return open_calls_.size() > around;
  }
  // The row of the call that was opened last; nullptr: it was dropped.
  ModuleCall* opened_call() const { return open_calls_.back().call; }

  // The function of a module begins. Whether that is the innermost open call, which had not entered its function.
  bool enter_call(uint64_t address) {
    if (open_calls_.empty() || open_calls_.back().address != address || open_calls_.back().entered) {
      return false;
    }
    open_calls_.back().entered = true;
    return true;
  }

  // These modules are gone. Whoever is called at their addresses is another module.
  void move_modules(const NewAddresses& addresses) {
    for (Module& module : modules) {
      if (const auto found = addresses.find(module.address); found != addresses.end()) {
        module_ids_.erase(module.address);
        module.address = found->second;
      }
    }
  }

  ModuleCall* close_call() {
    ModuleCall* const call = open_calls_.back().call;
    open_calls_.pop_back();
    return call;
  }

  // Compiled code begins. Whether it is inside a module call.
  bool mark_compiled() {
    if (!open_calls_.empty() && open_calls_.back().call != nullptr) {
      open_calls_.back().call->flags |= kCompiled;
    }
    return !open_calls_.empty();
  }

  // Appends one operand to the op or call that is being filled in. False when the budget is spent.
  bool add_operand(const Tensor& tensor, const int64_t* dims, size_t ndim) {
    const int32_t row = tensor_table_.row(tensor, dims, ndim);
    int32_t* const operand = row != kNoRow ? operands.append() : nullptr;
    if (operand == nullptr) {
      return false;
    }
    *operand = row;
    return true;
  }

  // The same for an object that is no tensor: the name of its class takes a tensor's place.
  bool add_object(const char* type, int64_t bytes, uint8_t flags = 0) {
    Tensor row{};
    row.storage = strings.id(std::string_view(type));
    row.bytes = bytes;
    row.dtype = -1;
    row.device_index = -1;
    row.flags = kObject | flags;
    return add_operand(row, nullptr, 0);
  }

  // False when the budget is spent. `from_kernel`: the memory belongs to the op around the innermost one, which is the op that
  // PyTorch runs to call a kernel written in Python.
  bool memory_event(int64_t time, uint64_t address, int64_t bytes, int8_t device_type, int8_t device_index,
                    uint32_t stack = kStackOfOp, bool from_kernel = false, bool reported = false) {
    MemoryEvent* const row = memory_events.append();
    if (row != nullptr) {
      const int32_t op = from_kernel && open_ops_.size() > 1 ? open_ops_[open_ops_.size() - 2].row : current_op();
      *row = {time, address, bytes, op, current_call(), thread_, device_type, device_index, reported ? 1U : 0U, stack};
    }
    return row != nullptr;
  }

  void block_met(int64_t time, uint64_t address, int64_t bytes, uint32_t storage, Ends ends) {
    if (BlockMet* const row = blocks_met.append()) {
      *row = {time, address, bytes, current_op(), current_call(), storage, thread_, static_cast<uint8_t>(ends), 0};
    }
  }

  // A storage that was met has ended: `now`, or some time ago. kNothing: its memory is that of another storage.
  void storage_ended(int64_t time, uint32_t storage, bool now, Ends ends = Ends::kAround) {
    if (BlockMet* const row = blocks_met.append()) {
      const int32_t op = now ? current_op() : kNoRow, call = now ? current_call() : kNoRow;
      *row = {time, 0, kUnknownFree, op, call, storage, thread_, static_cast<uint8_t>(ends), 0};
    }
  }

  uint16_t thread() const { return thread_; }
  int64_t bytes() const {  // of its rows
    return ops.bytes() + operands.bytes() + tensors.bytes() + arguments.bytes() + module_calls.bytes() + memory_events.bytes() +
           blocks_met.bytes() + allocator_totals.bytes() + op_stacks.bytes() + tree_rows.functions.bytes() +
           tree_rows.nodes.bytes();
  }

 private:
  struct OpenCall {
    ModuleCall* call;
    int32_t row;
    uint64_t address;
    bool entered;
  };

  // Ops that are still open inside this one have no end, or end on another thread: they are closed with it. A user range is
  // different. The op that opens it ends before the range does, so the range stays open and moves out of that op.
  [[gnu::noinline]] ClosedOp close_below(const void* key) {
    for (size_t i = open_ops_.size(); i-- > 0;) {
      if (open_ops_[i].key == key) {
        const OpenOp closed = open_ops_[i];
        const auto below = open_ops_.begin() + static_cast<std::ptrdiff_t>(i);
        open_ops_.erase(std::remove_if(below + 1, open_ops_.end(), std::not_fn(is_range)), open_ops_.end());
        std::for_each(open_ops_.erase(below), open_ops_.end(), [&](const OpenOp& range) {
          if (closed.op != nullptr && range.op->parent == closed.row) {
            range.op->parent = closed.op->parent;
          }
        });
        return {closed.op, closed.arguments};
      }
    }
    ++unmatched_ends;
    return {};
  }

  // Of all names up to this one.
  [[gnu::noinline]] void find_facts(uint32_t last) {
    for (uint32_t id = static_cast<uint32_t>(name_facts_.size()); id <= last; ++id) {
      const std::string& text = strings[id];
      name_facts_.push_back(
          {classes_.needs_arguments(text), classes_.of(text, true) == OpClass::kCounted, is_of_collectives(text)});
    }
  }

  OpenOp& add_open_op(const void* key) {
    OpenOp open;
    open.key = key;
    open.row = current_op();
    return open_ops_.emplace_back(open);
  }

  [[gnu::noinline]] Op* drop_op(const void* key) noexcept {
    ops.drop();
    try {
      add_open_op(key);
    } catch (const std::bad_alloc&) {  // its end is an unmatched one
    }
    return nullptr;
  }

  static bool is_range(const OpenOp& open) { return open.op != nullptr && open.op->scope == kUserScope; }

  int32_t current_op() const { return open_ops_.empty() ? kNoRow : open_ops_.back().row; }
  int32_t current_call() const { return open_calls_.empty() ? kNoRow : open_calls_.back().row; }

  // A later module may have the same address. If its class is another one, it gets a row of its own.
  uint32_t module_id(uint64_t address, const char* type) {
    const uint32_t name = strings.id(type);
    const auto found = module_ids_.find(address);
    if (found != module_ids_.end() && modules[found->second].type == name) {
      return found->second;
    }
    const auto id = static_cast<uint32_t>(modules.size());
    share.take(kBytesOfModule);
    modules.push_back({address, name, 0});
    module_ids_.insert_or_assign(address, id);  // where this throws, the module gets another row next time
    return id;
  }

  static constexpr int64_t kBytesOfModule = 96;

  static const OpClasses& none() {
    static const OpClasses classes;
    return classes;
  }

  struct RecentClass {
    const char* address = nullptr;
    const std::pair<const std::string, OpClass>* row = nullptr;
  };

  const uint16_t thread_;
  TensorTable tensor_table_;
  const OpClasses& classes_;
  std::array<RecentClass, 512> recent_classes_{};  // by a hash of 9 bits of the address of the name
  std::vector<NameFacts> name_facts_;              // by row of strings
  std::vector<OpenOp> open_ops_;
  std::vector<OpenCall> open_calls_;
  std::unordered_map<uint64_t, uint32_t> module_ids_;
};

}  // namespace torchprof
