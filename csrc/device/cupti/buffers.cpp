#include "device/cupti/buffers.h"

#include <chrono>
#include <cstdlib>
#include <utility>

#include "device/cupti/records.h"
#include "device/recorder.h"

namespace torchprof::cupti {
namespace {

constexpr size_t kBytes = size_t{4} << 20;
constexpr size_t kMaxBuffers = 256;  // CUDA 13 uses one for each thread that launches
constexpr std::chrono::seconds kPatience{2};

}  // namespace

Buffers& Buffers::of_process() {
  static auto* const instance = new Buffers;
  return *instance;
}

void Buffers::attach(const Api& api) {
  uint32_t version = 0;
  api.GetVersion(&version);
  {
    const std::lock_guard lock(buffers_mutex_);
    may_refuse_ = version >= kBuffersMayBeRefused;
  }
  api_ = &api;
  if (const Result result = api.ActivityRegisterCallbacks(&requested, &completed); result != kSuccess) {
    throw DeviceRecorderError("CUPTI refused to hand over records: " + text_of(api, result));
  }
}

void Buffers::deliver_to(DeviceLog* log) {
  const std::lock_guard lock(log_mutex_);
  log_ = log;
}

bool Buffers::all_returned() {
  std::unique_lock lock(buffers_mutex_);
  return returned_.wait_for(lock, kPatience, [this] { return in_use_.empty(); });
}

void Buffers::release() {
  const std::lock_guard lock(buffers_mutex_);
  for (uint8_t* const buffer : std::exchange(empty_, {})) {
    std::free(buffer);
  }
  in_use_.clear();
}

void Buffers::requested(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = nullptr;
  *size = *max_records = 0;
  Buffers& self = of_process();
  const std::lock_guard lock(self.buffers_mutex_);
  uint8_t* chosen = nullptr;
  if (!self.empty_.empty()) {
    chosen = self.empty_.back();
    self.empty_.pop_back();
  } else if (self.in_use_.size() < kMaxBuffers || !self.may_refuse_) {
    chosen = static_cast<uint8_t*>(std::aligned_alloc(8, kBytes));
  }
  try {
    if (chosen != nullptr && self.in_use_.insert(chosen).second) {
      *buffer = chosen;
      *size = kBytes;
    }
  } catch (...) {
    std::free(chosen);
  }
}

void Buffers::completed(void*, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  Buffers& self = of_process();
  {
    const std::lock_guard lock(self.buffers_mutex_);
    if (self.in_use_.count(buffer) == 0) {
      return;  // it belongs to another user of CUPTI
    }
  }
  try {
    self.read(buffer, valid);
  } catch (...) {
  }
  const std::lock_guard lock(self.buffers_mutex_);
  if (self.in_use_.erase(buffer) != 0) {
    try {
      self.empty_.push_back(buffer);
    } catch (...) {
      std::free(buffer);
    }
  }
  self.returned_.notify_all();
}

void Buffers::read(uint8_t* buffer, size_t valid) {
  if (valid == 0) {
    return;
  }
  std::vector<const uint8_t*> records;
  const uint8_t* record = nullptr;
  while (api_.load()->ActivityGetNextRecord(buffer, valid, &record) == kSuccess) {
    records.push_back(record);
  }
  const std::lock_guard lock(log_mutex_);
  if (log_ == nullptr) {
    return;
  }
  for (const uint8_t* const each : records) {
    try {
      add_record(each, *log_);
    } catch (...) {  // out of memory
      ++log_->lost;
    }
  }
}

}  // namespace torchprof::cupti
