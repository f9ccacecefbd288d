// Runs something before and after built-in functions, wherever these are called from. No attribute is replaced: the functions stay the
// same objects, and another C function stands in their PyMethodDef, which calls the one of before. Depends on Python only.
#pragma once

#include <Python.h>

#include <vector>

namespace torchprof {

// All of this needs the GIL.
class BuiltinHooks {
 public:
  using Callback = void (*)() noexcept;

  // `functions`: borrowed; what is no built-in function of keyword arguments is left alone, and so is what does not fit: 32 in all.
  // `after` is called for every `before`, also when the hooks ended meanwhile.
  BuiltinHooks(const std::vector<PyObject*>& functions, Callback before, Callback after);
  ~BuiltinHooks();
  BuiltinHooks(const BuiltinHooks&) = delete;
  BuiltinHooks& operator=(const BuiltinHooks&) = delete;

 private:
  std::vector<size_t> places_;
};

}  // namespace torchprof
