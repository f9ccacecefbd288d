#include "record/counted_op_observer.h"

#include <exception>

#include "record/op_row.h"
#include "record/pause.h"
#include "record/storages_read.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using Context = std::unique_ptr<at::ObserverContext>;

// No exception may leave a callback. Only std::bad_alloc is possible, and then the op has less than it should, which is counted.
Context begin(const at::RecordFunction& function) {
  if (is_paused()) {
    return nullptr;
  }
  const LogWriter writer(Event::kOp);
  ThreadLog* const log = writer.log();
  if (log == nullptr || (log->is_counted_around() && (!log->are_tangents_around() || is_below_autograd()))) {
    return nullptr;
  }
  Op* op = nullptr;
  try {
    const auto arguments = arguments_of(function);
    note_storages(*log, arguments);
    const OpClass kind = log->class_of(function.name(), function.scope() == at::RecordScope::FUNCTION);
    if (kind == OpClass::kFree && !log->is_unknown_around()) {
      return nullptr;
    }
    op = log->open_op(&function, function.name());
    if (op != nullptr) {
      identify(*op, function);
      log->set_class_of_open_op(kind, are_plain(arguments));
      op->start = ticks();
      add_inputs(*log, *op, arguments, [](const c10::TensorImpl&) {});
    }
  } catch (...) {
    if (op != nullptr) {
      log->truncate(*op);
    } else {
      log->ops.drop();
    }
  }
  return nullptr;
}

template <bool kOutputs>
void end(const at::RecordFunction& function, at::ObserverContext*) {
  if (is_paused()) {
    return;
  }
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log == nullptr || !log->is_open(&function)) {
    return;
  }
  const ThreadLog::ClosedOp closed = log->close_op(&function);
  Op* const op = closed.op;
  if (op == nullptr) {
    return;
  }
  op->end = ticks();
  op->outputs = log->operands.size();
  if (std::uncaught_exceptions() != 0) {
    op->n_inputs = 0;  // it raised: nothing was computed
  } else if constexpr (kOutputs) {
    try {
      add_outputs(*log, closed, function);
    } catch (...) {
      log->truncate(*op);
    }
  }
}

}  // namespace

CountedOpObserver::CountedOpObserver(bool outputs)
    : handle_(at::addGlobalCallback(at::RecordFunctionCallback(&begin, outputs ? &end<true> : &end<false>)
                                        .needsInputs(true)
                                        .needsOutputs(outputs)
                                        .scopes({at::RecordScope::FUNCTION}))) {}

CountedOpObserver::~CountedOpObserver() { at::removeCallback(handle_); }

}  // namespace torchprof
