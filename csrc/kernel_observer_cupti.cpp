#include <ATen/Context.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pthread.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <utility>

#include "clock.h"
#include "cuda_calls.h"
#include "cupti_api.h"
#include "cupti_records.h"
#include "kernel_observer.h"

namespace torchprof {
namespace {

using namespace cupti;

constexpr size_t kBufferBytes = size_t{4} << 20;
constexpr size_t kMostBuffers = 64;  // given out at once: more are needed only if CUPTI does not give them back

// CUPTI knows one pair of callbacks in a process and keeps it for good, so what they need is never torn down.
//
// No lock is held while CUPTI is called: it may call back from inside, or hold a lock of its own while another of its threads waits
// for ours.
struct Mailroom {
  std::mutex buffers;
  std::vector<uint8_t*> empty;
  size_t given_out = 0;
  bool may_refuse = false;

  std::mutex rows;
  DeviceLog* log = nullptr;  // of the recording; nullptr: there is none

  std::atomic<const Api*> api{nullptr};
  std::atomic<bool> clock_is_ours{false};
};

Mailroom& mailroom() {
  static auto* const instance = new Mailroom;
  return *instance;
}

void buffer_requested(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = nullptr;
  *size = *max_records = 0;
  Mailroom& room = mailroom();
  const std::lock_guard lock(room.buffers);
  if (!room.empty.empty()) {
    *buffer = room.empty.back();
    room.empty.pop_back();
  } else if (room.given_out < kMostBuffers || !room.may_refuse) {
    *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  }
  if (*buffer != nullptr) {
    ++room.given_out;
    *size = kBufferBytes;
  }
}

void read_records(uint8_t* buffer, size_t valid) {
  Mailroom& room = mailroom();
  const Api* const api = room.api.load();
  if (api == nullptr || valid == 0) {
    return;
  }
  std::vector<const uint8_t*> records;
  const uint8_t* record = nullptr;
  while (api->ActivityGetNextRecord(buffer, valid, &record) == kSuccess) {
    records.push_back(record);
  }
  const std::lock_guard lock(room.rows);
  if (room.log == nullptr) {
    return;
  }
  for (const uint8_t* const each : records) {
    try {
      add_record(each, *room.log);
    } catch (...) {  // out of memory
      ++room.log->lost;
    }
  }
}

void buffer_completed(void*, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  try {
    read_records(buffer, valid);
  } catch (...) {
  }
  Mailroom& room = mailroom();
  const std::lock_guard lock(room.buffers);
  --room.given_out;
  try {
    room.empty.push_back(buffer);
  } catch (...) {
    std::free(buffer);
  }
}

// Called by CUPTI as long as the process lives: it gives back no callback. Its own clock is the wall's.
uint64_t timestamp() {
  if (mailroom().clock_is_ours.load(std::memory_order_relaxed)) {
    return static_cast<uint64_t>(ticks());
  }
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint32_t this_thread(bool system_ids) {
#if defined(__linux__)
  if (system_ids) {
    return static_cast<uint32_t>(syscall(SYS_gettid));
  }
#endif
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pthread_self()));
}

// Where the program captures a graph, waiting would break it.
void synchronize_devices() {
  constexpr auto kCuda = c10::DeviceType::CUDA;
  if (!c10::impl::hasDeviceGuardImpl(kCuda)) {
    return;
  }
  const c10::impl::VirtualGuardImpl guard(kCuda);
  const at::AcceleratorHooksInterface& hooks = at::globalContext().getAcceleratorHooksInterface(kCuda);
  for (c10::DeviceIndex index = 0; index < guard.deviceCount(); ++index) {
    if (hooks.hasPrimaryContext(index) && !guard.isStreamCapturing(guard.getStream({kCuda, index}))) {
      guard.synchronizeDevice(index);
    }
  }
}

}  // namespace

KernelObserver::KernelObserver() : api_(load()) {
  Mailroom& room = mailroom();
  room.api = &api_;
  uint32_t version = 0;
  api_.GetVersion(&version);
  {
    const std::lock_guard lock(room.buffers);
    room.may_refuse = version >= kBuffersMayBeRefused;
  }
  if (const Result result = api_.ActivityRegisterCallbacks(&buffer_requested, &buffer_completed); result != kSuccess) {
    throw Error("CUPTI refused to hand over records: " + text_of(api_, result));
  }
  // Before anything is enabled: what one clock said means nothing to the other.
  one_clock_ = api_.ActivityRegisterTimestampCallback != nullptr && api_.ActivityRegisterTimestampCallback(&timestamp) == kSuccess;
  room.clock_is_ours = one_clock_;
  if (int type = 0; api_.GetThreadIdType != nullptr && api_.GetThreadIdType(&type) == kSuccess) {
    system_thread_ids_ = type == kSystemThreadIds;
  }
  try {
    enable();
  } catch (...) {
    stop();
    throw;
  }
  begin_ = read_clocks();
}

KernelObserver::~KernelObserver() {
  if (getpid() != process_) {
    return;  // a fork: CUDA is its parent's
  }
  stop();
  Mailroom& room = mailroom();
  {
    const std::lock_guard lock(room.rows);
    room.log = nullptr;
  }
  const std::lock_guard lock(room.buffers);
  for (uint8_t* const buffer : std::exchange(room.empty, {})) {
    std::free(buffer);
  }
}

void KernelObserver::record_into(DeviceLog& log) {
  const std::lock_guard lock(mailroom().rows);
  mailroom().log = log_ = &log;
}

void KernelObserver::enable() {
  const auto add = [&](uint32_t kind) {
    if (const Result result = api_.ActivityEnable(kind); result != kSuccess) {
      throw Error("CUPTI refused to report activities of kind " + std::to_string(kind) + ": " + text_of(api_, result));
    }
    kinds_.push_back(kind);
  };
  if (!watch_calls(true)) {
    add(kRuntime);
    add(kDriver);
  }
  for (const uint32_t kind : {kConcurrentKernel, kMemcpy, kMemset, kMemcpyBetweenDevices}) {
    add(kind);
  }
}

// One by one, where this CUPTI can: PyTorch makes several calls more for each launch, and every record costs. Some are newer
// than some versions. False where launches are not watched then.
bool KernelObserver::watch_calls(bool watch) const noexcept {
  if (api_.ActivityEnableRuntimeApi == nullptr || api_.ActivityEnableDriverApi == nullptr) {
    return false;
  }
  bool launches = true;
#define TORCHPROF_WATCH(enable, id, required) launches = (api_.enable(id, watch ? 1 : 0) == kSuccess || !(required)) && launches;
#define TORCHPROF_RUNTIME(request, name, id) TORCHPROF_WATCH(ActivityEnableRuntimeApi, id, id == 211)
#define TORCHPROF_DRIVER(request, name, id) TORCHPROF_WATCH(ActivityEnableDriverApi, id, id == 307)
  TORCHPROF_CUDA_RUNTIME_CALLS(TORCHPROF_RUNTIME)
  TORCHPROF_CUDA_DRIVER_CALLS(TORCHPROF_DRIVER)
  return launches;
}

void KernelObserver::settle() noexcept {
  try {
    synchronize_devices();
  } catch (...) {  // a device that failed: the program hears of it from its own calls
  }
  api_.ActivityFlushAll(0);
}

void KernelObserver::stop() noexcept {
  if (std::exchange(stopped_, true)) {
    return;
  }
  end_ = read_clocks();
  for (const uint32_t kind : kinds_) {
    api_.ActivityDisable(kind);
  }
  watch_calls(false);
  api_.ActivityFlushAll(kFlushForced);
  mailroom().clock_is_ours = false;
}

KernelObserver::ClockReading KernelObserver::read_clocks() const {
  ClockReading best{0, 0, INT64_MAX};
  for (int attempt = 0; attempt < 5; ++attempt) {
    uint64_t theirs = 0;
    const int64_t before = ticks();
    api_.GetTimestamp(&theirs);
    const int64_t width = ticks() - before;
    if (width < best.width) {
      best = {before + width / 2, static_cast<int64_t>(theirs), width};
    }
  }
  return best;
}

DeviceReport KernelObserver::take(int64_t until) {
  DeviceReport report;
  report.system_thread_ids = system_thread_ids_;
  size_t dropped = 0;
  api_.ActivityGetNumDroppedRecords(nullptr, 0, &dropped);
  report.lost = dropped;
  {
    const std::lock_guard lock(mailroom().rows);
    if (log_ == nullptr) {
      return report;
    }
    const auto move = [](auto& log, auto& rows) {
      rows.reserve(log.size());
      log.drain([&](const auto* first, size_t count) { rows.insert(rows.end(), first, first + count); });
    };
    report.lost += log_->lost + log_->kernels.dropped() + log_->runtime_calls.dropped();
    move(log_->kernels, report.kernels);
    move(log_->runtime_calls, report.runtime_calls);
    for (uint32_t id = 0; id < log_->strings.size(); ++id) {
      report.names.push_back(log_->strings[id]);
    }
    log_->lost = 0;
  }
  translate_times(report);
  const uint32_t thread = this_thread(system_thread_ids_);
  std::erase_if(report.runtime_calls, [&](const RuntimeCall& call) {
    return static_cast<uint32_t>(call.op) == thread && call.start > until;
  });
  return report;
}

// Where CUPTI does not read our clock: the straight line through a reading of both at each end.
void KernelObserver::translate_times(DeviceReport& report) const {
  if (one_clock_) {
    return;
  }
  const ClockReading end = stopped_ ? end_ : read_clocks();
  const double rate = end.theirs > begin_.theirs
                          ? static_cast<double>(end.ticks - begin_.ticks) / static_cast<double>(end.theirs - begin_.theirs)
                          : 1.0;
  const auto in_ticks = [&](int64_t& time) { time = begin_.ticks + static_cast<int64_t>(static_cast<double>(time - begin_.theirs) * rate); };
  const auto translate = [&](auto& rows) {
    for (auto& row : rows) {
      in_ticks(row.start);
      in_ticks(row.end);
    }
  };
  translate(report.kernels);
  translate(report.runtime_calls);
  report.clock_error = std::max(begin_.width, end.width) / 2;
}

}  // namespace torchprof
