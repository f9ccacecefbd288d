#include "collate/blocks_met.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "collate/block_key.h"

namespace torchprof {
namespace {

bool is_inside_maybe(const Held& held) { return held.at_end && held.bytes != 0 && held.device_type == kCpuDevice; }

// Whether each report tells all about a block: nothing was met or mapped, and what the model holds at the end was allocated as such.
bool is_plain(const std::vector<MemoryEvent>& events, const std::vector<BlockMet>& met, const std::vector<Held>& held) {
  std::unordered_set<uint64_t> unknown;
  for (const Held& block : held) {
    if (is_inside_maybe(block)) {
      unknown.insert(block.address);
    }
  }
  for (const Held& block : held) {
    if (!block.at_end) {
      unknown.erase(block.address);
    }
  }
  for (const MemoryEvent& event : events) {
    if (event.reported != 0) {
      return false;
    }
    if (!unknown.empty() && event.bytes > 0) {
      unknown.erase(event.address);
    }
  }
  return met.empty() && unknown.empty();
}

uint64_t end_of(uint64_t address, int64_t bytes) { return address + std::max<uint64_t>(static_cast<uint64_t>(bytes), 1); }

}  // namespace

BlocksAround BlocksMet::add_to(std::vector<MemoryEvent>& events, const std::vector<BlockMet>& met,
                               const std::vector<Held>& held, const Outstanding& outstanding) {
  if (!has_begun_ && is_plain(events, met, held)) {
    return {};
  }
  if (!std::exchange(has_begun_, true)) {
    begin(held, outstanding);
  }
  events_.reserve(events.size() + met.size());
  auto next = met.begin();
  const auto meet_next = [&] {
    next->bytes == kUnknownFree ? end(*next) : meet(*next);
    ++next;
  };
  for (const MemoryEvent& event : events) {
    while (next != met.end() && next->time < event.time) {
      meet_next();
    }
    follow(event);
  }
  while (next != met.end()) {
    meet_next();
  }
  for (const Held& block : held) {
    if (is_inside_maybe(block)) {
      if (const auto around = block_around(block.address, end_of(block.address, block.bytes)); around != open_.end()) {
        note_around(block.address, around);
      }
    }
  }
  events = std::exchange(events_, {});
  return std::exchange(around_, {});
}

void BlocksMet::begin(const std::vector<Held>& held, const Outstanding& outstanding) {
  for (const Held& block : held) {
    if (!block.at_end && block.bytes != 0 && block.device_type != kMetaDevice) {
      add(block.address, block.bytes, block.device_type, Source::kBefore);
    }
  }
  outstanding.blocks().for_each([&](uint64_t key, int64_t bytes) {
    if (device_type_of(key) != kMetaDevice) {
      add(address_of(key), bytes, device_type_of(key), Source::kAllocated);
    }
  });
}

void BlocksMet::add(uint64_t address, int64_t bytes, int8_t device_type, Source source) {
  open_[address] = {address + static_cast<uint64_t>(bytes), ++latest_, 0, device_type, source};
}

void BlocksMet::follow(const MemoryEvent& event) {
  if (event.device_type == kMetaDevice) {  // has no memory
    events_.push_back(event);
  } else if (event.bytes > 0) {
    free_below(event);
    add(event.address, event.bytes, event.device_type, event.reported != 0 ? Source::kReported : Source::kAllocated);
    events_.push_back(event);
  } else {
    free(event);
  }
}

void BlocksMet::meet(const BlockMet& met) {
  auto around = block_around(met.address, end_of(met.address, met.bytes));
  if (around != open_.end()) {
    note_around(met.address, around);
    if (met.bytes != 0 || met.ends != static_cast<uint8_t>(Ends::kNothing)) {
      count(met, around);
    }
  } else if (met.bytes != 0) {
    const MemoryEvent first_use{met.time,   met.address, met.bytes, met.op, met.module_call,
                                met.thread, kCpuDevice,  -1,        0,      kStackOfOp};
    free_below(first_use);
    add(met.address, met.bytes, kCpuDevice, Source::kMet);
    events_.push_back(first_use);
    count(met, open_.find(met.address));
  } else if (met.ends == static_cast<uint8_t>(Ends::kNothing)) {
    around_[met.address] = {kNothing, kCpuDevice};
  }
}

// A storage is met again where first a slice of it was.
void BlocksMet::count(const BlockMet& storage, Blocks::iterator block) {
  const Storage counted{block->first, block->second.number, static_cast<Ends>(storage.ends)};
  if (const auto before = storages_.find(storage.storage);
      before == storages_.end() || before->second.number != counted.number) {
    ++block->second.storages;
  }
  storages_[storage.storage] = counted;
}

void BlocksMet::end(const BlockMet& storage) {
  const auto ended = storages_.extract(storage.storage);
  if (ended.empty()) {
    return;
  }
  const auto block = open_.find(ended.mapped().address);
  if (block == open_.end() || block->second.number != ended.mapped().number) {
    return;
  }
  const bool is_last = --block->second.storages == 0;
  if (storage.ends == static_cast<uint8_t>(Ends::kNothing)) {
    return;
  }
  const Ends ends = ended.mapped().ends;
  const Source source = block->second.source;
  if ((source == Source::kMet && is_last) || (source == Source::kBefore && is_last && ends != Ends::kNothing) ||
      (source == Source::kReported && ends == Ends::kAround)) {
    events_.push_back({storage.time, block->first, kUnknownFree, storage.op, storage.module_call, storage.thread,
                       block->second.device_type, -1, 0, kStackOfOp});
    open_.erase(block);
  }
}

// What lies where a new block is was freed, and nobody said so.
void BlocksMet::free_below(const MemoryEvent& event) {
  auto block = open_.lower_bound(event.address);
  if (block != open_.begin() && std::prev(block)->second.end > event.address) {
    --block;
  }
  while (block != open_.end() && block->first < event.address + static_cast<uint64_t>(event.bytes)) {
    if (block->first != event.address || block->second.device_type != event.device_type) {
      const auto bytes = static_cast<int64_t>(block->second.end - block->first);
      events_.push_back({event.time, block->first, -bytes, kNoRow, kNoRow, event.thread, block->second.device_type, -1, 0, {}});
    }
    block = open_.erase(block);
  }
}

void BlocksMet::free(const MemoryEvent& event) {
  auto block = open_.find(event.address);
  if (block != open_.end()) {
    MemoryEvent of_block = event;
    of_block.device_type = block->second.device_type;
    events_.push_back(of_block);
    open_.erase(block);
    return;
  }
  // What was mapped before the recording, or by another thread, is known by what was met in it.
  bool is_known = false;
  const uint64_t end = event.reported != 0 ? event.address + static_cast<uint64_t>(-event.bytes) : event.address;
  for (block = open_.lower_bound(event.address); block != open_.end() && block->first < end;) {
    if (block->second.device_type == event.device_type) {
      MemoryEvent of_block = event;
      of_block.address = block->first;
      of_block.bytes = kUnknownFree;
      events_.push_back(of_block);
      block = open_.erase(block);
      is_known = true;
    } else {
      ++block;
    }
  }
  if (!is_known) {
    events_.push_back(event);
  }
}

BlocksMet::Blocks::iterator BlocksMet::block_around(uint64_t address, uint64_t end) {
  auto found = open_.upper_bound(address);
  return found != open_.begin() && (--found)->second.end >= end ? found : open_.end();
}

void BlocksMet::note_around(uint64_t address, Blocks::iterator block) {
  if (block->first != address || block->second.device_type != kCpuDevice) {
    around_[address] = {block->first, block->second.device_type};
  }
}

}  // namespace torchprof
