// An imaginary device, so that tests need no real one: two devices of PyTorch's PrivateUse1 type. Their memory is the host's, their
// kernels are the CPU's, and their clock stands still until a test moves it.
//
//   work of 5 us on a stream ──►  the stream is busy until its clock says so; an event recorded there has that time
//   an op ──►  the CPU's kernel, on copies; and work of `op_duration` on the current stream
//   a tensor ──►  a block of whole 512 bytes, cached when it is freed, reported as PyTorch's CUDA allocator reports
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace py = pybind11;
using namespace py::literals;

namespace {

constexpr auto kFake = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kDevices = 2;

c10::Device device(c10::DeviceIndex index) { return {kFake, index}; }
thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kDevices> current_stream{};

// Failures

std::mutex failures_mutex;
std::map<std::string, int> failures;  // how many more times this succeeds before it fails

void may_fail(const char* what) {
  const std::lock_guard lock(failures_mutex);
  if (const auto found = failures.find(what); found != failures.end() && found->second-- <= 0) {
    found->second = 0;
    TORCH_CHECK(false, "fake device: ", what, " failed");
  }
}

// Time, in nanoseconds of the device's clock

int64_t host_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Event {
  int64_t time = 0;
};

class Timeline {
 public:
  int64_t now() {
    const std::lock_guard lock(mutex_);
    return read();
  }
  void advance(int64_t ns) {
    const std::lock_guard lock(mutex_);
    stopped_at_ += ns;
  }
  // From now on the clock runs with the host's, so many times as fast; 0: it stands still.
  void run(double rate) {
    const std::lock_guard lock(mutex_);
    stopped_at_ = read();
    started_at_ = host_ns();
    rate_ = rate;
  }

  void work(c10::Stream stream, int64_t ns) {
    const std::lock_guard lock(mutex_);
    busy_until_[key(stream)] = until(stream) + ns;
  }
  int64_t time_of(c10::Stream stream) {
    const std::lock_guard lock(mutex_);
    return until(stream);
  }
  void wait_for(c10::Stream stream, int64_t time) {
    const std::lock_guard lock(mutex_);
    busy_until_[key(stream)] = std::max(until(stream), time);
  }
  int64_t end_of(c10::DeviceIndex index) {
    const std::lock_guard lock(mutex_);
    int64_t end = read();
    for (const auto& [stream, time] : busy_until_) {
      end = stream.first == index ? std::max(end, time) : end;
    }
    return end;
  }
  // A clock that stands still is moved; one that runs is waited for.
  void reach(int64_t time) {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (read() >= time) {
          return;
        }
        if (rate_ == 0) {
          stopped_at_ = time;
          return;
        }
      }
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  void reset() {
    const std::lock_guard lock(mutex_);
    busy_until_.clear();
    stopped_at_ = 0;
    rate_ = 0;
  }

 private:
  using Key = std::pair<c10::DeviceIndex, c10::StreamId>;
  static Key key(c10::Stream stream) { return {stream.device_index(), stream.id()}; }
  int64_t read() const {
    return stopped_at_ + (rate_ == 0 ? 0 : static_cast<int64_t>(static_cast<double>(host_ns() - started_at_) * rate_));
  }
  int64_t until(c10::Stream stream) { return std::max(busy_until_[key(stream)], read()); }

  std::mutex mutex_;
  std::map<Key, int64_t> busy_until_;
  int64_t stopped_at_ = 0;
  int64_t started_at_ = 0;
  double rate_ = 0;
};

Timeline& timeline() {
  static auto* const instance = new Timeline;
  return *instance;
}

std::atomic<bool> capturing{false};
std::atomic<int64_t> op_duration{0};
std::atomic<int64_t> live_events{0};
std::atomic<int64_t> made_events{0};
std::atomic<int64_t> captured_events{0};
std::array<std::atomic<int64_t>, kDevices> synchronizations{};

// Devices, streams and events, as PyTorch wants them

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kFake; }
  c10::Device exchangeDevice(c10::Device to) const override { return device(std::exchange(current_device, to.index())); }
  c10::Device getDevice() const override { return device(current_device); }
  void setDevice(c10::Device to) const override { current_device = to.index(); }
  void uncheckedSetDevice(c10::Device to) const noexcept override { current_device = to.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Stream getStream(c10::Device of) const override { return stream(index(of), current_stream[index(of)]); }
  c10::Stream getDefaultStream(c10::Device of) const override { return stream(index(of), 0); }
  c10::Stream getNewStream(c10::Device of, int) const override {
    static std::atomic<c10::StreamId> made{0};
    return stream(index(of), ++made);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device of, bool) const override { return getNewStream(of, 0); }
  c10::Stream exchangeStream(c10::Stream to) const override {
    return stream(index(to.device()), std::exchange(current_stream[index(to.device())], to.id()));
  }
  bool queryStream(const c10::Stream& stream) const override { return timeline().time_of(stream) <= timeline().now(); }
  void synchronizeStream(const c10::Stream& stream) const override { timeline().reach(timeline().time_of(stream)); }
  bool isStreamCapturing(const c10::Stream&) const { return capturing; }  // newer than the oldest PyTorch this compiles with
  void synchronizeDevice(const c10::DeviceIndex of) const override {
    may_fail("synchronize");
    ++synchronizations[static_cast<size_t>(of)];
    timeline().reach(timeline().end_of(of));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    may_fail("record");
    if (capturing) {
      ++captured_events;
    }
    if (*event == nullptr) {
      *event = new Event;
      ++live_events;
      ++made_events;
    }
    static_cast<Event*>(*event)->time = timeline().time_of(stream);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    if (event != nullptr) {
      delete static_cast<Event*>(event);
      --live_events;
    }
  }
  void block(void* event, const c10::Stream& stream) const override {
    timeline().wait_for(stream, static_cast<Event*>(event)->time);
  }
  bool queryEvent(void* event) const override {
    may_fail("query");
    return event == nullptr || static_cast<Event*>(event)->time <= timeline().now();
  }
  void synchronizeEvent(void* event) const override { timeline().reach(static_cast<Event*>(event)->time); }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    may_fail("elapsed");
    const int64_t ns = static_cast<Event*>(to)->time - static_cast<Event*>(from)->time;
    return static_cast<float>(static_cast<double>(ns) / 1e6);  // no better than CUDA's
  }

 private:
  static c10::Stream stream(size_t index, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, device(static_cast<c10::DeviceIndex>(index)), id);
  }
  static size_t index(c10::Device of) { return static_cast<size_t>(of.has_index() ? of.index() : current_device); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

c10::Stream stream_now() { return Guard().getStream(device(current_device)); }

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current_device = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current_device, index); }
};

// Memory

class Memory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::DeviceIndex index = current_device;
    if (bytes == 0) {
      return {nullptr, device(index)};
    }
    const std::lock_guard lock(mutex_);
    Pool& pool = pools_[static_cast<size_t>(index)];
    const size_t size = (bytes + kBlock - 1) / kBlock * kBlock;
    auto [address, block] = pool.take(size);
    if (address == nullptr) {
      if (pool.reserved.current + static_cast<int64_t>(size) > pool.capacity) {
        pool.release();
      }
      if (pool.reserved.current + static_cast<int64_t>(size) > pool.capacity) {
        c10::reportOutOfMemoryToProfiler(static_cast<int64_t>(size), pool.total_allocated(), pool.total_reserved(),
                                         device(index));
        TORCH_CHECK_WITH(OutOfMemoryError, false, "fake device out of memory");
      }
      address = std::aligned_alloc(kBlock, size);
      block = size;
      pool.reserved.increase(size);
    }
    blocks_[address] = {index, block};
    pool.allocated.increase(block);
    c10::reportMemoryUsageToProfiler(address, static_cast<int64_t>(block), pool.total_allocated(), pool.total_reserved(),
                                     device(index));
    return {address, address, &release, device(index)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    const std::lock_guard lock(mutex_);
    for (Pool& pool : pools_) {
      pool.release();
    }
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    const std::lock_guard lock(mutex_);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0] = pools_[static_cast<size_t>(index)].allocated;
    stats.reserved_bytes[0] = pools_[static_cast<size_t>(index)].reserved;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex index) override {
    const std::lock_guard lock(mutex_);
    pools_[static_cast<size_t>(index)].allocated.reset_peak();
    pools_[static_cast<size_t>(index)].reserved.reset_peak();
  }
  void set_capacity(c10::DeviceIndex index, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    pools_[static_cast<size_t>(index)].capacity = bytes;
  }

 private:
  static constexpr size_t kBlock = 512;

  struct Pool {
    c10::CachingAllocator::Stat allocated;
    c10::CachingAllocator::Stat reserved;
    std::multimap<size_t, void*> kept;
    int64_t capacity = INT64_MAX;

    size_t total_allocated() const { return static_cast<size_t>(allocated.current); }
    size_t total_reserved() const { return static_cast<size_t>(reserved.current); }
    // A block that fits and is less than twice as large, whole: a block may be larger than its allocation.
    std::pair<void*, size_t> take(size_t size) {
      const auto found = kept.lower_bound(size);
      if (found == kept.end() || found->first >= 2 * size) {
        return {nullptr, 0};
      }
      const std::pair<void*, size_t> block{found->second, found->first};
      kept.erase(found);
      return block;
    }
    void release() {
      for (const auto& [size, address] : kept) {
        std::free(address);
        reserved.decrease(size);
      }
      kept.clear();
    }
  };

  static void release(void* address);
  void free_block(void* address) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(address);
    const auto [index, size] = block->second;
    blocks_.erase(block);
    Pool& pool = pools_[static_cast<size_t>(index)];
    pool.allocated.decrease(size);
    pool.kept.emplace(size, address);
    c10::reportMemoryUsageToProfiler(address, -static_cast<int64_t>(size), pool.total_allocated(), pool.total_reserved(),
                                     device(index));
  }

  std::mutex mutex_;
  std::array<Pool, kDevices> pools_;
  std::unordered_map<void*, std::pair<c10::DeviceIndex, size_t>> blocks_;
};

Memory& memory() {
  static auto* const instance = new Memory;
  return *instance;
}

void Memory::release(void* address) {
  if (address != nullptr) {
    memory().free_block(address);
  }
}

// Ops

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> where, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(where);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> where, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(where);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  const auto start = offset.has_value() ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}
at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}
at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor on_host(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  on_host(to).copy_(on_host(self));
  return to;
}
at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  at::native::resize_(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}
at::Scalar item(const at::Tensor& self) {
  Guard().synchronizeStream(stream_now());
  return on_host(self).item();
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  may_fail("kernel");
  at::native::cpu_fallback(op, stack);
  timeline().work(stream_now(), op_duration);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
}

}  // namespace

PYBIND11_MODULE(fake_device, m) {
  c10::register_privateuse1_backend("fake");  // without a name of its own it is no accelerator
  c10::SetAllocator(kFake, &memory());
  at::RegisterPrivateUse1HooksInterface(new Hooks);

  m.def("work", [](int64_t ns) { timeline().work(stream_now(), ns); }, "Keeps the current stream busy for so long.");
  m.def("op_duration", [](int64_t ns) { op_duration = ns; }, "How long every op keeps its stream busy.");
  m.def("now", [] { return timeline().now(); });
  m.def("advance", [](int64_t ns) { timeline().advance(ns); });
  m.def("run_clock", [](double rate) { timeline().run(rate); }, "With the host's, so many times as fast; 0: it stands still.");
  m.def("capture", [](bool on) { capturing = on; }, "Whether streams say that they are being captured into a graph.");
  m.def(
      "fail",
      [](const std::string& what, int after) {
        const std::lock_guard lock(failures_mutex);
        failures[what] = after;
      },
      "what"_a = "record", "after"_a = 0);
  m.def("live_events", [] { return live_events.load(); });
  m.def("made_events", [] { return made_events.load(); });
  m.def("captured_events", [] { return captured_events.load(); });
  m.def("synchronizations", [](size_t index) { return synchronizations.at(index).load(); });

  const auto stats = [](c10::DeviceIndex index) { return memory().getDeviceStats(index); };
  m.def("allocated", [stats](c10::DeviceIndex index) { return stats(index).allocated_bytes[0].current; }, "index"_a = 0);
  m.def("max_allocated", [stats](c10::DeviceIndex index) { return stats(index).allocated_bytes[0].peak; }, "index"_a = 0);
  m.def("reserved", [stats](c10::DeviceIndex index) { return stats(index).reserved_bytes[0].current; }, "index"_a = 0);
  m.def("max_reserved", [stats](c10::DeviceIndex index) { return stats(index).reserved_bytes[0].peak; }, "index"_a = 0);
  m.def(
      "capacity", [](int64_t bytes, c10::DeviceIndex index) { memory().set_capacity(index, bytes); }, "bytes"_a, "index"_a = 0);
  m.def("empty_cache", [] { memory().emptyCache({0, 0}); });

  m.def(
      "reset",
      [] {
        timeline().reset();
        memory().emptyCache({0, 0});
        for (c10::DeviceIndex index = 0; index < kDevices; ++index) {
          memory().set_capacity(index, INT64_MAX);
          memory().resetPeakStats(index);
          synchronizations[static_cast<size_t>(index)] = 0;
        }
        const std::lock_guard lock(failures_mutex);
        failures.clear();
        capturing = false;
        op_duration = captured_events = made_events = 0;
      },
      "As if just loaded, but for what is still allocated.");
  m.def("reset_peaks", [] {
    for (c10::DeviceIndex index = 0; index < kDevices; ++index) {
      memory().resetPeakStats(index);
    }
  });
}
