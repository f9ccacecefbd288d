// The calls of CUDA's runtime and driver that are watched: those that ask for work or memory, or wait. CALL(request, name, id),
// where the id is CUPTI's and the name ends as CUPTI's does: which interface (ptsz: one default stream per thread), which version.
#pragma once

// clang-format off
#define TORCHPROF_CUDA_RUNTIME_CALLS(CALL) \
  CALL(kLaunch, cudaLaunchKernel_v7000, 211) \
  CALL(kLaunch, cudaLaunchKernel_ptsz_v7000, 214) \
  CALL(kLaunch, cudaLaunchKernelExC_v11060, 430) \
  CALL(kLaunch, cudaLaunchKernelExC_ptsz_v11060, 431) \
  CALL(kLaunch, cudaLaunchCooperativeKernel_v9000, 269) \
  CALL(kLaunch, cudaLaunchCooperativeKernel_ptsz_v9000, 270) \
  CALL(kLaunch, cudaLaunchCooperativeKernelMultiDevice_v9000, 272) \
  CALL(kLaunch, __cudaLaunchKernel_v13000, 505) \
  CALL(kLaunch, __cudaLaunchKernel_ptsz_v13000, 506) \
  CALL(kGraph, cudaGraphLaunch_v10000, 311) \
  CALL(kGraph, cudaGraphLaunch_ptsz_v10000, 312) \
  CALL(kCopy, cudaMemcpy_v3020, 31) \
  CALL(kCopy, cudaMemcpy_ptds_v7000, 215) \
  CALL(kCopy, cudaMemcpyAsync_v3020, 41) \
  CALL(kCopy, cudaMemcpyAsync_ptsz_v7000, 225) \
  CALL(kCopy, cudaMemcpy2D_v3020, 32) \
  CALL(kCopy, cudaMemcpy2DAsync_v3020, 44) \
  CALL(kCopy, cudaMemcpy2DAsync_ptsz_v7000, 228) \
  CALL(kCopy, cudaMemcpy3D_v3020, 144) \
  CALL(kCopy, cudaMemcpy3DAsync_v3020, 145) \
  CALL(kCopy, cudaMemcpy3DAsync_ptsz_v7000, 246) \
  CALL(kCopy, cudaMemcpyPeer_v4000, 160) \
  CALL(kCopy, cudaMemcpyPeerAsync_v4000, 161) \
  CALL(kCopy, cudaMemcpy3DPeerAsync_v4000, 163) \
  CALL(kCopy, cudaMemcpyToSymbol_v3020, 39) \
  CALL(kCopy, cudaMemcpyToSymbolAsync_v3020, 47) \
  CALL(kCopy, cudaMemcpyFromSymbol_v3020, 40) \
  CALL(kCopy, cudaMemcpyFromSymbolAsync_v3020, 48) \
  CALL(kCopy, cudaMemcpyBatchAsync_v12080, 482) \
  CALL(kCopy, cudaMemcpyBatchAsync_v13000, 509) \
  CALL(kCopy, cudaMemcpy3DBatchAsync_v12080, 484) \
  CALL(kCopy, cudaMemcpy3DBatchAsync_v13000, 511) \
  CALL(kSet, cudaMemset_v3020, 49) \
  CALL(kSet, cudaMemset_ptds_v7000, 233) \
  CALL(kSet, cudaMemsetAsync_v3020, 51) \
  CALL(kSet, cudaMemsetAsync_ptsz_v7000, 235) \
  CALL(kSet, cudaMemset2D_v3020, 50) \
  CALL(kSet, cudaMemset2DAsync_v3020, 52) \
  CALL(kSet, cudaMemset2DAsync_ptsz_v7000, 236) \
  CALL(kSet, cudaMemset3D_v3020, 142) \
  CALL(kSet, cudaMemset3DAsync_v3020, 143) \
  CALL(kWait, cudaStreamSynchronize_v3020, 131) \
  CALL(kWait, cudaStreamSynchronize_ptsz_v7000, 239) \
  CALL(kWait, cudaDeviceSynchronize_v3020, 165) \
  CALL(kWait, cudaEventSynchronize_v3020, 137) \
  CALL(kMemory, cudaMalloc_v3020, 20) \
  CALL(kMemory, cudaFree_v3020, 22) \
  CALL(kMemory, cudaHostAlloc_v3020, 27) \
  CALL(kMemory, cudaMallocHost_v3020, 25) \
  CALL(kMemory, cudaFreeHost_v3020, 26) \
  CALL(kMemory, cudaHostRegister_v4000, 152) \
  CALL(kMemory, cudaMallocManaged_v6000, 206)

#define TORCHPROF_CUDA_DRIVER_CALLS(CALL) \
  CALL(kLaunch, cuLaunchKernel, 307) \
  CALL(kLaunch, cuLaunchKernel_ptsz, 442) \
  CALL(kLaunch, cuLaunchKernelEx, 652) \
  CALL(kLaunch, cuLaunchKernelEx_ptsz, 653) \
  CALL(kLaunch, cuLaunchCooperativeKernel, 477) \
  CALL(kLaunch, cuLaunchCooperativeKernel_ptsz, 478) \
  CALL(kLaunch, cuLaunchCooperativeKernelMultiDevice, 480) \
  CALL(kGraph, cuGraphLaunch, 514) \
  CALL(kGraph, cuGraphLaunch_ptsz, 515) \
  CALL(kCopy, cuMemcpyHtoD_v2, 276) \
  CALL(kCopy, cuMemcpyHtoDAsync_v2, 277) \
  CALL(kCopy, cuMemcpyHtoDAsync_v2_ptsz, 421) \
  CALL(kCopy, cuMemcpyDtoH_v2, 278) \
  CALL(kCopy, cuMemcpyDtoHAsync_v2, 279) \
  CALL(kCopy, cuMemcpyDtoHAsync_v2_ptsz, 422) \
  CALL(kCopy, cuMemcpyDtoD_v2, 280) \
  CALL(kCopy, cuMemcpyDtoDAsync_v2, 281) \
  CALL(kCopy, cuMemcpyDtoDAsync_v2_ptsz, 423) \
  CALL(kCopy, cuMemcpy, 305) \
  CALL(kCopy, cuMemcpyAsync, 306) \
  CALL(kCopy, cuMemcpyAsync_ptsz, 418) \
  CALL(kCopy, cuMemcpyPeerAsync, 319) \
  CALL(kCopy, cuMemcpyPeerAsync_ptsz, 426) \
  CALL(kCopy, cuMemcpyBatchAsync, 776) \
  CALL(kCopy, cuMemcpyBatchAsync_v2, 796) \
  CALL(kSet, cuMemsetD8Async, 216) \
  CALL(kSet, cuMemsetD8Async_ptsz, 428) \
  CALL(kSet, cuMemsetD16Async, 218) \
  CALL(kSet, cuMemsetD16Async_ptsz, 429) \
  CALL(kSet, cuMemsetD32Async, 220) \
  CALL(kSet, cuMemsetD32Async_ptsz, 430) \
  CALL(kSet, cuMemsetD8_v2, 249) \
  CALL(kSet, cuMemsetD32_v2, 251) \
  CALL(kWait, cuStreamSynchronize, 126) \
  CALL(kWait, cuStreamSynchronize_ptsz, 440) \
  CALL(kWait, cuCtxSynchronize, 17) \
  CALL(kWait, cuCtxSynchronize_v2, 800) \
  CALL(kWait, cuEventSynchronize, 121) \
  CALL(kMemory, cuMemAlloc_v2, 243) \
  CALL(kMemory, cuMemFree_v2, 245) \
  CALL(kMemory, cuMemCreate, 549) \
  CALL(kMemory, cuMemMap, 551) \
  CALL(kMemory, cuMemUnmap, 552) \
  CALL(kMemory, cuMemRelease, 550)
// clang-format on
