#include "collate/step_memory.h"

#include <algorithm>

#include "collate/block_key.h"

namespace torchprof {

void Outstanding::follow(const MemoryEvent& event) {
  const uint64_t key = block_key(event.address, event.device_type);
  if (event.bytes > 0) {
    int64_t& block = blocks_[key];
    bytes_ += event.bytes - block;  // not 0 if its free was not reported
    block = event.bytes;
  } else if (const int64_t* const block = blocks_.find(key)) {
    bytes_ -= *block;
    blocks_.erase(key);
  }
}

void account_steps(std::vector<Step>& steps, const std::vector<MemoryEvent>& events, Outstanding& outstanding) {
  auto event = events.begin();
  for (Step& step : steps) {
    for (; event != events.end() && event->time < step.start; ++event) {
      outstanding.follow(*event);
    }
    step.peak = outstanding.bytes();
    for (; event != events.end() && event->time < step.end; ++event) {
      outstanding.follow(*event);
      step.allocated += std::max<int64_t>(event->bytes, 0);
      step.peak = std::max(step.peak, outstanding.bytes());
    }
    step.held = outstanding.bytes();
  }
  for (; event != events.end(); ++event) {
    outstanding.follow(*event);
  }
}

}  // namespace torchprof
