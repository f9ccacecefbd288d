// Compares what csrc/device/cupti/api.h and calls.h declare of CUPTI with the headers of a toolkit: it compiles only if they agree.
#include <cupti.h>

#include <cstddef>

#include "device/cupti/api.h"
#include "device/cupti/calls.h"

using namespace torchprof::cupti;

#define SAME(declared, field, original, original_field)                           \
  static_assert(offsetof(declared, field) == offsetof(original, original_field)); \
  static_assert(sizeof(declared::field) == sizeof(original::original_field) ||    \
                sizeof(declared::field) == 3 * sizeof(original::original_field)); /* x, y, z */

#define SAME_TIMES(declared, original)                 \
  SAME(declared, kind, original, kind)                 \
  SAME(declared, start, original, start)               \
  SAME(declared, end, original, end)                   \
  SAME(declared, device, original, deviceId)           \
  SAME(declared, stream, original, streamId)           \
  SAME(declared, graph, original, graphId)             \
  SAME(declared, correlation, original, correlationId) \
  static_assert(sizeof(declared) <= sizeof(original));

#define SAME_KERNEL(original)                                              \
  SAME_TIMES(KernelRecord, original)                                       \
  SAME(KernelRecord, registers, original, registersPerThread)              \
  SAME(KernelRecord, grid, original, gridX)                                \
  SAME(KernelRecord, block, original, blockX)                              \
  SAME(KernelRecord, static_shared_memory, original, staticSharedMemory)   \
  SAME(KernelRecord, dynamic_shared_memory, original, dynamicSharedMemory) \
  SAME(KernelRecord, name, original, name)                                 \
  SAME(KernelRecord, graph_node, original, graphNodeId)

// CUDA 12.0, 12.x, 13
SAME_KERNEL(CUpti_ActivityKernel8)
SAME_KERNEL(CUpti_ActivityKernel9)
#if CUPTI_API_VERSION >= 130000
SAME_KERNEL(CUpti_ActivityKernel10)
#endif

#define SAME_COPY(declared, original)                 \
  SAME_TIMES(declared, original)                      \
  SAME(declared, copy_kind, original, copyKind)       \
  SAME(declared, source_kind, original, srcKind)      \
  SAME(declared, destination_kind, original, dstKind) \
  SAME(declared, bytes, original, bytes)

SAME_COPY(MemcpyRecord, CUpti_ActivityMemcpy5)
#if CUPTI_API_VERSION >= 130000
SAME_COPY(MemcpyRecord, CUpti_ActivityMemcpy6)
#endif
SAME_COPY(MemcpyBetweenDevicesRecord, CUpti_ActivityMemcpyPtoP4)

SAME_TIMES(MemsetRecord, CUpti_ActivityMemset4)
SAME(MemsetRecord, bytes, CUpti_ActivityMemset4, bytes)
SAME(MemsetRecord, memory_kind, CUpti_ActivityMemset4, memoryKind)

SAME(CallRecord, kind, CUpti_ActivityAPI, kind)
SAME(CallRecord, call, CUpti_ActivityAPI, cbid)
SAME(CallRecord, start, CUpti_ActivityAPI, start)
SAME(CallRecord, end, CUpti_ActivityAPI, end)
SAME(CallRecord, thread, CUpti_ActivityAPI, threadId)
SAME(CallRecord, correlation, CUpti_ActivityAPI, correlationId)

static_assert(kSuccess == CUPTI_SUCCESS && kFlushForced == CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
static_assert(kSystemThreadIds == CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM);
static_assert(kMemcpy == CUPTI_ACTIVITY_KIND_MEMCPY && kMemset == CUPTI_ACTIVITY_KIND_MEMSET &&
              kKernel == CUPTI_ACTIVITY_KIND_KERNEL);
static_assert(kDriver == CUPTI_ACTIVITY_KIND_DRIVER && kRuntime == CUPTI_ACTIVITY_KIND_RUNTIME);
static_assert(kConcurrentKernel == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL &&
              kMemcpyBetweenDevices == CUPTI_ACTIVITY_KIND_MEMCPY2);
static_assert(CUPTI_ACTIVITY_MEMCPY_KIND_HTOD == 1 && CUPTI_ACTIVITY_MEMCPY_KIND_DTOH == 2 &&
              CUPTI_ACTIVITY_MEMCPY_KIND_PTOP == 10);
static_assert(CUPTI_ACTIVITY_MEMCPY_KIND_ATOA == 5 && CUPTI_ACTIVITY_MEMCPY_KIND_DTOD == 8 &&
              CUPTI_ACTIVITY_MEMCPY_KIND_HTOH == 9);
static_assert(CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE == 1 && CUPTI_ACTIVITY_MEMORY_KIND_MANAGED_STATIC == 7);

#define SAME_RUNTIME_CALL(kind, name, id) static_assert(CUPTI_RUNTIME_TRACE_CBID_##name == id);
#define SAME_DRIVER_CALL(kind, name, id) static_assert(CUPTI_DRIVER_TRACE_CBID_##name == id);
TORCHPROF_CUDA_RUNTIME_CALLS(SAME_RUNTIME_CALL)
TORCHPROF_CUDA_DRIVER_CALLS(SAME_DRIVER_CALL)

// The functions have arguments and results of the declared sizes.
template <typename Declared, typename Original>
constexpr bool alike() {
  return sizeof(Declared) == sizeof(Original);
}
template <typename Declared, typename... DeclaredArguments, typename Original, typename... OriginalArguments>
constexpr bool same(Declared (*)(DeclaredArguments...), Original (*)(OriginalArguments...)) {
  return alike<Declared, Original>() && sizeof...(DeclaredArguments) == sizeof...(OriginalArguments) &&
         (alike<DeclaredArguments, OriginalArguments>() && ...);
}
#define SAME_FUNCTION(name) static_assert(same(decltype(Api::name){}, decltype(&cupti##name){}));
SAME_FUNCTION(GetVersion)
SAME_FUNCTION(GetResultString)
SAME_FUNCTION(ActivityEnable)
SAME_FUNCTION(ActivityDisable)
SAME_FUNCTION(ActivityRegisterCallbacks)
SAME_FUNCTION(ActivityGetNextRecord)
SAME_FUNCTION(ActivityGetNumDroppedRecords)
SAME_FUNCTION(ActivityFlushAll)
SAME_FUNCTION(GetThreadIdType)
SAME_FUNCTION(ActivityEnableRuntimeApi)
SAME_FUNCTION(ActivityEnableDriverApi)

int main() {}
