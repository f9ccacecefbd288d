// What csrc/cupti_api.h and csrc/cuda_calls.h say of CUPTI, compared with a toolkit's own headers: it compiles or it is wrong.
#include <cupti.h>

#include <cstddef>

#include "device/cupti/api.h"
#include "device/cupti/calls.h"

using namespace torchprof::cupti;

#define SAME(ours, our_field, theirs, their_field)                           \
  static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field)); \
  static_assert(sizeof(ours::our_field) == sizeof(theirs::their_field) ||    \
                sizeof(ours::our_field) == 3 * sizeof(theirs::their_field)); /* x, y, z */

#define SAME_TIMES(ours, theirs)                 \
  SAME(ours, kind, theirs, kind)                 \
  SAME(ours, start, theirs, start)               \
  SAME(ours, end, theirs, end)                   \
  SAME(ours, device, theirs, deviceId)           \
  SAME(ours, stream, theirs, streamId)           \
  SAME(ours, graph, theirs, graphId)             \
  SAME(ours, correlation, theirs, correlationId) \
  static_assert(sizeof(ours) <= sizeof(theirs));

#define SAME_KERNEL(theirs)                                              \
  SAME_TIMES(KernelRecord, theirs)                                       \
  SAME(KernelRecord, registers, theirs, registersPerThread)              \
  SAME(KernelRecord, grid, theirs, gridX)                                \
  SAME(KernelRecord, block, theirs, blockX)                              \
  SAME(KernelRecord, static_shared_memory, theirs, staticSharedMemory)   \
  SAME(KernelRecord, dynamic_shared_memory, theirs, dynamicSharedMemory) \
  SAME(KernelRecord, name, theirs, name)                                 \
  SAME(KernelRecord, graph_node, theirs, graphNodeId)

// CUDA 12.0, 12.x, 13
SAME_KERNEL(CUpti_ActivityKernel8)
SAME_KERNEL(CUpti_ActivityKernel9)
#if CUPTI_API_VERSION >= 130000
SAME_KERNEL(CUpti_ActivityKernel10)
#endif

#define SAME_COPY(ours, theirs)                 \
  SAME_TIMES(ours, theirs)                      \
  SAME(ours, copy_kind, theirs, copyKind)       \
  SAME(ours, source_kind, theirs, srcKind)      \
  SAME(ours, destination_kind, theirs, dstKind) \
  SAME(ours, bytes, theirs, bytes)

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

#define SAME_RUNTIME_CALL(request, name, id) static_assert(CUPTI_RUNTIME_TRACE_CBID_##name == id);
#define SAME_DRIVER_CALL(request, name, id) static_assert(CUPTI_DRIVER_TRACE_CBID_##name == id);
TORCHPROF_CUDA_RUNTIME_CALLS(SAME_RUNTIME_CALL)
TORCHPROF_CUDA_DRIVER_CALLS(SAME_DRIVER_CALL)

// The functions take what their declarations say.
template <typename Ours, typename Theirs>
constexpr bool alike() {
  return sizeof(Ours) == sizeof(Theirs);
}
template <typename Ours, typename... OurArguments, typename Theirs, typename... TheirArguments>
constexpr bool same(Ours (*)(OurArguments...), Theirs (*)(TheirArguments...)) {
  return alike<Ours, Theirs>() && sizeof...(OurArguments) == sizeof...(TheirArguments) &&
         (alike<OurArguments, TheirArguments>() && ...);
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
