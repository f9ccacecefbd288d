#include "record/profiler_slot.h"

#include <typeinfo>
#include <utility>

namespace torchprof {
namespace {

using c10::DebugInfoKind;
using c10::ThreadLocalDebugInfo;

ProfilerSlot* slot = nullptr;  // the one that exists

void before_switch() noexcept {
  if (slot != nullptr) {
    slot->stand_aside();
  }
}

void after_switch() noexcept {
  if (slot != nullptr) {
    slot->come_back();
  }
}

}  // namespace

bool ProfilerSlot::is_taken() { return ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) != nullptr; }
bool ProfilerSlot::exists() { return slot != nullptr; }
bool ProfilerSlot::is_held() const { return ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) == state_.get(); }

ProfilerSlot::ProfilerSlot(std::shared_ptr<c10::DebugInfoBase> state, const std::vector<PyObject*>& switches)
    : state_(std::move(state)), switches_(switches, before_switch, after_switch) {
  slot = this;
  come_back();
}

ProfilerSlot::~ProfilerSlot() {
  slot = nullptr;
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
