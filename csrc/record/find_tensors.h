// The tensors inside the arguments or the result of a module. Finding them runs no code of the program: containers and fields of
// objects are read where they lie in memory, so no property, iterator or __getattr__ is called. All of this needs the GIL.
#pragma once

#include <Python.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/SmallVector.h>

namespace torchprof {

// The references are borrowed: they last as long as what was searched, and as long as it does not change.
struct Found {
  // Those in containers first, in order and as often as they occur; then those in objects that are no containers, each once.
  c10::SmallVector<const c10::TensorImpl*, 16> tensors;
  c10::SmallVector<PyObject*, 16> objects;  // the same tensors, as Python has them
  size_t in_containers = 0;                 // how many are in containers
  // What may hold further tensors and cannot be looked into: a generator, an object of a C extension, what exceeds a limit.
  c10::SmallVector<PyObject*, 2> unread;
  bool unread_in_objects = false;  // whether it is in objects that are no containers
};

inline constexpr size_t kMaxTensors = 4096;  // of one search

Found find_tensors(PyObject* object);
// The arguments of a call; kwargs may be nullptr. What cannot be looked into among them is not listed, unless it exceeds a limit. Of
// what objects hold, a call inside another one has less read: see kMaxInInnerCall.
Found find_arguments(PyObject* args, PyObject* kwargs, bool is_inner_call);
Found find_arguments(PyObject* const* args, size_t count, bool is_inner_call);
// The tensors that a tensor subclass holds in its attributes, and in containers there, each once.
Found find_inner_tensors(PyObject* tensor);

// The usual case, in which a search is not needed: every argument, or the result, is a tensor or None. False: there is something else.
bool are_tensors(PyObject* const* objects, size_t count, Found& found);

bool is_tensor(PyObject* object);

}  // namespace torchprof
