// Fills in the row of an op, for the observers of all ops and of those that FLOPs are counted of.
#pragma once

#include <ATen/record_function.h>

#include <string>
#include <string_view>

#include "record/arguments.h"
#include "record/collectives.h"
#include "record/tangents.h"
#include "record/tensor_reader.h"
#include "trace/thread_log.h"

namespace torchprof {

inline void identify(Op& op, const at::RecordFunction& function) {
  op.sequence_nr = function.seqNr();
  op.forward_thread = static_cast<uint32_t>(function.forwardThreadId());
  op.scope = static_cast<uint8_t>(function.scope());
}

// Out of the way of all other ops.
[[gnu::noinline, gnu::cold]] inline void add_group(ThreadLog& log, c10::ArrayRef<const c10::IValue> arguments) {
  if (const std::string text = group_text(arguments); !text.empty()) {
    log.add_arguments(text, false);
  }
}

// `note` is called with each tensor.
template <typename Note>
void add_inputs(ThreadLog& log, Op& op, c10::ArrayRef<const c10::IValue> arguments, Note note) {
  if (!add_operands(log, arguments, op.n_inputs, note)) {
    op.flags |= kTruncated;
  }
  const ThreadLog::NameFacts& facts = log.facts_of(op.signature);
  if (facts.keeps_arguments) {
    log.add_arguments(arguments_text(arguments.data(), arguments.size()), true);
  } else if (facts.is_of_collectives) {
    add_group(log, arguments);
  }
  if (facts.has_formula && have_tangents(arguments) && !is_below_autograd()) {
    log.mark_tangents(op);
  }
}

// The operands of the op begin at the end of those of the log: see Op::outputs.
inline void add_outputs(ThreadLog& log, const ThreadLog::ClosedOp& closed, const at::RecordFunction& function) {
  const auto& results = function.outputs();
  if (!add_operands(log, results, closed.op->n_outputs, [](const c10::TensorImpl&) {})) {
    closed.op->flags |= kTruncated;
  }
  if (closed.arguments != nullptr) {
    closed.arguments->outputs = log.strings.id(std::string_view(arguments_text(results.data(), results.size())));
  }
}

}  // namespace torchprof
