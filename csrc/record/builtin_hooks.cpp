#include "record/builtin_hooks.h"

#include <algorithm>
#include <array>
#include <utility>

namespace torchprof {
namespace {

constexpr size_t kMost = 32;

struct Hooked {
  PyMethodDef* method;  // nullptr: the place is free
  PyCFunction original;
  BuiltinHooks::Callback before, after;
};
std::array<Hooked, kMost> hooked;

template <typename Call>
PyObject* around(const Hooked& hook, Call call) {
  const BuiltinHooks::Callback after = hook.after;  // the hook may end during the call
  hook.before();
  PyObject* const result = call();
  after();
  return result;
}

template <size_t kPlace>
PyObject* with_tuple(PyObject* self, PyObject* args, PyObject* kwargs) {
  const auto original = reinterpret_cast<PyCFunctionWithKeywords>(reinterpret_cast<void (*)()>(hooked[kPlace].original));
  return around(hooked[kPlace], [&] { return original(self, args, kwargs); });
}

using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

template <size_t kPlace>
PyObject* with_vector(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const auto original = reinterpret_cast<FastFunction>(reinterpret_cast<void (*)()>(hooked[kPlace].original));
  return around(hooked[kPlace], [&] { return original(self, args, count, keywords); });
}

template <size_t... kPlace>
PyCFunction instead(size_t place, bool takes_vector, std::index_sequence<kPlace...>) {
  constexpr std::array<PyCFunctionWithKeywords, sizeof...(kPlace)> tuples{&with_tuple<kPlace>...};
  constexpr std::array<FastFunction, sizeof...(kPlace)> vectors{&with_vector<kPlace>...};
  return takes_vector ? reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(vectors[place]))
                      : reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(tuples[place]));
}

}  // namespace

BuiltinHooks::BuiltinHooks(const std::vector<PyObject*>& functions, Callback before, Callback after) {
  places_.reserve(functions.size());
  for (PyObject* const function : functions) {
    PyMethodDef* const method =
        PyCFunction_CheckExact(function) ? reinterpret_cast<PyCFunctionObject*>(function)->m_ml : nullptr;
    const auto free = std::find_if(hooked.begin(), hooked.end(), [](const Hooked& hook) { return hook.method == nullptr; });
    if (method == nullptr || free == hooked.end()) {
      continue;
    }
    const bool takes_vector = method->ml_flags == (METH_FASTCALL | METH_KEYWORDS);
    if (takes_vector || method->ml_flags == (METH_VARARGS | METH_KEYWORDS)) {
      const auto place = static_cast<size_t>(free - hooked.begin());
      *free = {method, method->ml_meth, before, after};
      method->ml_meth = instead(place, takes_vector, std::make_index_sequence<kMost>());
      places_.push_back(place);
    }
  }
}

BuiltinHooks::~BuiltinHooks() {
  for (const size_t place : places_) {
    hooked[place].method->ml_meth = hooked[place].original;
    hooked[place].method = nullptr;
  }
}

}  // namespace torchprof
