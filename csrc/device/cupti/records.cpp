#include "device/cupti/records.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "device/cupti/api.h"
#include "device/cupti/calls.h"

namespace torchprof::cupti {
namespace {

struct KnownCall {
  uint32_t id;
  RuntimeCallKind kind;
  std::string_view name;
};

#define TORCHPROF_KNOWN_CALL(kind, name, id) KnownCall{id, RuntimeCallKind::kind, #name},
constexpr std::array kRuntimeCalls{TORCHPROF_CUDA_RUNTIME_CALLS(TORCHPROF_KNOWN_CALL)};
constexpr std::array kDriverCalls{TORCHPROF_CUDA_DRIVER_CALLS(TORCHPROF_KNOWN_CALL)};
#undef TORCHPROF_KNOWN_CALL

template <size_t kCount>
const KnownCall* find(const std::array<KnownCall, kCount>& calls, uint32_t id) {
  const auto found = std::find_if(calls.begin(), calls.end(), [id](const KnownCall& call) { return call.id == id; });
  return found != calls.end() ? &*found : nullptr;
}

// cudaMemcpyAsync_ptsz_v7000 -> cudaMemcpyAsync
std::string_view plain(std::string_view name) {
  for (const std::string_view ending : {"_ptsz", "_ptds", "_v"}) {
    if (const size_t at = name.find(ending); at != std::string_view::npos) {
      name = name.substr(0, at);
    }
  }
  return name;
}

// The names that torch.profiler uses, so that kernels of both can be compared by name.
std::string_view memory_name(uint32_t kind) {
  constexpr std::array<std::string_view, 8> kNames{"Unknown", "Pageable", "Pinned",        "Device",
                                                   "Array",   "Managed",  "Device Static", "Managed Static"};
  return kNames[kind < kNames.size() ? kind : 0];
}

struct Route {
  std::string_view name;
  Direction direction;
};

Route route(uint8_t copy_kind) {
  constexpr std::array<Route, 11> kRoutes{{{"Unknown", Direction::kOther},
                                           {"HtoD", Direction::kHostToDevice},
                                           {"DtoH", Direction::kDeviceToHost},
                                           {"HtoA", Direction::kHostToDevice},
                                           {"AtoH", Direction::kDeviceToHost},
                                           {"AtoA", Direction::kOnDevice},
                                           {"AtoD", Direction::kOnDevice},
                                           {"DtoA", Direction::kOnDevice},
                                           {"DtoD", Direction::kOnDevice},
                                           {"HtoH", Direction::kOther},
                                           {"PtoP", Direction::kBetweenDevices}}};
  return kRoutes[copy_kind < kRoutes.size() ? copy_kind : 0];
}

template <typename Record>
Record read(const uint8_t* record) {
  Record copy;
  std::memcpy(&copy, record, sizeof(Record));
  return copy;
}

// A row with what all activities have in common; nullptr if it has no times or does not fit.
template <typename Record>
Kernel* open_row(const Record& record, Activity kind, DeviceLog& log) {
  if (record.start == 0 || record.end < record.start) {
    ++log.lost;
    return nullptr;
  }
  Kernel* const row = log.kernels.append();
  if (row != nullptr) {
    *row = {};
    row->start = static_cast<int64_t>(record.start);
    row->end = static_cast<int64_t>(record.end);
    row->runtime_call = static_cast<int32_t>(record.correlation);
    row->op = row->module_call = kNoRow;
    row->stream = record.stream;
    row->graph = record.graph;
    row->device_type = 1;  // c10::DeviceType::CUDA
    row->device_index = static_cast<int8_t>(record.device);
    row->kind = static_cast<uint8_t>(kind);
  }
  return row;
}

void add_kernel(const KernelRecord& record, DeviceLog& log) {
  if (Kernel* const row = open_row(record, Activity::kKernel, log)) {
    row->name = log.strings.id(record.name != nullptr ? record.name : "unnamed kernel");
    row->registers = record.registers;
    row->shared_memory = record.static_shared_memory + record.dynamic_shared_memory;
    for (int axis = 0; axis < 3; ++axis) {
      row->grid[axis] = record.grid[axis];
      row->block[axis] = static_cast<uint16_t>(record.block[axis]);
    }
  }
}

template <typename Record>
void add_copy(const Record& record, DeviceLog& log) {
  if (Kernel* const row = open_row(record, Activity::kCopy, log)) {
    const Route found = route(record.copy_kind);
    std::string name = "Memcpy ";
    name.append(found.name).append(" (").append(memory_name(record.source_kind)).append(" -> ");
    name.append(memory_name(record.destination_kind)).append(")");
    row->name = log.strings.id(std::string_view(name));
    row->direction = static_cast<uint8_t>(found.direction);
    row->bytes = static_cast<int64_t>(record.bytes);
  }
}

void add_memset(const MemsetRecord& record, DeviceLog& log) {
  if (Kernel* const row = open_row(record, Activity::kMemset, log)) {
    std::string name = "Memset (";
    name.append(memory_name(record.memory_kind)).append(")");
    row->name = log.strings.id(std::string_view(name));
    row->bytes = static_cast<int64_t>(record.bytes);
  }
}

void add_call(const CallRecord& record, const KnownCall* call, DeviceLog& log) {
  if (call == nullptr) {
    return;
  }
  if (RuntimeCall* const row = log.runtime_calls.append()) {
    *row = {};
    row->start = static_cast<int64_t>(record.start);
    row->end = static_cast<int64_t>(record.end);
    row->name = log.strings.id(plain(call->name));
    row->op = static_cast<int32_t>(record.thread);
    row->module_call = kNoRow;
    row->correlation = record.correlation;
    row->kind = static_cast<uint8_t>(call->kind);
  }
}

}  // namespace

void add_record(const uint8_t* record, DeviceLog& log) {
  switch (read<uint32_t>(record)) {
    case kKernel:
    case kConcurrentKernel:
      return add_kernel(read<KernelRecord>(record), log);
    case kMemcpy:
      return add_copy(read<MemcpyRecord>(record), log);
    case kMemcpyBetweenDevices:
      return add_copy(read<MemcpyBetweenDevicesRecord>(record), log);
    case kMemset:
      return add_memset(read<MemsetRecord>(record), log);
    case kRuntime: {
      const auto call = read<CallRecord>(record);
      return add_call(call, find(kRuntimeCalls, call.call), log);
    }
    case kDriver: {
      const auto call = read<CallRecord>(record);
      return add_call(call, find(kDriverCalls, call.call), log);
    }
    default:
      return;
  }
}

}  // namespace torchprof::cupti
