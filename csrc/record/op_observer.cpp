#include "record/op_observer.h"

#include "record/arguments.h"
#include "record/pause.h"
#include "record/storages_read.h"
#include "record/tensor_reader.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

using Context = std::unique_ptr<at::ObserverContext>;

// The start callback returns nullptr, because a context would be a heap object per op. At the end, the op is identified by the address
// of the RecordFunction, which can be neither copied nor moved.
//
// No exception may leave a callback. Only std::bad_alloc is possible, and then the op is not recorded.
template <bool kShapes>
Context begin(const at::RecordFunction& function) {
  if (is_paused()) {
    return nullptr;
  }
  const LogWriter writer;
  ThreadLog* const log = writer.log();
  if (log == nullptr) {
    return nullptr;
  }
  try {
    if (Op* const op = log->open_op(&function)) {
      op->signature = log->strings.id(function.name());
      op->sequence_nr = function.seqNr();
      op->forward_thread = static_cast<uint32_t>(function.forwardThreadId());
      op->scope = static_cast<uint8_t>(function.scope());
      if constexpr (kShapes) {
        const auto arguments = arguments_of(function);
        note_storages(*log, arguments);
        if (!add_operands(*log, arguments, op->n_inputs)) {
          op->flags |= kTruncated;
        }
        if (log->keeps_arguments(op->signature)) {
          log->add_arguments(arguments_text(arguments.data(), arguments.size()));
        }
      }
      op->start = ticks();
    }
  } catch (...) {
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
  try {
    const ThreadLog::OpenOp closed = log->close_op(&function);
    Op* const op = closed.op;
    if (op != nullptr) {
      op->end = now;
      if constexpr (kShapes) {
        op->outputs = log->operands.size();
        if (!add_operands(*log, function.outputs(), op->n_outputs)) {
          op->flags |= kTruncated;
        }
        if (closed.arguments != nullptr) {
          closed.arguments->outputs =
              log->strings.id(std::string_view(arguments_text(function.outputs().data(), function.outputs().size())));
        }
      }
    }
  } catch (...) {
  }
}

}  // namespace

OpObserver::OpObserver(bool shapes)
    : handle_(at::addGlobalCallback(
          shapes ? at::RecordFunctionCallback(&begin<true>, &end<true>).needsInputs(true).needsOutputs(true)
                 : at::RecordFunctionCallback(&begin<false>, &end<false>))) {}

OpObserver::~OpObserver() { at::removeCallback(handle_); }

}  // namespace torchprof
