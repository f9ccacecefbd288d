// The part of CUPTI that is used. It is declared here so that building needs no CUDA toolkit, and so that one build works with every
// PyTorch: for CUDA 12, for CUDA 13, for none. tests/native/cupti_layout.cpp compares it with the toolkit's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace torchprof::cupti {

using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr uint32_t kFlushForced = 1;
inline constexpr int kSystemThreadIds = 1;            // records have gettid() instead of pthread_self()
inline constexpr uint32_t kBuffersMayBeRefused = 27;  // the first version in which a request may be refused: CUDA 12.9

// CUpti_ActivityKind
inline constexpr uint32_t kMemcpy = 1;
inline constexpr uint32_t kMemset = 2;
inline constexpr uint32_t kKernel = 3;
inline constexpr uint32_t kDriver = 4;
inline constexpr uint32_t kRuntime = 5;
inline constexpr uint32_t kConcurrentKernel = 10;
inline constexpr uint32_t kMemcpyBetweenDevices = 22;

// CUPTI's records are longer than these structs and grow with every version. The fields that come first have kept their place since
// CUDA 11.2. `start` and `end` are 0 if they are not known.
struct KernelRecord {
  uint32_t kind;
  uint8_t unused_a[2];
  uint16_t registers;
  uint8_t unused_b[8];
  uint64_t start;
  uint64_t end;
  uint64_t unused_c;
  uint32_t device;
  uint32_t context;
  uint32_t stream;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t static_shared_memory;
  uint32_t dynamic_shared_memory;
  uint8_t unused_d[8];
  uint32_t correlation;
  int64_t unused_e;
  const char* name;
  uint8_t unused_f[32];
  uint64_t graph_node;
  uint32_t unused_g;
  uint32_t graph;
};

struct MemcpyRecord {
  uint32_t kind;
  uint8_t copy_kind;
  uint8_t source_kind;  // of memory
  uint8_t destination_kind;
  uint8_t unused_a;
  uint64_t bytes;
  uint64_t start;
  uint64_t end;
  uint32_t device;
  uint32_t context;
  uint32_t stream;
  uint32_t correlation;
  uint8_t unused_b[24];
  uint32_t graph;
};

struct MemcpyBetweenDevicesRecord {
  uint32_t kind;
  uint8_t copy_kind;
  uint8_t source_kind;
  uint8_t destination_kind;
  uint8_t unused_a;
  uint64_t bytes;
  uint64_t start;
  uint64_t end;
  uint32_t device;
  uint32_t context;
  uint32_t stream;
  uint32_t unused_b[4];
  uint32_t correlation;
  uint8_t unused_c[16];
  uint32_t graph;
};

struct MemsetRecord {
  uint32_t kind;
  uint32_t value;
  uint64_t bytes;
  uint64_t start;
  uint64_t end;
  uint32_t device;
  uint32_t context;
  uint32_t stream;
  uint32_t correlation;
  uint16_t flags;
  uint16_t memory_kind;
  uint8_t unused[20];
  uint32_t graph;
};

struct CallRecord {
  uint32_t kind;
  uint32_t call;  // see calls.h
  uint64_t start;
  uint64_t end;
  uint32_t process;
  uint32_t thread;
  uint32_t correlation;
  uint32_t result;
};

using BufferRequested = void (*)(uint8_t** buffer, size_t* size, size_t* max_records);
using BufferCompleted = void (*)(void* context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid);

// A pointer to each function, whose name in the library begins with "cupti".
struct Api {
  Result (*GetVersion)(uint32_t* version);
  Result (*GetResultString)(Result result, const char** text);
  Result (*ActivityEnable)(uint32_t kind);
  Result (*ActivityDisable)(uint32_t kind);
  Result (*ActivityRegisterCallbacks)(BufferRequested requested, BufferCompleted completed);
  Result (*ActivityGetNextRecord)(uint8_t* buffer, size_t valid, const uint8_t** record);
  Result (*ActivityGetNumDroppedRecords)(void* context, uint32_t stream, size_t* dropped);
  Result (*ActivityFlushAll)(uint32_t flag);
  // nullptr if this version does not have it
  Result (*GetThreadIdType)(int* type);
  Result (*ActivityEnableRuntimeApi)(uint32_t call, uint8_t enable);
  Result (*ActivityEnableDriverApi)(uint32_t call, uint8_t enable);
};

// The CUPTI that PyTorch loaded, never another copy (Triton has one); or the library that the environment variable TORCHPROF_CUPTI
// names. Throws DeviceRecorderError.
const Api& load();

// CUPTI's name of a result.
std::string text_of(const Api& api, Result result);

}  // namespace torchprof::cupti
