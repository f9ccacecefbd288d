// The one function of PyTorch's that csrc/record/thread_slot.cpp calls, for programs of tests that are built without PyTorch.
#pragma once

#include <atomic>
#include <cstdint>

namespace at {

struct RecordFunction {
  static uint64_t currentThreadId() {
    static std::atomic<uint64_t> latest{0};
    thread_local const uint64_t id = ++latest;
    return id;
  }
};

}  // namespace at
