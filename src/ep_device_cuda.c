/* ep_device_cuda: windows are device memory that other processes map by CUDA's interprocess handles. */
#ifdef MOET_CUDA
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"
#include "ep_device.h"

static moet_status words_alloc(moet_device *device, size_t bytes, void **memory)
{
    const struct moet_cuda_api *cuda;
    void *words = NULL;
    (void)device;
    MOET_TRY(moet_cuda_api_get(&cuda));
    const CUresult result = cuda->cuMemAllocHost(&words, bytes);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "expert parallelism: pinned memory");
    memset(words, 0, bytes);
    *memory = words;
    return MOET_OK;
}

static void words_free(moet_device *device, void *memory)
{
    const struct moet_cuda_api *cuda;
    (void)device;
    if (memory && moet_cuda_api_get(&cuda) == MOET_OK) cuda->cuMemFreeHost(memory);
}

/* Where a rank's window is. An interprocess handle is of a whole allocation, of which the window may be a part. */
typedef struct window_place {
    char host[MOET_EP_HOST_SIZE];
    CUipcMemHandle handle;
    uint64_t offset;
} window_place;

static void window_unmap(moet_device *device, int32_t rank, int32_t ranks, size_t bytes, void **peers)
{
    const struct moet_cuda_api *cuda;
    (void)device, (void)bytes;
    if (moet_cuda_api_get(&cuda) != MOET_OK) return;
    for (int32_t i = 0; i < ranks; i++) {
        CUdeviceptr base = 0;
        size_t size = 0;
        if (i == rank || !peers[i]) continue;
        if (cuda->cuMemGetAddressRange(&base, &size, (CUdeviceptr)(uintptr_t)peers[i]) == CUDA_SUCCESS)
            cuda->cuIpcCloseMemHandle(base);
        peers[i] = NULL;
    }
}

static void window_free(moet_device *device, size_t bytes, void *own)
{
    (void)bytes;
    device->backend->free(device, own);
}

static moet_status window_open(moet_device *device, moet_ep_comm *control, size_t bytes, void **peers)
{
    const int32_t rank = control->rank, ranks = control->ranks;
    const struct moet_cuda_api *cuda;
    window_place own = {0};
    CUdeviceptr base = 0;
    size_t size = 0;
    memset(peers, 0, (size_t)ranks * sizeof *peers);
    MOET_TRY(moet_cuda_api_get(&cuda));
    window_place *places = calloc((size_t)ranks, sizeof *places);
    if (!places) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    moet_ep_host_name(own.host);
    moet_status status = device->backend->alloc(device, bytes, &peers[rank]);
    if (status == MOET_OK) status = device->backend->fill(device, peers[rank], 0, bytes);
    if (status == MOET_OK && ranks > 1) {
        const CUdeviceptr memory = (CUdeviceptr)(uintptr_t)peers[rank];
        CUresult result = cuda->cuMemGetAddressRange(&base, &size, memory);
        if (result == CUDA_SUCCESS) result = cuda->cuIpcGetMemHandle(&own.handle, base);
        own.offset = memory - base;
        if (result != CUDA_SUCCESS) own.host[0] = '\0'; /* as good as another host: refused on all ranks */
    }
    if (status == MOET_OK) status = moet_ep_comm_allgather(control, &own, sizeof own, places);
    if (status != MOET_OK) goto done;
    for (int32_t i = 0; i < ranks && status == MOET_OK && ranks > 1; i++) {
        CUdeviceptr mapped = 0;
        if (own.host[0] == '\0' || strcmp(places[i].host, own.host) != 0) {
            status = moet_fail(MOET_UNSUPPORTED,
                               "shared memory: rank %d's memory cannot be shared with rank %d: another host, or "
                               "CUDA's interprocess memory does not work here",
                               i, rank);
            break;
        }
        if (i == rank) continue;
        const CUresult result = cuda->cuIpcOpenMemHandle(&mapped, places[i].handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
        if (result == CUDA_SUCCESS) {
            peers[i] = (void *)(uintptr_t)(mapped + places[i].offset);
            continue;
        }
        moet_cuda_fail(result, "shared memory: mapping another rank's memory");
        status = moet_fail(MOET_UNSUPPORTED, "%.400s (rank %d's): are the GPUs peers?", moet_last_error(), i);
    }
    status = moet_ep_all_mapped(control, status);
done:
    free(places);
    if (status != MOET_OK) {
        window_unmap(device, rank, ranks, bytes, peers);
        window_free(device, bytes, peers[rank]);
        peers[rank] = NULL;
    }
    return status;
}

static moet_status stream_is_done(moet_device *device, void *stream, bool *is_done)
{
    const struct moet_cuda_api *cuda;
    (void)device;
    MOET_TRY(moet_cuda_api_get(&cuda));
    const CUresult result = cuda->cuStreamQuery(stream);
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY)
        return moet_cuda_fail(result, "waiting for the device");
    *is_done = result == CUDA_SUCCESS;
    return MOET_OK;
}

static moet_status stream_wait(moet_device *device, void *stream, void *event)
{
    const struct moet_cuda_api *cuda;
    (void)device;
    MOET_TRY(moet_cuda_api_get(&cuda));
    const CUresult result = cuda->cuStreamWaitEvent(stream, event, 0);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "one stream following another");
}

static moet_status stream_is_captured(moet_device *device, void *stream, bool *is_captured)
{
    const struct moet_cuda_api *cuda;
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    (void)device;
    MOET_TRY(moet_cuda_api_get(&cuda));
    *is_captured = false;
    if (!stream) return MOET_OK; /* the default stream never is, and must not be asked while another one is */
    const CUresult result = cuda->cuStreamIsCapturing(stream, &capture);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "asking whether a stream is captured");
    *is_captured = capture != CU_STREAM_CAPTURE_STATUS_NONE;
    return MOET_OK;
}

static moet_status copy_async(moet_device *device, void *to, const void *from, size_t bytes, void *stream)
{
    const struct moet_cuda_api *cuda;
    (void)device;
    MOET_TRY(moet_cuda_api_get(&cuda));
    const CUresult result =
        cuda->cuMemcpyDtoDAsync((CUdeviceptr)(uintptr_t)to, (CUdeviceptr)(uintptr_t)from, bytes, stream);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "copying on the device");
}

/* A copy begins when the one before it on the stream has ended. */
static moet_status flag_async(moet_device *device, uint32_t *to, const uint32_t *from, void *stream)
{
    return copy_async(device, to, from, sizeof *to, stream);
}

const moet_ep_device_table moet_ep_device_cuda = {.backend = "cuda",
                                                  .words_alloc = words_alloc,
                                                  .words_free = words_free,
                                                  .window_open = window_open,
                                                  .window_unmap = window_unmap,
                                                  .window_free = window_free,
                                                  .stream_is_done = stream_is_done,
                                                  .stream_wait = stream_wait,
                                                  .stream_is_captured = stream_is_captured,
                                                  .copy_async = copy_async,
                                                  .flag_async = flag_async};
#else
typedef int moet_ep_device_cuda_is_left_out; /* ISO C wants a declaration in every file */
#endif
