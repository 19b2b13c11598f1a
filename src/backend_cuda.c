/* backend_cuda: one NVIDIA GPU through the driver API. Memory calls are synchronous with all work of the context;
 * streams are non-blocking, so that nothing on the legacy default stream disturbs a capture. */
#ifdef MOET_CUDA
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"
#include "device.h"

/* ---- NVML, declared by hand: the toolkit's header is not always there ---- */

typedef struct nvml_api {
    int (*init)(void);
    int (*driver_version)(char *text, unsigned size);
    int (*by_uuid)(const char *uuid, void **device);
    int (*mig_parent)(void *mig, void **device);
    int (*name)(void *device, char *text, unsigned size);
    int (*power_limit_mw)(void *device, unsigned *power_mw);
    int (*power_mw)(void *device, unsigned *power_mw);
    int (*clock_mhz)(void *device, int clock, unsigned *mhz);
    int (*throttle_reasons)(void *device, unsigned long long *reasons);
} nvml_api;

enum { NVML_SUCCESS = 0, NVML_CLOCK_SM = 1 };

/* nvmlClocksThrottleReason* bits that void a sample. The software power cap (0x4) is how a GPU runs at its limit. */
enum {
    NVML_SW_THERMAL_SLOWDOWN = 0x20,
    NVML_HW_SLOWDOWN = 0x8,
    NVML_HW_THERMAL_SLOWDOWN = 0x40,
    NVML_HW_POWER_BRAKE = 0x80,
    NVML_VOIDING = NVML_SW_THERMAL_SLOWDOWN | NVML_HW_SLOWDOWN | NVML_HW_THERMAL_SLOWDOWN | NVML_HW_POWER_BRAKE,
};

static const moet_symbol nvml_symbols[] = {
    {"nvmlInit_v2", offsetof(nvml_api, init), false},
    {"nvmlSystemGetDriverVersion", offsetof(nvml_api, driver_version), false},
    {"nvmlDeviceGetHandleByUUID", offsetof(nvml_api, by_uuid), false},
    {"nvmlDeviceGetDeviceHandleFromMigDeviceHandle", offsetof(nvml_api, mig_parent), true},
    {"nvmlDeviceGetName", offsetof(nvml_api, name), false},
    {"nvmlDeviceGetEnforcedPowerLimit", offsetof(nvml_api, power_limit_mw), false},
    {"nvmlDeviceGetPowerUsage", offsetof(nvml_api, power_mw), false},
    {"nvmlDeviceGetClockInfo", offsetof(nvml_api, clock_mhz), false},
    {"nvmlDeviceGetCurrentClocksThrottleReasons", offsetof(nvml_api, throttle_reasons), true},
};

/* Written once, under nvml_once. */
static pthread_once_t nvml_once = PTHREAD_ONCE_INIT;
static nvml_api nvml_bound;
static bool nvml_usable;

static void nvml_bind(void)
{
    static const char *const sonames[] = {"libnvidia-ml.so.1", NULL};
    nvml_usable = moet_library_bind(sonames, nvml_symbols, MOET_COUNT_OF(nvml_symbols), &nvml_bound, NULL) == MOET_OK &&
                  nvml_bound.init() == NVML_SUCCESS;
}

/* NULL where NVML is missing: facts are then unknown, nothing fails. */
static const nvml_api *nvml_get(void)
{
    pthread_once(&nvml_once, nvml_bind);
    return nvml_usable ? &nvml_bound : NULL;
}

/* ---- device ---- */

typedef struct cuda_device {
    const struct moet_cuda_api *cuda;
    CUdevice device;
    CUcontext context;
    bool retained;     /* the primary context is ours to release */
    void *nvml_device; /* NULL unknown; of a MIG instance, its GPU */
} cuda_device;

static cuda_device *impl_of(const moet_device *device) { return device->impl; }

static moet_status count_devices(int32_t *count)
{
    const struct moet_cuda_api *cuda;
    moet_status status = moet_cuda_api_get(&cuda);
    if (status == MOET_NOT_FOUND) { /* no driver, or a driver without a device: a machine without CUDA */
        *count = 0;
        return MOET_OK;
    }
    if (status != MOET_OK) return status;
    int found = 0;
    CUresult result = cuda->cuDeviceGetCount(&found);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "counting CUDA devices");
    *count = found;
    return MOET_OK;
}

/* The context to use: the calling thread's if it is of the wanted device (ordinal -1: of any), else the primary one. */
static moet_status choose_context(cuda_device *impl, int32_t ordinal)
{
    const struct moet_cuda_api *cuda = impl->cuda;
    CUcontext current = NULL;
    CUdevice current_device = 0, wanted = 0;
    if (cuda->cuCtxGetCurrent(&current) != CUDA_SUCCESS || !current ||
        cuda->cuCtxGetDevice(&current_device) != CUDA_SUCCESS)
        current = NULL;
    CUresult result = cuda->cuDeviceGet(&wanted, ordinal < 0 ? 0 : ordinal);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "finding the CUDA device");
    if (current && (ordinal < 0 || current_device == wanted)) {
        impl->device = current_device;
        impl->context = current;
        return MOET_OK;
    }
    impl->device = wanted;
    result = cuda->cuDevicePrimaryCtxRetain(&impl->context, wanted);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "opening the CUDA device");
    impl->retained = true;
    result = cuda->cuCtxSetCurrent(impl->context);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "making the CUDA device current");
}

static void format_uuid(const char *prefix, const CUuuid *uuid, char text[48])
{
    size_t used = (size_t)snprintf(text, 48, "%s", prefix);
    for (int i = 0; i < 16; i++) {
        const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
        used += (size_t)snprintf(text + used, 48 - used, "%s%02x", dash, (unsigned char)uuid->bytes[i]);
    }
}

/* "NVIDIA H100 80GB HBM3 MIG 1g.10gb" -> the name before " MIG " and the profile after it. */
static void split_mig_name(const char *full, moet_device_info *info)
{
    const char *mig = strstr(full, " MIG ");
    snprintf(info->name, sizeof info->name, "%.*s", mig ? (int)(mig - full) : (int)strlen(full), full);
    if (mig) snprintf(info->partition, sizeof info->partition, "%.60s", mig + 5);
}

/* What the driver does not tell: version text, power limit, MIG profile. */
static void fill_nvml_info(cuda_device *impl, moet_device_info *info)
{
    const nvml_api *nvml = nvml_get();
    CUuuid uuid;
    char text[128];
    unsigned power_mw = 0;
    if (!nvml) return;
    if (nvml->driver_version(text, sizeof info->driver) == NVML_SUCCESS)
        snprintf(info->driver, sizeof info->driver, "%.31s", text);
    if (impl->cuda->cuDeviceGetUuid_v2(&uuid, impl->device) != CUDA_SUCCESS) return;
    format_uuid("GPU-", &uuid, text);
    if (nvml->by_uuid(text, &impl->nvml_device) != NVML_SUCCESS) {
        void *mig = NULL;
        impl->nvml_device = NULL;
        format_uuid("MIG-", &uuid, text); /* of a MIG instance, cuDeviceGetUuid_v2 gives the instance's */
        if (nvml->by_uuid(text, &mig) != NVML_SUCCESS) return;
        if (!info->partition[0] && nvml->name(mig, text, sizeof text) == NVML_SUCCESS) split_mig_name(text, info);
        if (!nvml->mig_parent || nvml->mig_parent(mig, &impl->nvml_device) != NVML_SUCCESS) {
            impl->nvml_device = NULL;
            return;
        }
    }
    if (nvml->power_limit_mw(impl->nvml_device, &power_mw) == NVML_SUCCESS) info->power_limit_mw = power_mw;
}

static moet_status fill_info(cuda_device *impl, moet_device_info *info)
{
    const struct moet_cuda_api *cuda = impl->cuda;
    int smem_block = 0, smem_sm = 0, l2 = 0, regs = 0, version = 0;
    const struct {
        CUdevice_attribute attribute;
        int *value;
    } attributes[] = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &info->cc_major},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &info->cc_minor},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &info->sm_count},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &smem_block},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, &smem_sm},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, &regs},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, &l2},
    };
    char name[sizeof info->name] = "";
    size_t memory_bytes = 0;
    CUresult result = CUDA_SUCCESS;
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUDA_SUCCESS; i++)
        result = cuda->cuDeviceGetAttribute(attributes[i].value, attributes[i].attribute, impl->device);
    if (result == CUDA_SUCCESS) result = cuda->cuDeviceGetName(name, sizeof name, impl->device);
    if (result == CUDA_SUCCESS) result = cuda->cuDeviceTotalMem(&memory_bytes, impl->device);
    if (result == CUDA_SUCCESS) result = cuda->cuDriverGetVersion(&version);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "reading the CUDA device's attributes");
    snprintf(info->backend, sizeof info->backend, "cuda");
    split_mig_name(name, info);
    info->memory_bytes = (int64_t)memory_bytes;
    info->smem_per_block_optin_bytes = smem_block;
    info->smem_per_sm_bytes = smem_sm;
    info->regs_per_sm = regs;
    info->l2_bytes = l2;
    info->driver_cuda_version = version;
    fill_nvml_info(impl, info);
    return MOET_OK;
}

static void release_impl(cuda_device *impl)
{
    CUcontext current = NULL;
    if (impl->retained) {
        /* A thread must not be left with a context that the release may destroy. */
        if (impl->cuda->cuCtxGetCurrent(&current) == CUDA_SUCCESS && current == impl->context)
            impl->cuda->cuCtxSetCurrent(NULL);
        impl->cuda->cuDevicePrimaryCtxRelease(impl->device);
    }
    free(impl);
}

static moet_status open_device(int32_t ordinal, moet_device *device)
{
    const struct moet_cuda_api *cuda;
    moet_device_info info = {0};
    MOET_TRY(moet_cuda_api_get(&cuda));
    cuda_device *impl = calloc(1, sizeof *impl);
    if (!impl) return moet_fail(MOET_NO_MEMORY, "opening a CUDA device: out of memory");
    impl->cuda = cuda;
    moet_status status = choose_context(impl, ordinal);
    if (status == MOET_OK) status = fill_info(impl, &info);
    if (status != MOET_OK) {
        release_impl(impl);
        return status;
    }
    device->ordinal = impl->device;
    device->info = info;
    device->impl = impl;
    return MOET_OK;
}

static void close_device(moet_device *device)
{
    if (device->impl) release_impl(device->impl);
    device->impl = NULL;
}

static moet_status activate(moet_device *device)
{
    CUresult result = impl_of(device)->cuda->cuCtxSetCurrent(impl_of(device)->context);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "making the CUDA device current");
}

/* ---- memory ---- */

static moet_status free_bytes(moet_device *device, size_t *size_bytes)
{
    size_t free_now = 0, total = 0;
    CUresult result = impl_of(device)->cuda->cuMemGetInfo(&free_now, &total);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "asking for free device memory");
    *size_bytes = free_now;
    return MOET_OK;
}

static moet_status alloc_memory(moet_device *device, size_t size_bytes, void **memory)
{
    CUdeviceptr pointer = 0;
    CUresult result = impl_of(device)->cuda->cuMemAlloc(&pointer, size_bytes ? size_bytes : 1);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        size_t free_now = 0;
        if (free_bytes(device, &free_now) != MOET_OK) free_now = 0;
        return moet_fail(MOET_NO_DEVICE_MEMORY, "device memory: %zu bytes needed, %zu free on %s", size_bytes, free_now,
                         device->info.name);
    }
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "allocating device memory");
    *memory = (void *)(uintptr_t)pointer;
    return MOET_OK;
}

static void free_memory(moet_device *device, void *memory)
{
    if (memory) impl_of(device)->cuda->cuMemFree((CUdeviceptr)(uintptr_t)memory);
}

/* Before: work on non-blocking streams may still use the memory. After: copies from pageable memory and fills return
 * before the device has finished. */
static moet_status copied(moet_device *device, CUresult result, const char *what)
{
    if (result == CUDA_SUCCESS) result = impl_of(device)->cuda->cuCtxSynchronize();
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, what);
}

static moet_status upload(moet_device *device, void *to_device, const void *from_host, size_t size_bytes)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    if (!size_bytes) return MOET_OK;
    CUresult result = cuda->cuCtxSynchronize();
    if (result == CUDA_SUCCESS) result = cuda->cuMemcpyHtoD((CUdeviceptr)(uintptr_t)to_device, from_host, size_bytes);
    return copied(device, result, "copying to the device");
}

static moet_status download(moet_device *device, void *to_host, const void *from_device, size_t size_bytes)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    if (!size_bytes) return MOET_OK;
    CUresult result = cuda->cuCtxSynchronize();
    if (result == CUDA_SUCCESS) result = cuda->cuMemcpyDtoH(to_host, (CUdeviceptr)(uintptr_t)from_device, size_bytes);
    return copied(device, result, "copying from the device");
}

static moet_status fill(moet_device *device, void *memory, uint8_t byte, size_t size_bytes)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    if (!size_bytes) return MOET_OK;
    CUresult result = cuda->cuCtxSynchronize();
    if (result == CUDA_SUCCESS) result = cuda->cuMemsetD8((CUdeviceptr)(uintptr_t)memory, byte, size_bytes);
    return copied(device, result, "filling device memory");
}

/* ---- streams, events, graphs ---- */

static moet_status stream_create(moet_device *device, void **stream)
{
    CUstream created = NULL;
    CUresult result = impl_of(device)->cuda->cuStreamCreate(&created, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "creating a stream");
    *stream = created;
    return MOET_OK;
}

static void stream_destroy(moet_device *device, void *stream)
{
    if (stream) impl_of(device)->cuda->cuStreamDestroy(stream);
}

static moet_status stream_synchronize(moet_device *device, void *stream)
{
    CUresult result = impl_of(device)->cuda->cuStreamSynchronize(stream);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "waiting for the device");
}

static moet_status event_create(moet_device *device, void **event)
{
    CUevent created = NULL;
    CUresult result = impl_of(device)->cuda->cuEventCreate(&created, CU_EVENT_DEFAULT);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "creating an event");
    *event = created;
    return MOET_OK;
}

static void event_destroy(moet_device *device, void *event)
{
    if (event) impl_of(device)->cuda->cuEventDestroy(event);
}

static moet_status event_record(moet_device *device, void *event, void *stream)
{
    CUresult result = impl_of(device)->cuda->cuEventRecord(event, stream);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "recording an event");
}

static moet_status event_elapsed_us(moet_device *device, void *begin, void *end, double *time_us)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    float time_ms = 0;
    CUresult result = cuda->cuEventSynchronize(end);
    if (result == CUDA_SUCCESS) result = cuda->event_elapsed_ms(&time_ms, begin, end);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "timing between two events");
    *time_us = (double)time_ms * 1000;
    return MOET_OK;
}

/* Thread-local: what a launch must not do (allocate, synchronise) fails here, what other threads do is left alone. */
static moet_status capture_begin(moet_device *device, void *stream)
{
    CUresult result = impl_of(device)->cuda->cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "beginning a graph capture");
}

static moet_status capture_end(moet_device *device, void *stream, void **graph)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    CUgraph captured = NULL;
    CUgraphExec executable = NULL;
    *graph = NULL;
    CUresult result = cuda->cuStreamEndCapture(stream, &captured);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "ending a graph capture");
    result = cuda->cuGraphInstantiateWithFlags(&executable, captured, 0);
    cuda->cuGraphDestroy(captured);
    if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "instantiating a graph");
    *graph = executable;
    return MOET_OK;
}

static moet_status graph_launch(moet_device *device, void *graph, void *stream)
{
    CUresult result = impl_of(device)->cuda->cuGraphLaunch(graph, stream);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "launching a graph");
}

static void graph_destroy(moet_device *device, void *graph)
{
    if (graph) impl_of(device)->cuda->cuGraphExecDestroy(graph);
}

/* ---- clocks ---- */

static moet_status read_clocks(moet_device *device, moet_clocks *clocks)
{
    const nvml_api *nvml = nvml_get();
    void *nvml_device = impl_of(device)->nvml_device;
    moet_clocks result = {0};
    unsigned sm_mhz = 0, power_mw = 0;
    unsigned long long reasons = 0;
    if (nvml && nvml_device) {
        if (nvml->clock_mhz(nvml_device, NVML_CLOCK_SM, &sm_mhz) == NVML_SUCCESS) result.sm_mhz = (int32_t)sm_mhz;
        if (nvml->power_mw(nvml_device, &power_mw) == NVML_SUCCESS) result.power_mw = (int32_t)power_mw;
        if (nvml->throttle_reasons && nvml->throttle_reasons(nvml_device, &reasons) == NVML_SUCCESS)
            result.throttle_reasons = reasons;
        result.hardware_slowdown = (reasons & NVML_VOIDING) != 0;
    }
    *clocks = result;
    return MOET_OK;
}

static moet_status set_profiling(moet_device *device, bool is_on)
{
    const struct moet_cuda_api *cuda = impl_of(device)->cuda;
    CUresult result = is_on ? cuda->profiler_start() : cuda->profiler_stop();
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "telling the profiler");
}

const moet_backend moet_backend_cuda = {
    .name = "cuda",
    .count = count_devices,
    .open = open_device,
    .close = close_device,
    .activate = activate,
    .alloc = alloc_memory,
    .free = free_memory,
    .free_bytes = free_bytes,
    .upload = upload,
    .download = download,
    .fill = fill,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_elapsed_us = event_elapsed_us,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .graph_launch = graph_launch,
    .graph_destroy = graph_destroy,
    .clocks = read_clocks,
    .set_profiling = set_profiling,
};
#else
typedef int moet_backend_cuda_unused; /* a translation unit must not be empty */
#endif
