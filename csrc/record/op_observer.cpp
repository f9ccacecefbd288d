#include "record/op_observer.h"

#include <functional>
#include <unordered_set>
#include <utility>

#include "record/op_row.h"
#include "record/pause.h"
#include "record/stacks.h"
#include "record/storages_read.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using Context = std::unique_ptr<at::ObserverContext>;

// An op of which not everything fits: what it is given is in use all the same.
[[gnu::noinline, gnu::cold]] void truncate(ThreadLog& log, Op& op, const at::RecordFunction& function) noexcept {
  log.truncate(op);
  try {
    note_storages(log, arguments_of(function));
  } catch (...) {
  }
}

// The start callback returns nullptr, because a context would be a heap object per op. At the end, the op is identified by the address
// of the RecordFunction, which can be neither copied nor moved.
//
// No exception may leave a callback. Only std::bad_alloc is possible, and then the op has less than it should, which is counted.
template <bool kShapes>
Context begin(const at::RecordFunction& function) {
  if (is_paused()) {
    return nullptr;
  }
  const AskedStack asked = AskedStack::of_op();
  const LogWriter writer(Event::kOp);
  ThreadLog* const log = writer.log();
  if (log == nullptr) {
    return nullptr;
  }
  const bool is_inside_kernel = kShapes && log->are_tangents_around() && is_below_autograd();
  Op* const op = log->open_op(&function, function.name());
  if (op != nullptr) {
    identify(*op, function);
    if constexpr (kShapes) {
      op->flags |= is_inside_kernel ? kBelowAutograd : 0;
      try {
        add_inputs(*log, *op, arguments_of(function), [log](const c10::TensorImpl& tensor) { note_storage(*log, tensor); });
      } catch (...) {
        truncate(*log, *op, function);
      }
    }
    note_stack_of_op(*log, asked);
    op->start = ticks();
  } else if (log->is_innermost_op(&function)) {
    note_stack_of_op(*log, asked);
  }
  return nullptr;
}

template <bool kShapes>
void end(const at::RecordFunction& function, at::ObserverContext*) {
  if (is_paused()) {
    return;
  }
  const int64_t now = ticks();
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log == nullptr) {
    return;
  }
  const ThreadLog::ClosedOp closed = log->close_op(&function);
  Op* const op = closed.op;
  if (op != nullptr) {
    op->end = now;
    if constexpr (kShapes) {
      op->outputs = log->operands.size();
      try {
        add_outputs(*log, closed, function);
      } catch (...) {
        log->truncate(*op);
      }
    }
  }
}

using Scope = at::RecordScope;
using Scopes = std::unordered_set<Scope, std::hash<Scope>>;

at::CallbackHandle call_back(bool shapes, const Scopes& scopes) {
  at::RecordFunctionCallback callback =
      shapes ? at::RecordFunctionCallback(&begin<true>, &end<true>) : at::RecordFunctionCallback(&begin<false>, &end<false>);
  return at::addGlobalCallback(callback.needsInputs(shapes).needsOutputs(shapes).scopes(scopes));
}

// A scope is not free: at every node of backward, autograd sets the state of the thread, twice, and each time PyTorch lists the callbacks
// of each scope that is asked for anew. So those of runtimes that few programs have are asked for where one of them runs first. Not at all
// KERNEL_FUNCTION_DTYPE, CUSTOM_CLASS and BUILD_FEATURE, which exist only in builds of PyTorch that find out what a program needs.
Scopes scopes_of_programs() {
  return {Scope::FUNCTION, Scope::BACKWARD_FUNCTION, Scope::USER_SCOPE, Scope::TORCHSCRIPT_FUNCTION};
}

Scopes scopes_of_runtimes() { return {Scope::LITE_INTERPRETER, Scope::STATIC_RUNTIME_OP, Scope::STATIC_RUNTIME_MODEL}; }

bool are_shapes_recorded = false;
at::CallbackHandle of_runtimes = at::INVALID_CALLBACK_HANDLE;

void runtime_begins() noexcept {
  if (of_runtimes == at::INVALID_CALLBACK_HANDLE) {
    try {
      of_runtimes = call_back(are_shapes_recorded, scopes_of_runtimes());
    } catch (...) {  // no memory: it is asked for again at the next run
    }
  }
}

}  // namespace

OpObserver::OpObserver(bool shapes, const std::vector<PyObject*>& runtimes)
    : runtimes_(runtimes, runtime_begins, []() noexcept {}), handle_(call_back(shapes, scopes_of_programs())) {
  are_shapes_recorded = shapes;
}

OpObserver::~OpObserver() {
  at::removeCallback(handle_);
  if (of_runtimes != at::INVALID_CALLBACK_HANDLE) {
    at::removeCallback(std::exchange(of_runtimes, at::INVALID_CALLBACK_HANDLE));
  }
}

}  // namespace torchprof
