#include "collate/step_memory.h"

#include <algorithm>

#include "collate/block_key.h"

namespace torchprof {

void Outstanding::follow(const MemoryEvent& event) {
  const auto [block, added] = blocks_.try_emplace(block_key(event.address, event.device_type), 0);
  bytes_ -= block->second;  // not 0 if its free was not reported
  if (event.bytes > 0) {
    bytes_ += block->second = event.bytes;
  } else {
    blocks_.erase(block);
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
