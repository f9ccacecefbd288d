#include "record/profiler_slot.h"

#include <array>
#include <typeinfo>
#include <utility>

namespace torchprof {
namespace {

using c10::DebugInfoKind;
using c10::ThreadLocalDebugInfo;

constexpr size_t kMostSwitches = 8;

struct Switch {
  PyMethodDef* method = nullptr;
  PyCFunction original = nullptr;
};
std::array<Switch, kMostSwitches> switched;
ProfilerSlot* slot = nullptr;  // the one that exists

template <typename Call>
PyObject* around(Call call) {
  if (slot != nullptr) {
    slot->stand_aside();
  }
  PyObject* const result = call();
  if (slot != nullptr) {
    slot->come_back();
  }
  return result;
}

template <size_t kSwitch>
PyObject* with_tuple(PyObject* self, PyObject* args, PyObject* kwargs) {
  const auto original = reinterpret_cast<PyCFunctionWithKeywords>(reinterpret_cast<void (*)()>(switched[kSwitch].original));
  return around([&] { return original(self, args, kwargs); });
}

using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

template <size_t kSwitch>
PyObject* with_vector(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const auto original = reinterpret_cast<FastFunction>(reinterpret_cast<void (*)()>(switched[kSwitch].original));
  return around([&] { return original(self, args, count, keywords); });
}

template <size_t... kSwitch>
PyCFunction instead(size_t number, bool takes_vector, std::index_sequence<kSwitch...>) {
  constexpr std::array<PyCFunctionWithKeywords, sizeof...(kSwitch)> tuples{&with_tuple<kSwitch>...};
  constexpr std::array<FastFunction, sizeof...(kSwitch)> vectors{&with_vector<kSwitch>...};
  return takes_vector ? reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(vectors[number]))
                      : reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(tuples[number]));
}

}  // namespace

bool ProfilerSlot::is_taken() { return ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) != nullptr; }
bool ProfilerSlot::exists() { return slot != nullptr; }
bool ProfilerSlot::is_held() const { return ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) == state_.get(); }

ProfilerSlot::ProfilerSlot(std::shared_ptr<c10::DebugInfoBase> state, const std::vector<PyObject*>& switches)
    : state_(std::move(state)) {
  for (size_t number = 0; number < switches.size() && number < kMostSwitches; ++number) {
    if (!PyCFunction_CheckExact(switches[number])) {
      continue;
    }
    PyMethodDef* const method = reinterpret_cast<PyCFunctionObject*>(switches[number])->m_ml;
    const bool takes_vector = method->ml_flags == (METH_FASTCALL | METH_KEYWORDS);
    if (takes_vector || method->ml_flags == (METH_VARARGS | METH_KEYWORDS)) {
      switched[number] = {method, method->ml_meth};
      method->ml_meth = instead(number, takes_vector, std::make_index_sequence<kMostSwitches>());
    }
  }
  slot = this;
  come_back();
}

ProfilerSlot::~ProfilerSlot() {
  slot = nullptr;
  for (Switch& each : switched) {
    if (each.method != nullptr) {
      each.method->ml_meth = each.original;
      each.method = nullptr;  // `original` stays: a call may be on its way
    }
  }
  stand_aside();
}

void ProfilerSlot::stand_aside() noexcept {
  if (is_held()) {
    try {
      ThreadLocalDebugInfo::_pop(DebugInfoKind::PROFILER_STATE);
    } catch (...) {
      // The program pushed a state of another kind on top and did not pop it.
    }
  }
}

void ProfilerSlot::come_back() noexcept {
  if (std::this_thread::get_id() != thread_ || is_held()) {
    return;
  }
  const c10::DebugInfoBase* const there = ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE);
  // The state of an earlier recording stays where a state of another kind was put on top of it; it does nothing.
  if (there != nullptr && typeid(*there) != typeid(*state_)) {
    was_shared_ = true;
    return;
  }
  try {
    ThreadLocalDebugInfo::_push(DebugInfoKind::PROFILER_STATE, state_);
  } catch (...) {  // no memory
  }
}

}  // namespace torchprof
