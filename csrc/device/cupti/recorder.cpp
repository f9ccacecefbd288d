#include "device/cupti/recorder.h"

#include <ATen/Context.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pthread.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <string>
#include <utility>

#include "device/cupti/buffers.h"
#include "device/cupti/calls.h"
#include "trace/clock.h"

namespace torchprof::cupti {
namespace {

uint32_t this_thread(bool system_ids) {
#if defined(__linux__)
  if (system_ids) {
    return static_cast<uint32_t>(syscall(SYS_gettid));
  }
#endif
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pthread_self()));
}

// Waits for the devices that the program has used. Returns whether there is one.
bool synchronize_devices() {
  constexpr auto kCuda = c10::DeviceType::CUDA;
  if (!c10::impl::hasDeviceGuardImpl(kCuda)) {
    return false;
  }
  const c10::impl::VirtualGuardImpl guard(kCuda);
  const at::AcceleratorHooksInterface& hooks = at::globalContext().getAcceleratorHooksInterface(kCuda);
  bool any = false;
  for (c10::DeviceIndex index = 0; index < guard.deviceCount(); ++index) {
    if (hooks.hasPrimaryContext(index)) {
      guard.synchronizeDevice(index);
      any = true;
    }
  }
  return any;
}

}  // namespace

Recorder::Recorder() : api_(load()) {
  Buffers::of_process().attach(api_);
  if (int type = 0; api_.GetThreadIdType != nullptr && api_.GetThreadIdType(&type) == kSuccess) {
    system_thread_ids_ = type == kSystemThreadIds;
  }
  try {
    enable_all();
  } catch (...) {
    stop(false);
    throw;
  }
  dropped();  // resets the count
  clock_.read();
}

Recorder::~Recorder() {
  if (getpid() != process_) {
    return;
  }
  stop(false);
  Buffers::of_process().deliver_to(nullptr);
  Buffers::of_process().release();
}

void Recorder::record_into(DeviceLog& log, bool /*ops*/) {
  log_ = &log;
  Buffers::of_process().deliver_to(log_);
}

void Recorder::enable_all() {
  for (const uint32_t kind : {kRuntime, kDriver}) {
    enable(kind);
  }
  select_calls();
  for (const uint32_t kind : {kConcurrentKernel, kMemcpy, kMemset}) {
    enable(kind);
  }
  if (api_.ActivityEnable(kMemcpyBetweenDevices) == kSuccess) {  // not needed with one GPU
    kinds_.push_back(kMemcpyBetweenDevices);
  }
}

void Recorder::enable(uint32_t kind) {
  if (const Result result = api_.ActivityEnable(kind); result != kSuccess) {
    throw DeviceRecorderError("CUPTI refused to report activities of kind " + std::to_string(kind) + ": " +
                              text_of(api_, result));
  }
  kinds_.push_back(kind);
}

// PyTorch makes several runtime calls per launch and every record costs time, so records of all calls that calls.h does not list are
// switched off, if this version of CUPTI can. It can only do so for kinds that are enabled: a call that is switched on without its
// kind records nothing. Enabling a kind again, as every user of CUPTI does, resets the switches.
void Recorder::select_calls() const noexcept {
  const auto switch_off_all = [](Result (*set)(uint32_t, uint8_t)) {
    for (uint32_t id = 1; id < 5000 && set(id, 0) == kSuccess; ++id) {
    }
  };
  if (api_.ActivityEnableRuntimeApi != nullptr) {
    switch_off_all(api_.ActivityEnableRuntimeApi);
#define TORCHPROF_SWITCH_ON(kind, name, id) api_.ActivityEnableRuntimeApi(id, 1);
    TORCHPROF_CUDA_RUNTIME_CALLS(TORCHPROF_SWITCH_ON)
#undef TORCHPROF_SWITCH_ON
  }
  if (api_.ActivityEnableDriverApi != nullptr) {
    switch_off_all(api_.ActivityEnableDriverApi);
#define TORCHPROF_SWITCH_ON(kind, name, id) api_.ActivityEnableDriverApi(id, 1);
    TORCHPROF_CUDA_DRIVER_CALLS(TORCHPROF_SWITCH_ON)
#undef TORCHPROF_SWITCH_ON
  }
}

uint64_t Recorder::dropped() const {
  size_t records = 0;
  api_.ActivityGetNumDroppedRecords(nullptr, 0, &records);
  return records;
}

// A forced flush: otherwise CUPTI keeps a buffer back that holds a kernel which another thread has just launched, and with it all
// other records in that buffer.
void Recorder::flush() noexcept {
  api_.ActivityFlushAll(kFlushForced);
  buffers_missing_ = !Buffers::of_process().all_returned() || buffers_missing_;
}

void Recorder::settle(bool may_wait) noexcept {
  settled_at_ = torchprof::ticks();
  waited_ = false;
  try {
    waited_ = may_wait && synchronize_devices();
  } catch (...) {  // the device failed, as the program's own calls will tell it
  }
  flush();
}

void Recorder::stop(bool may_wait) noexcept {
  if (std::exchange(stopped_, true)) {
    return;
  }
  settle(may_wait);
  for (const uint32_t kind : kinds_) {
    api_.ActivityDisable(kind);
  }
  flush();
}

DeviceReport Recorder::take() {
  DeviceReport report;
  report.system_thread_ids = system_thread_ids_;
  if (log_ == nullptr) {
    report.lost = dropped();
    return report;
  }
  const auto move = [](auto& log, auto& rows) {
    log.drain([&](const auto* first, size_t count) { rows.insert(rows.end(), first, first + count); });
  };
  clock_.read();
  Buffers::of_process().while_none_arrives([&] {
    for (uint32_t id = 0; id < log_->strings.size(); ++id) {
      report.names.push_back(log_->strings[id]);
    }
    report.kernels.reserve(log_->kernels.size());
    report.runtime_calls.reserve(log_->runtime_calls.size());
    // Nothing fails from here on.
    report.lost = std::exchange(log_->lost, 0) + log_->kernels.dropped() + log_->runtime_calls.dropped();
    move(log_->kernels, report.kernels);
    move(log_->runtime_calls, report.runtime_calls);
  });
  report.lost += dropped() + translate_times(report.kernels) + translate_times(report.runtime_calls);
  report.clock_error = clock_.error();
  clock_.forget();
  const uint32_t thread = this_thread(system_thread_ids_);
  const auto settling = std::erase_if(report.runtime_calls, [&](const RuntimeCall& call) {
    return static_cast<uint32_t>(call.op) == thread && call.start > settled_at_;
  });
  // If synchronize_devices() was not reported, other calls may be missing too.
  report.interrupted = buffers_missing_ || (waited_ && settling == 0);
  return report;
}

// Removes rows whose times belong to no known clock, and returns how many.
template <typename Row>
uint64_t Recorder::translate_times(std::vector<Row>& rows) const {
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

}  // namespace torchprof::cupti
