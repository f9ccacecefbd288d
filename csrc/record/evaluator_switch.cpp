#include "record/evaluator_switch.h"

namespace torchprof {
namespace {

PyCFunction original = nullptr;
EvaluatorSwitch::Listener listener = nullptr;
EvaluatorSwitch::Announced announced = nullptr;

PyObject* observed(PyObject* self, PyObject* callback) {
  if (announced != nullptr) {
    announced(callback);
  }
  PyObject* const before = original(self, callback);
  if (listener != nullptr) {
    listener(callback, before);
  }
  return before;
}

}  // namespace

EvaluatorSwitch::EvaluatorSwitch(PyObject* built_in, Listener new_listener, Announced new_announced) {
  if (built_in == nullptr || !PyCFunction_CheckExact(built_in)) {
    return;
  }
  PyMethodDef* const method = reinterpret_cast<PyCFunctionObject*>(built_in)->m_ml;
  if (method->ml_flags != METH_O) {
    return;
  }
  original = method->ml_meth;
  listener = new_listener;
  announced = new_announced;
  method->ml_meth = observed;
  method_ = method;
}

EvaluatorSwitch::~EvaluatorSwitch() {
  if (method_ != nullptr) {
    listener = nullptr;
    announced = nullptr;
    method_->ml_meth = original;
  }
}

}  // namespace torchprof
