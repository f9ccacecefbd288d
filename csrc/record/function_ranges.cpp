#include "record/function_ranges.h"

#include "record/stacks.h"
#include "record/thread_slot.h"
#include "trace/clock.h"
#include "trace/range_names.h"

namespace torchprof {
namespace {

// Returns the generation in which the range was opened; 0: it is not recorded.
uint64_t open_range(const void* key, const char* name) {
  const AskedStack asked = AskedStack::of_op();
  const LogWriter writer(Event::kOp);
  ThreadLog* const log = writer.log();
  if (log == nullptr) {
    return 0;
  }
  if (Op* const op = log->open_op(key, name)) {
    op->sequence_nr = -1;
    op->forward_thread = 0;
    op->scope = kUserScope;
    note_stack_of_op(*log, asked);
    op->start = ticks();
  }
  return writer.generation();
}

void close_range(const void* key, uint64_t generation) noexcept {
  const int64_t now = ticks();
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log == nullptr || writer.generation() != generation) {
    return;  // the recording ended meanwhile
  }
  if (Op* const op = log->close_op(key).op) {
    op->end = now;
    op->outputs = log->operands.size();
  }
}

template <const char* name>
PyObject* observed(PyObject* function, PyObject* const* args, size_t count, PyObject* keywords) {
  const char key = 0;  // its address is that of no RecordFunction
  const uint64_t generation = open_range(&key, name);
  PyObject* const result = FunctionHook::original(function, args, count, keywords);
  if (generation != 0) {
    close_range(&key, generation);
  }
  return result;
}

}  // namespace

FunctionRanges::FunctionRanges(PyObject* loader_iter, PyObject* run_backward, bool sees_evaluators)
    : loader_iter_(loader_iter, observed<kLoaderRange>, sees_evaluators),
      run_backward_(run_backward, observed<kBackwardRange>, sees_evaluators) {}

}  // namespace torchprof
