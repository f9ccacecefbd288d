#include "record/thread_slot.h"

#include <ATen/record_function.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace torchprof {
namespace {

// Leaked: threads may end after the statics of this library are destroyed.
struct Registry {
  std::mutex mutex;
  std::vector<std::unique_ptr<ThreadSlot>> slots;
  ThreadLogs* open = nullptr;
  uint64_t last_generation = 0;
};

Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

// Tells the recording that no later log has the tree of this thread. Where there is no memory, its rows stay until the end.
void note_ended_tree(const ThreadSlot& slot) noexcept {
  try {
    if (slot.tree != nullptr) {
      slot.ended_trees->push_back(slot.tree->number());
    }
  } catch (const std::bad_alloc&) {
  }
}

// Removes a thread's slot from the registry when the thread ends. Its log stays with the recording.
struct SlotOwner {
  bool ended = false;
  ~SlotOwner() {
    ended = true;
    Registry& all = registry();
    const std::lock_guard lock(all.mutex);
    if (detail::this_slot != nullptr) {
      note_ended_tree(*detail::this_slot);
    }
    std::erase_if(all.slots, [](const auto& slot) { return slot.get() == detail::this_slot; });
    detail::this_slot = nullptr;
  }
};
thread_local SlotOwner slot_owner;

#if defined(__linux__) && defined(SYS_membarrier)
bool membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; }
bool register_membarrier() { return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED); }
void fence_every_thread() { membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); }
#else
bool register_membarrier() { return false; }
void fence_every_thread() {}
#endif

uint64_t native_thread_id() {
#if defined(__linux__)
  return static_cast<uint64_t>(syscall(SYS_gettid));
#else
  uint64_t id = 0;
  pthread_threadid_np(nullptr, &id);
  return id;
#endif
}

// Comes after a change of the generation: no thread writes to a log of an earlier one any more.
void wait_for_writers() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  fence_every_thread();
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    for (const auto& slot : all.slots) {
      slot->is_awaited = true;
    }
  }
  // Each thread is seen once not to write. The lock is not held while waiting: a writer may need it to join the recording.
  for (bool are_awaited = true; are_awaited;) {
    are_awaited = false;
    {
      const std::lock_guard lock(all.mutex);
      for (const auto& slot : all.slots) {
        slot->is_awaited = slot->is_awaited && slot->writing.load(std::memory_order_acquire);
        are_awaited = are_awaited || slot->is_awaited;
      }
    }
    if (are_awaited) {
      sched_yield();
    }
  }
}

}  // namespace

namespace detail {

ThreadSlot* make_slot(Event event) noexcept {
  if (generation.load(std::memory_order_relaxed) == 0 || slot_owner.ended) {
    return nullptr;
  }
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  try {
    this_slot = all.slots.emplace_back(std::make_unique<ThreadSlot>()).get();
  } catch (const std::bad_alloc&) {
    if (all.open != nullptr) {
      all.open->lose(event);
    }
  }
  return this_slot;
}

// A thread that has no log asks for one again at its next event.
void join_recording(ThreadSlot& slot, Event event) noexcept {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  slot.log = nullptr;
  slot.generation = 0;
  if (all.open == nullptr) {
    return;
  }
  try {
    all.open->add_log(slot);
    slot.generation = generation.load(std::memory_order_relaxed);
  } catch (const std::bad_alloc&) {
    all.open->lose(event);
  }
}

}  // namespace detail

void ThreadLogs::add_log(ThreadSlot& slot) {
  if (logs_.size() > UINT16_MAX) {
    throw std::bad_alloc();
  }
  if (stacks_ && slot.tree_owner != number_) {
    const int32_t number = free_trees_.empty() ? trees_ : free_trees_.back();
    slot.tree = std::make_unique<CallTree>(budget_, number);
    slot.tree_owner = number_;
    slot.ended_trees = ended_trees_;
    if (number == trees_) {
      ++trees_;
    } else {
      free_trees_.pop_back();
    }
  }
  const Thread identity{at::RecordFunction::currentThreadId(), native_thread_id()};
  logs_.push_back(std::make_unique<ThreadLog>(budget_, static_cast<uint16_t>(logs_.size()), identity, *classes_,
                                              reinterpret_cast<uint64_t>(pthread_self()), stacks_ ? slot.tree.get() : nullptr));
  slot.log = logs_.back().get();
}

void ThreadLogs::lose(Event event) noexcept {
  losses_.ops += event == Event::kOp ? 1 : 0;
  losses_.module_calls += event == Event::kCall ? 1 : 0;
  losses_.allocations += event == Event::kAllocation ? 1 : 0;
}

void ThreadLogs::move_modules(const NewAddresses& addresses) {
  const std::lock_guard lock(registry().mutex);
  for (const auto& log : logs_) {
    log->move_modules(addresses);
  }
}

Losses ThreadLogs::take_losses() {
  const std::lock_guard lock(registry().mutex);
  return std::exchange(losses_, {});
}

ThreadLogs::ThreadLogs(int64_t budget_bytes, std::shared_ptr<const OpClasses> classes, bool stacks)
    : budget_bytes_(budget_bytes),
      budget_(budget_bytes),
      classes_(std::move(classes)),
      number_([] {
        static std::atomic<uint64_t> latest{0};
        return latest.fetch_add(1) + 1;
      }()),
      stacks_(stacks) {}

ThreadLogs::~ThreadLogs() {
  close();
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const auto& slot : all.slots) {
    if (slot->tree_owner == number_) {
      slot->tree.reset();
      slot->tree_owner = 0;
    }
  }
}

void ThreadLogs::open() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (all.last_generation == 0) {
    detail::callbacks_fence.store(!register_membarrier());
    // A forked child inherits its parent's recording. It records nothing, and waits for no thread of the parent.
    pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                   [] {
                     Registry& all = registry();
                     detail::generation.store(0);
                     all.open = nullptr;
                     for (const auto& slot : all.slots) {
                       slot->writing.store(false);
                     }
                     all.mutex.unlock();
                   });
  }
  all.open = this;
  detail::generation.store(++all.last_generation);
}

void ThreadLogs::close() {
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    if (all.open != this) {
      return;
    }
    all.open = nullptr;
    detail::generation.store(0);
  }
  wait_for_writers();
}

EndedLogs ThreadLogs::exchange() {
  Registry& all = registry();
  EndedLogs ended;
  bool are_open = false;
  {
    const std::lock_guard lock(all.mutex);
    try {
      free_trees_.insert(free_trees_.end(), ended_trees_->begin(), ended_trees_->end());
      ended.trees.swap(*ended_trees_);
    } catch (const std::bad_alloc&) {  // next time
    }
    ended.logs.swap(logs_);
    are_open = all.open == this;
    if (are_open) {
      detail::generation.store(++all.last_generation);
    }
  }
  if (are_open) {
    wait_for_writers();
  }
  return ended;
}

}  // namespace torchprof
