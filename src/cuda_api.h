/* cuda_api: the CUDA driver, bound at run time. <cuda.h> gives types only; no object of this build needs libcuda.
 *
 *   const struct moet_cuda_api *cuda;
 *   MOET_TRY(moet_cuda_api_get(&cuda));
 *   CUresult result = cuda->cuLaunchKernel(...);
 *   if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "mma_gemm: launch");
 *
 * Only files under MOET_CUDA include this. */
#ifndef MOET_CUDA_API_H
#define MOET_CUDA_API_H

#include <cuda.h>

#include "status.h"

/* Functions that every driver since CUDA 12.0 exports. cuda.h renames some by macro (cuMemAlloc -> cuMemAlloc_v2);
 * members and symbols follow it, so that calls read as in the manual. */
#define MOET_CUDA_FUNCTIONS(X)                                                                                         \
    X(cuInit)                                                                                                          \
    X(cuDriverGetVersion)                                                                                              \
    X(cuGetErrorName)                                                                                                  \
    X(cuGetErrorString)                                                                                                \
    X(cuDeviceGetCount)                                                                                                \
    X(cuDeviceGet)                                                                                                     \
    X(cuDeviceGetName)                                                                                                 \
    X(cuDeviceGetUuid_v2)                                                                                              \
    X(cuDeviceGetAttribute)                                                                                            \
    X(cuDeviceTotalMem)                                                                                                \
    X(cuDevicePrimaryCtxRetain)                                                                                        \
    X(cuDevicePrimaryCtxRelease)                                                                                       \
    X(cuCtxGetCurrent)                                                                                                 \
    X(cuCtxSetCurrent)                                                                                                 \
    X(cuCtxGetDevice)                                                                                                  \
    X(cuCtxSynchronize)                                                                                                \
    X(cuMemAlloc)                                                                                                      \
    X(cuMemFree)                                                                                                       \
    X(cuMemGetInfo)                                                                                                    \
    X(cuIpcGetMemHandle)                                                                                               \
    X(cuIpcOpenMemHandle)                                                                                              \
    X(cuIpcCloseMemHandle)                                                                                             \
    X(cuMemGetAddressRange)                                                                                            \
    X(cuMemAllocHost)                                                                                                  \
    X(cuMemFreeHost)                                                                                                   \
    X(cuMemcpyHtoD)                                                                                                    \
    X(cuMemcpyDtoH)                                                                                                    \
    X(cuMemcpyHtoDAsync)                                                                                               \
    X(cuMemcpyDtoHAsync)                                                                                               \
    X(cuMemcpyDtoDAsync)                                                                                               \
    X(cuMemsetD8)                                                                                                      \
    X(cuMemsetD8Async)                                                                                                 \
    X(cuMemsetD32Async)                                                                                                \
    X(cuStreamCreate)                                                                                                  \
    X(cuStreamDestroy)                                                                                                 \
    X(cuStreamSynchronize)                                                                                             \
    X(cuStreamQuery)                                                                                                   \
    X(cuStreamWaitEvent)                                                                                               \
    X(cuStreamBeginCapture)                                                                                            \
    X(cuStreamEndCapture)                                                                                              \
    X(cuStreamIsCapturing)                                                                                             \
    X(cuEventCreate)                                                                                                   \
    X(cuEventDestroy)                                                                                                  \
    X(cuEventRecord)                                                                                                   \
    X(cuEventSynchronize)                                                                                              \
    X(cuGraphInstantiateWithFlags)                                                                                     \
    X(cuGraphLaunch)                                                                                                   \
    X(cuGraphDestroy)                                                                                                  \
    X(cuGraphExecDestroy)                                                                                              \
    X(cuModuleLoadData)                                                                                                \
    X(cuModuleUnload)                                                                                                  \
    X(cuModuleGetFunction)                                                                                             \
    X(cuFuncGetAttribute)                                                                                              \
    X(cuFuncSetAttribute)                                                                                              \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor)                                                                     \
    X(cuLaunchKernel)                                                                                                  \
    X(cuLaunchKernelEx)                                                                                                \
    X(cuTensorMapEncodeTiled)

struct moet_cuda_api {
#define MOET_X(function) __typeof__(function) *function;
    MOET_CUDA_FUNCTIONS(MOET_X)
#undef MOET_X
    /* The symbol without a suffix: cuda.h of CUDA 13 renames it to one that drivers before 12.8 lack. */
    CUresult(CUDAAPI *event_elapsed_ms)(float *time_ms, CUevent begin, CUevent end);
    /* cudaProfiler.h, which some toolkits package apart */
    CUresult(CUDAAPI *profiler_start)(void);
    CUresult(CUDAAPI *profiler_stop)(void);
    CUresult(CUDAAPI *func_load)(CUfunction function); /* cuFuncLoad, since CUDA 12.4; NULL before */
};

/* Binds the driver and initialises it, once a process. NOT_FOUND: no driver or no device; MISMATCH: a driver that lacks
 * a function; DEVICE: the driver is there and broken. */
moet_status moet_cuda_api_get(const struct moet_cuda_api **api);

/* NO_DEVICE_MEMORY for out of memory, else DEVICE; "<what>: CUDA error 700 (CUDA_ERROR_ILLEGAL_ADDRESS): ...". */
moet_status moet_cuda_fail(CUresult result, const char *what);

#endif
