// The cheapest observers PyTorch allows, to measure against, and ops run without Python around them.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/extension.h>

#include <chrono>
#include <vector>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif

namespace {

at::CallbackHandle installed;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) { return nullptr; }
void end(const at::RecordFunction&, at::ObserverContext*) {}

// A callback that does nothing; with `tensors`, one that has inputs and outputs handed over and does nothing with them.
void observe(bool tensors) {
  installed = at::addGlobalCallback(at::RecordFunctionCallback(&begin, &end).needsInputs(tensors).needsOutputs(tensors));
}
void stop() { at::removeCallback(installed); }

// Nanoseconds per op.
double add(const at::Tensor& a, const at::Tensor& b, int64_t count) {
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor c = at::add(a, b);
  }
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() /
         static_cast<double>(count);
}

// The same with tensors that are ever new: each sum is added to, and the last `kept` of them stay, so that none has the address of one of
// these.
double add_to_sums(const at::Tensor& a, int64_t count, int64_t kept) {
  std::vector<at::Tensor> sums(static_cast<size_t>(kept), a);
  const auto begin = std::chrono::steady_clock::now();
  size_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const size_t next = last + 1 < sums.size() ? last + 1 : 0;
    sums[next] = at::add(sums[last], a);
    last = next;
  }
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() /
         static_cast<double>(count);
}

// Instructions are counted by Valgrind from here on, and written to a file; without Valgrind, nothing happens.
void start_counting() {
#ifdef CALLGRIND_START_INSTRUMENTATION
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
#endif
}
void stop_counting(const std::string& name) {
#ifdef CALLGRIND_START_INSTRUMENTATION
  CALLGRIND_DUMP_STATS_AT(name.c_str());
  CALLGRIND_STOP_INSTRUMENTATION;
#endif
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("observe", &observe);
  m.def("stop", &stop);
  m.def("add", &add);
  m.def("add_to_sums", &add_to_sums);
  m.def("start_counting", &start_counting);
  m.def("stop_counting", &stop_counting);
}
