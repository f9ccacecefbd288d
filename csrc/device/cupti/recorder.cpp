#include <ATen/Context.h>
#include <ATen/detail/AcceleratorHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pthread.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <utility>

#include "device/cupti/calls.h"
#include "device/cupti/buffers.h"
#include "device/cupti/recorder.h"

namespace torchprof {
namespace {

using namespace cupti;

uint32_t this_thread(bool system_ids) {
#if defined(__linux__)
  if (system_ids) {
    return static_cast<uint32_t>(syscall(SYS_gettid));
  }
#endif
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pthread_self()));
}

// Those that the program has used. Whether there is one.
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

KernelObserver::KernelObserver() : api_(load()) {
  Buffers::of_process().attach(api_);
  if (int type = 0; api_.GetThreadIdType != nullptr && api_.GetThreadIdType(&type) == kSuccess) {
    system_thread_ids_ = type == kSystemThreadIds;
  }
  try {
    enable();
  } catch (...) {
    stop();
    throw;
  }
  dropped();  // what others lost before
  clock_.read();
}

KernelObserver::~KernelObserver() {
  if (getpid() != process_) {
    return;  // a fork: CUDA is its parent's
  }
  stop();
  Buffers::of_process().deliver_to(nullptr);
  Buffers::of_process().release();
}

void KernelObserver::record_into(DeviceLog& log) {
  log_ = &log;
  Buffers::of_process().deliver_to(log_);
}

void KernelObserver::enable() {
  for (const uint32_t kind : {kRuntime, kDriver}) {
    enable(kind);
  }
  watch_single_calls();
  for (const uint32_t kind : {kConcurrentKernel, kMemcpy, kMemset}) {
    enable(kind);
  }
  if (api_.ActivityEnable(kMemcpyBetweenDevices) == kSuccess) {  // one GPU can do without
    kinds_.push_back(kMemcpyBetweenDevices);
  }
}

void KernelObserver::enable(uint32_t kind) {
  if (const Result result = api_.ActivityEnable(kind); result != kSuccess) {
    throw Error("CUPTI refused to report activities of kind " + std::to_string(kind) + ": " + text_of(api_, result));
  }
  kinds_.push_back(kind);
}

// PyTorch makes several calls for each launch, and every record costs, so the others are switched off where this CUPTI can. It
// can only for kinds that are enabled: a single call switched on without its kind records nothing. Enabling a kind again, as every
// user of CUPTI does, forgets the switches.
void KernelObserver::watch_single_calls() const noexcept {
  const auto switch_off_all = [](Result (*set)(uint32_t, uint8_t)) {
    for (uint32_t id = 1; id < 5000 && set(id, 0) == kSuccess; ++id) {
    }
  };
  if (api_.ActivityEnableRuntimeApi != nullptr) {
    switch_off_all(api_.ActivityEnableRuntimeApi);
#define TORCHPROF_WATCH(request, name, id) api_.ActivityEnableRuntimeApi(id, 1);
    TORCHPROF_CUDA_RUNTIME_CALLS(TORCHPROF_WATCH)
#undef TORCHPROF_WATCH
  }
  if (api_.ActivityEnableDriverApi != nullptr) {
    switch_off_all(api_.ActivityEnableDriverApi);
#define TORCHPROF_WATCH(request, name, id) api_.ActivityEnableDriverApi(id, 1);
    TORCHPROF_CUDA_DRIVER_CALLS(TORCHPROF_WATCH)
#undef TORCHPROF_WATCH
  }
}

uint64_t KernelObserver::dropped() const {
  size_t records = 0;
  api_.ActivityGetNumDroppedRecords(nullptr, 0, &records);
  return records;
}

// Forced, or a buffer with one kernel in it that another thread has just launched would be withheld with all others.
void KernelObserver::settle(bool may_wait) noexcept {
  waited_ = false;
  try {
    waited_ = may_wait && synchronize_devices();
  } catch (...) {  // a device that failed: the program hears of it from its own calls
  }
  api_.ActivityFlushAll(kFlushForced);
  interrupted_ = !Buffers::of_process().all_returned() || interrupted_;
}

void KernelObserver::stop() noexcept {
  if (std::exchange(stopped_, true)) {
    return;
  }
  for (const uint32_t kind : kinds_) {
    api_.ActivityDisable(kind);
  }
  api_.ActivityFlushAll(kFlushForced);
  interrupted_ = !Buffers::of_process().all_returned() || interrupted_;
}

DeviceReport KernelObserver::take(int64_t until) {
  DeviceReport report;
  report.system_thread_ids = system_thread_ids_;
  report.lost = dropped();
  if (log_ == nullptr) {
    return report;
  }
  const auto move = [](auto& log, auto& rows) {
    rows.reserve(log.size());
    log.drain([&](const auto* first, size_t count) { rows.insert(rows.end(), first, first + count); });
  };
  Buffers::of_process().while_none_arrives([&] {
    report.lost += std::exchange(log_->lost, 0) + log_->kernels.dropped() + log_->runtime_calls.dropped();
    move(log_->kernels, report.kernels);
    move(log_->runtime_calls, report.runtime_calls);
    for (uint32_t id = 0; id < log_->strings.size(); ++id) {
      report.names.push_back(log_->strings[id]);
    }
  });
  clock_.read();
  report.lost += translate_times(report.kernels) + translate_times(report.runtime_calls);
  report.clock_error = clock_.error();
  clock_.forget();
  const uint32_t thread = this_thread(system_thread_ids_);
  const auto settling = std::erase_if(report.runtime_calls, [&](const RuntimeCall& call) {
    return static_cast<uint32_t>(call.op) == thread && call.start > until;
  });
  report.interrupted = interrupted_ || (waited_ && settling == 0);  // then our own waiting was not reported either
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
