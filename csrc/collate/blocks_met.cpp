#include "collate/blocks_met.h"

#include <algorithm>
#include <map>
#include <utility>

#include "collate/block_key.h"

namespace torchprof {
namespace {

class Blocks {
 public:
  explicit Blocks(size_t events) { events_.reserve(events); }

  void add(uint64_t address, int64_t bytes, int8_t device_type) {
    open_[address] = {address + static_cast<uint64_t>(bytes), 1, device_type};
  }

  void follow(const MemoryEvent& event) {
    if (event.device_type == kMetaDevice) {  // has no memory
      events_.push_back(event);
    } else if (event.bytes > 0) {
      free_below(event);
      add(event.address, event.bytes, event.device_type);
      events_.push_back(event);
    } else {
      free(event);
    }
  }

  void meet(const BlockMet& met) {
    const uint64_t end = met.address + std::max<uint64_t>(static_cast<uint64_t>(met.bytes), 1);
    auto found = open_.upper_bound(met.address);
    if (found != open_.begin() && (--found)->second.end >= end) {
      found->second.users += met.reports_free;
      if (found->first != met.address || found->second.device_type != kCpuDevice) {
        around_[met.address] = {found->first, found->second.device_type};
      }
      return;
    }
    if (met.bytes == 0) {
      around_[met.address] = {kNothing, kCpuDevice};
      return;
    }
    follow({met.time, met.address, met.bytes, met.op, met.module_call, met.thread, kCpuDevice, -1});
  }

  std::vector<MemoryEvent> take_events() { return std::move(events_); }
  BlocksAround take_around() { return std::move(around_); }

 private:
  struct Block {
    uint64_t end;
    uint32_t users;  // how many will report a free
    int8_t device_type;
  };

  // What lies where a new block is was freed, and nobody said so.
  void free_below(const MemoryEvent& event) {
    auto block = open_.lower_bound(event.address);
    if (block != open_.begin() && std::prev(block)->second.end > event.address) {
      --block;
    }
    while (block != open_.end() && block->first < event.address + static_cast<uint64_t>(event.bytes)) {
      if (block->first != event.address || block->second.device_type != event.device_type) {
        const auto bytes = static_cast<int64_t>(block->second.end - block->first);
        events_.push_back({event.time, block->first, -bytes, kNoRow, kNoRow, event.thread, block->second.device_type, -1});
      }
      block = open_.erase(block);
    }
  }

  void free(MemoryEvent event) {
    auto block = open_.find(event.address);
    if (const auto outer = around_.find(event.address); block == open_.end() && outer != around_.end()) {
      block = open_.find(outer->second.address);
    }
    if (block != open_.end()) {
      if (event.bytes == kUnknownFree && --block->second.users != 0) {
        return;
      }
      event.address = block->first;
      event.device_type = block->second.device_type;
      open_.erase(block);
    }
    events_.push_back(event);
  }

  std::vector<MemoryEvent> events_;
  std::map<uint64_t, Block> open_;  // by address
  BlocksAround around_;
};

}  // namespace

BlocksAround add_blocks_met(std::vector<MemoryEvent>& events, const std::vector<BlockMet>& met, const std::vector<Held>& held,
                            const Outstanding& outstanding) {
  if (met.empty()) {
    return {};
  }
  Blocks blocks(events.size() + met.size());
  for (const Held& block : held) {
    if (!block.at_end && block.bytes != 0 && block.device_type != kMetaDevice) {
      blocks.add(block.address, block.bytes, block.device_type);
    }
  }
  for (const auto& [key, bytes] : outstanding.blocks()) {
    if (device_type_of(key) != kMetaDevice) {
      blocks.add(address_of(key), bytes, device_type_of(key));
    }
  }
  auto next = met.begin();
  for (const MemoryEvent& event : events) {
    for (; next != met.end() && next->time < event.time; ++next) {
      blocks.meet(*next);
    }
    blocks.follow(event);
  }
  for (; next != met.end(); ++next) {
    blocks.meet(*next);
  }
  events = blocks.take_events();
  return blocks.take_around();
}

}  // namespace torchprof
