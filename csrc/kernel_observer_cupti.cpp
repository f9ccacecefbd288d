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

uint32_t this_thread(bool system_ids) {
#if defined(__linux__)
  if (system_ids) {
    return static_cast<uint32_t>(syscall(SYS_gettid));
  }
#endif
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pthread_self()));
}

// Not in every PyTorch that this is built for.
template <typename Guard>
bool is_capturing(const Guard& guard, c10::Stream stream) {
  if constexpr (requires { guard.isStreamCapturing(stream); }) {
    return guard.isStreamCapturing(stream);
  } else {
    return false;
  }
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
    if (hooks.hasPrimaryContext(index) && !is_capturing(guard, guard.getStream({kCuda, index}))) {
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
  if (int type = 0; api_.GetThreadIdType != nullptr && api_.GetThreadIdType(&type) == kSuccess) {
    system_thread_ids_ = type == kSystemThreadIds;
  }
  try {
    enable();
  } catch (...) {
    stop();
    throw;
  }
  clock_.read();
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
  for (const uint32_t kind : {kConcurrentKernel, kMemcpy, kMemset}) {
    add(kind);
  }
  if (api_.ActivityEnable(kMemcpyBetweenDevices) == kSuccess) {  // one GPU can do without
    kinds_.push_back(kMemcpyBetweenDevices);
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
  for (const uint32_t kind : kinds_) {
    api_.ActivityDisable(kind);
  }
  watch_calls(false);
  api_.ActivityFlushAll(kFlushForced);
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
  clock_.read();
  report.lost += translate_times(report.kernels) + translate_times(report.runtime_calls);
  report.clock_error = clock_.error();
  clock_.forget();
  const uint32_t thread = this_thread(system_thread_ids_);
  std::erase_if(report.runtime_calls, [&](const RuntimeCall& call) {
    return static_cast<uint32_t>(call.op) == thread && call.start > until;
  });
  return report;
}

// Rows whose times are of no known clock are left out; returns how many.
template <typename Row>
uint64_t KernelObserver::translate_times(std::vector<Row>& rows) const {
  return std::erase_if(rows, [this](Row& row) {
    const auto start = clock_.ticks(static_cast<uint64_t>(row.start));
    const auto end = clock_.ticks(static_cast<uint64_t>(row.end));
    if (!start || !end || *end < *start) {
      return true;
    }
    row.start = *start;
    row.end = *end;
    return false;
  });
}

}  // namespace torchprof
