// Sees where compiled code begins and ends (torch.compile), by what Dynamo calls around it. FunctionHook needs that in Python 3.11. All of
// this needs the GIL.
#pragma once

#include <Python.h>

#include <cstdint>

#include "record/evaluator_switch.h"

namespace torchprof {

// There is at most one at a time.
class CompiledCodeObserver {
 public:
  // `evaluator_switch`: what Dynamo calls when it enters compiled code, see EvaluatorSwitch. `on_evaluator`: called with every callback of
  // Dynamo's once, when it is first seen; may be nullptr.
  CompiledCodeObserver(PyObject* evaluator_switch, PyObject* on_evaluator);
  ~CompiledCodeObserver();
  CompiledCodeObserver(const CompiledCodeObserver&) = delete;
  CompiledCodeObserver& operator=(const CompiledCodeObserver&) = delete;

  // Whether it is told of evaluators of frames.
  bool sees_evaluators() const { return switch_.is_observed(); }

  // How often compiled code was entered outside of all module calls. Inside one, the call is marked: see kCompiled.
  static uint64_t outside_calls() noexcept;

  // Compiled code begins now, on this thread.
  static void note() noexcept;

 private:
  EvaluatorSwitch switch_;
};

}  // namespace torchprof
