#include "collate/intervals.h"

#include <algorithm>
#include <cstdlib>

#include "collate/attribution.h"

namespace torchprof {
namespace {

// Two clocks that measure the same time drift by less than one part in this many. A larger difference is an error of the readings.
constexpr int64_t kDriftsLess = 1000;

bool is_interval(const Kernel& kernel) { return kernel.kind == static_cast<uint8_t>(Activity::kInterval); }

// Translates the time of a device to that of the trace, by the readings of its clock at the beginning and at the end. If both were
// read, the drift between them is spread over the time in between.
class Axis {
 public:
  Axis(const DeviceClock& device, const TickConverter& clock) {
    const auto read = [](const DeviceClock::Reading& reading) { return reading.width != 0; };
    const auto half = [&](const DeviceClock::Reading& reading) {
      return static_cast<int64_t>(static_cast<double>(reading.width) * clock.ns_per_tick() / 2) + 1;
    };
    known_ = read(device.begin) || read(device.end);
    if (!known_) {
      return;
    }
    error = std::max(read(device.begin) ? half(device.begin) : 0, read(device.end) ? half(device.end) : 0);
    if (!read(device.begin)) {
      origin_ = clock.ns(device.end.ticks) - device.elapsed;
      return;
    }
    origin_ = clock.ns(device.begin.ticks);
    if (!read(device.end) || device.elapsed <= 0) {
      return;
    }
    const int64_t off = clock.ns(device.end.ticks) - origin_ - device.elapsed;
    if (std::abs(off) <= half(device.begin) + half(device.end)) {
      return;  // the difference is within the accuracy of the readings
    }
    if (std::abs(off) <= device.elapsed / kDriftsLess) {
      drift_ = static_cast<double>(off) / static_cast<double>(device.elapsed);
    } else {
      error = std::abs(off);
    }
  }

  bool known() const { return known_; }
  int64_t ns(int64_t time) const { return origin_ + time + static_cast<int64_t>(static_cast<double>(time) * drift_); }

  int64_t error = 0;

 private:
  bool known_ = false;
  int64_t origin_ = 0;
  double drift_ = 0;
};

}  // namespace

int64_t place_intervals(DeviceReport& report, const std::vector<FirstRows>& threads, const TickConverter& clock) {
  int64_t error = 0;
  for (const DeviceClock& device : report.clocks) {
    const Axis axis(device, clock);
    error = std::max(error, axis.error);
    for (Kernel& kernel : report.kernels) {
      if (is_interval(kernel) && kernel.device_index == device.device_index && axis.known()) {
        kernel.start = axis.ns(kernel.start);
        kernel.end = axis.ns(kernel.end);
        kernel.op += kernel.op != kNoRow ? threads[kernel.runtime_call].op : 0;
        kernel.module_call += kernel.module_call != kNoRow ? threads[kernel.runtime_call].module_call : 0;
        kernel.runtime_call = kNoRow;
      }
    }
  }
  report.lost +=
      std::erase_if(report.kernels, [](const Kernel& kernel) { return is_interval(kernel) && kernel.runtime_call != kNoRow; });
  return error;
}

int64_t attribute_interval(const Tables& tables, Kernel& interval) {
  if (interval.op != kNoRow) {
    const Op& op = tables.ops[interval.op];
    interval.name = op.signature;
    interval.module_call = op.module_call;
    interval.phase = static_cast<uint8_t>(phase(op));
    return op.start;
  }
  const ModuleCall& call = tables.module_calls[interval.module_call];
  interval.name = tables.modules[call.module].type;
  interval.phase = static_cast<uint8_t>(phase(call));
  return call.start;
}

}  // namespace torchprof
