// A CUPTI without a GPU: a shared library that TORCHPROF_CUPTI names, with the functions that torchprof calls, and with functions named
// fake_* through which a test controls what the GPU does. The streams of this one imaginary GPU run kernels one after the other.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/cupti/api.h"
#include "trace/clock.h"

using namespace torchprof::cupti;

namespace {

constexpr Result kMaxLimitReached = 12;
constexpr Result kRefused = 39;
constexpr size_t kKernelBytes = 224;  // longer than any so far: a newer version's
constexpr size_t kOtherBytes = 104;

struct Fake {
  // Settings
  uint32_t version = 130001;
  bool selects_calls = true;
  bool reports_ticks = false;      // instead of the time of the wall clock
  uint32_t strays = 0;             // so many kernels come without times
  uint32_t late_by = 0;            // milliseconds after the flush, buffers are returned
  size_t buffer_bytes = SIZE_MAX;  // to use of each buffer
  bool keeps_buffers = false;      // returns no buffer before a flush
  std::string refused;             // the function that fails

  // State
  std::set<uint32_t> kinds, runtime_calls_off, driver_calls_off;
  BufferRequested requested = nullptr;
  BufferCompleted completed = nullptr;
  uint32_t correlation = 0;
  std::map<uint32_t, uint64_t> stream_is_free;
  size_t dropped = 0;

  struct Buffer {
    uint8_t* begin;
    size_t size;
    std::vector<size_t> records;  // where they begin
    size_t used = 0;
  };
  std::vector<Buffer> full;
  Buffer open{};
  std::map<uint8_t*, std::vector<size_t>> returned;
};

Fake fake;
std::recursive_mutex mutex;

uint64_t wall() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t now() { return fake.reports_ticks ? static_cast<uint64_t>(torchprof::ticks()) : wall(); }

// On another thread, as CUPTI does.
void return_buffers(std::vector<Fake::Buffer> buffers) {
  const auto late_by = std::chrono::milliseconds(fake.late_by);
  std::thread worker([buffers = std::move(buffers), late_by]() mutable {
    std::this_thread::sleep_for(late_by);
    for (Fake::Buffer& buffer : buffers) {
      {
        const std::lock_guard lock(mutex);
        fake.returned[buffer.begin] = buffer.records;
      }
      fake.completed(nullptr, 0, buffer.begin, buffer.size, buffer.used);
    }
  });
  fake.late_by != 0 ? worker.detach() : worker.join();
}

void emit(const void* record, size_t bytes) {
  std::vector<Fake::Buffer> done;
  {
    const std::lock_guard lock(mutex);
    const size_t usable = std::min(fake.open.size, fake.buffer_bytes);
    if (fake.open.begin == nullptr || fake.open.used + bytes > usable) {
      if (fake.open.begin != nullptr) {
        fake.full.push_back(std::exchange(fake.open, {}));
      }
      size_t most = 0;
      fake.requested(&fake.open.begin, &fake.open.size, &most);
      if (!fake.keeps_buffers) {
        done = std::exchange(fake.full, {});
      }
    }
    if (fake.open.begin == nullptr) {
      ++fake.dropped;
    } else {
      std::memcpy(fake.open.begin + fake.open.used, record, bytes);
      fake.open.records.push_back(fake.open.used);
      fake.open.used += bytes;
    }
  }
  if (!done.empty()) {
    return_buffers(std::move(done));
  }
}

bool refuses(const char* function) { return fake.refused == function; }

bool is_selected(bool driver, uint32_t call) {
  return fake.kinds.count(driver ? kDriver : kRuntime) != 0 &&
         (driver ? fake.driver_calls_off : fake.runtime_calls_off).count(call) == 0;
}

Result switch_call(std::set<uint32_t>& off, uint32_t call, uint8_t on) {
  if (!fake.selects_calls || call > 900) {
    return kRefused;
  }
  on != 0 ? void(off.erase(call)) : void(off.insert(call));
  return kSuccess;
}

template <typename Record>
void emit_record(const Record& record, size_t bytes) {
  std::vector<uint8_t> whole(bytes, 0xAB);  // fields of a newer version
  std::memcpy(whole.data(), &record, sizeof(Record));
  emit(whole.data(), bytes);
}

void emit_call(bool driver, uint32_t call, uint64_t start, uint32_t correlation) {
  if (!is_selected(driver, call)) {
    return;
  }
  CallRecord record{};
  record.kind = driver ? kDriver : kRuntime;
  record.call = call;
  record.start = start;
  record.end = now();
  record.thread = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pthread_self()));
  record.correlation = correlation;
  emit(&record, sizeof record);
}

template <typename Record>
void run_on_stream(Record& record, uint32_t stream, uint64_t duration) {
  record.stream = stream;
  if (fake.strays != 0) {
    --fake.strays;
    return;
  }
  record.start = std::max(now(), fake.stream_is_free[stream]);
  record.end = fake.stream_is_free[stream] = record.start + duration;
}

}  // namespace

extern "C" {

Result cuptiGetVersion(uint32_t* version) {
  *version = fake.version;
  return kSuccess;
}

Result cuptiGetResultString(Result result, const char** text) {
  *text = result == kRefused ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "CUPTI_ERROR_OF_THE_FAKE";
  return kSuccess;
}

Result cuptiGetThreadIdType(int* type) {
  *type = 0;
  return kSuccess;
}

Result cuptiActivityEnable(uint32_t kind) {
  if (refuses("cuptiActivityEnable")) {
    return kRefused;
  }
  fake.kinds.insert(kind);
  if (kind == kRuntime || kind == kDriver) {  // as the real one, switches all calls on again
    (kind == kRuntime ? fake.runtime_calls_off : fake.driver_calls_off).clear();
  }
  return kSuccess;
}

Result cuptiActivityDisable(uint32_t kind) {
  fake.kinds.erase(kind);
  return kSuccess;
}

Result cuptiActivityEnableRuntimeApi(uint32_t call, uint8_t enable) {
  return switch_call(fake.runtime_calls_off, call, enable);
}

Result cuptiActivityEnableDriverApi(uint32_t call, uint8_t enable) { return switch_call(fake.driver_calls_off, call, enable); }

Result cuptiActivityRegisterCallbacks(BufferRequested requested, BufferCompleted completed) {
  if (refuses("cuptiActivityRegisterCallbacks")) {
    return kRefused;
  }
  fake.requested = requested;
  fake.completed = completed;
  return kSuccess;
}

Result cuptiActivityGetNextRecord(uint8_t* buffer, size_t, const uint8_t** record) {
  const std::lock_guard lock(mutex);
  const std::vector<size_t>& records = fake.returned[buffer];
  const auto at = *record != nullptr ? std::upper_bound(records.begin(), records.end(), static_cast<size_t>(*record - buffer))
                                     : records.begin();
  const auto next = static_cast<size_t>(at - records.begin());
  if (next == records.size()) {
    return kMaxLimitReached;
  }
  *record = buffer + records[next];
  return kSuccess;
}

Result cuptiActivityGetNumDroppedRecords(void*, uint32_t, size_t* dropped) {
  const std::lock_guard lock(mutex);
  *dropped = std::exchange(fake.dropped, 0);
  return kSuccess;
}

Result cuptiActivityFlushAll(uint32_t) {
  std::vector<Fake::Buffer> done;
  {
    const std::lock_guard lock(mutex);
    done = std::exchange(fake.full, {});
    if (fake.open.begin != nullptr) {
      done.push_back(std::exchange(fake.open, {}));
    }
  }
  if (!done.empty()) {
    return_buffers(std::move(done));
  }
  return kSuccess;
}

// Resets everything but the callbacks, which a real CUPTI keeps as long as the process lives.
void fake_reset() {
  cuptiActivityFlushAll(kFlushForced);
  const std::lock_guard lock(mutex);
  Fake fresh;
  fresh.requested = fake.requested;
  fresh.completed = fake.completed;
  fresh.correlation = fake.correlation;
  fake = std::move(fresh);
}

void fake_set_version(uint32_t version) { fake.version = version; }
void fake_report_ticks(uint32_t strays) {
  fake.reports_ticks = true;
  fake.strays = strays;
}
void fake_cannot_select_calls() { fake.selects_calls = false; }
void fake_limit_buffers(size_t bytes) { fake.buffer_bytes = bytes; }
void fake_keep_buffers_until_flush() { fake.keeps_buffers = true; }
void fake_refuse(const char* function) { fake.refused = function; }
void fake_return_buffers_late(uint32_t milliseconds) { fake.late_by = milliseconds; }
size_t fake_enabled() { return fake.kinds.size(); }

// Another profiler registers its own callbacks, keeps the buffers in use, and disables all activities.
void fake_another_takes_over() {
  const std::lock_guard lock(mutex);
  fake.full.clear();
  fake.open = {};
  fake.requested = [](uint8_t** buffer, size_t* size, size_t*) {
    *buffer = nullptr;
    *size = 0;
  };
  fake.completed = [](void*, uint32_t, uint8_t*, size_t, size_t) {};
  fake.kinds.clear();
}

// A buffer of another profiler is returned to the callbacks that were registered after it.
void fake_return_buffer_of_another() {
  static uint8_t buffer[64];
  fake.completed(nullptr, 0, buffer, sizeof buffer, sizeof buffer);
}

uint32_t fake_call(int driver, uint32_t call, uint64_t duration) {
  const uint64_t start = now();
  while (now() < start + duration) {
  }
  const uint32_t correlation = ++fake.correlation;
  emit_call(driver != 0, call, start, correlation);
  return correlation;
}

// `launched_by` 0: a call without a record; 1: a call of the runtime; 2: a call of the driver; 3: both, one inside the other.
uint32_t fake_launch(const char* name, uint64_t duration, uint32_t stream, uint32_t graph, int launched_by) {
  const uint64_t start = now();
  const uint32_t correlation = ++fake.correlation;
  KernelRecord kernel{};
  kernel.kind = kConcurrentKernel;
  kernel.registers = 32;
  kernel.grid[0] = 108;
  kernel.grid[1] = kernel.grid[2] = 1;
  kernel.block[0] = 256;
  kernel.block[1] = kernel.block[2] = 1;
  kernel.static_shared_memory = 1024;
  kernel.dynamic_shared_memory = 512;
  kernel.correlation = correlation;
  kernel.name = name;
  kernel.graph = graph;
  run_on_stream(kernel, stream, duration);
  if (fake.kinds.count(kConcurrentKernel) != 0) {
    emit_record(kernel, kKernelBytes);
  }
  if ((launched_by & 2) != 0) {
    emit_call(true, 307, now(), correlation);
  }
  if ((launched_by & 1) != 0) {
    emit_call(false, graph != 0 ? 311 : 211, start, correlation);
  }
  return correlation;
}

uint32_t fake_copy(uint8_t kind, uint8_t source, uint8_t destination, uint64_t bytes, uint64_t duration) {
  const uint64_t start = now();
  const uint32_t correlation = ++fake.correlation;
  const auto emit_copy = [&](auto copy, uint32_t record_kind) {
    copy.kind = record_kind;
    copy.copy_kind = kind;
    copy.source_kind = source;
    copy.destination_kind = destination;
    copy.bytes = bytes;
    copy.correlation = correlation;
    run_on_stream(copy, 7, duration);
    emit_record(copy, kOtherBytes);
  };
  kind == 10 ? emit_copy(MemcpyBetweenDevicesRecord{}, kMemcpyBetweenDevices) : emit_copy(MemcpyRecord{}, kMemcpy);
  emit_call(false, 41, start, correlation);
  return correlation;
}

uint32_t fake_memset(uint64_t bytes, uint64_t duration) {
  const uint64_t start = now();
  const uint32_t correlation = ++fake.correlation;
  MemsetRecord record{};
  record.kind = kMemset;
  record.memory_kind = 3;
  record.bytes = bytes;
  record.correlation = correlation;
  run_on_stream(record, 7, duration);
  emit_record(record, kOtherBytes);
  emit_call(false, 51, start, correlation);
  return correlation;
}

// A kernel without times, or with times of no known clock.
void fake_kernel_with_times(uint64_t start, uint64_t end) {
  KernelRecord kernel{};
  kernel.kind = kConcurrentKernel;
  kernel.correlation = ++fake.correlation;
  kernel.start = start;
  kernel.end = end;
  emit_record(kernel, kKernelBytes);
}

// A record of a kind that is not known yet.
void fake_unknown_record() {
  std::vector<uint8_t> record(64, 0xEE);
  const uint32_t kind = 4711;
  std::memcpy(record.data(), &kind, sizeof kind);
  emit(record.data(), record.size());
}
}
