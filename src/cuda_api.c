#ifdef MOET_CUDA
#include "cuda_api.h"

#include <pthread.h>
#include <stdio.h>

#include "device.h"

#define TEXT_OF(macro) TEXT_OF_TOKEN(macro) /* expands cuda.h's renaming first */
#define TEXT_OF_TOKEN(token) #token

static const moet_symbol symbols[] = {
#define MOET_X(function) {TEXT_OF(function), offsetof(struct moet_cuda_api, function), false},
    MOET_CUDA_FUNCTIONS(MOET_X)
#undef MOET_X
        {"cuEventElapsedTime", offsetof(struct moet_cuda_api, event_elapsed_ms), false},
    {"cuProfilerStart", offsetof(struct moet_cuda_api, profiler_start), false},
    {"cuProfilerStop", offsetof(struct moet_cuda_api, profiler_stop), false},
    {"cuFuncLoad", offsetof(struct moet_cuda_api, func_load), true},
};

/* Written once, under bind_once. */
static pthread_once_t bind_once = PTHREAD_ONCE_INIT;
static struct moet_cuda_api bound;
static moet_status bind_status;
static char bind_error[512];

static moet_status bind(void)
{
    static const char *const sonames[] = {"libcuda.so.1", NULL};
    MOET_TRY(moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), &bound, NULL));
    CUresult result = bound.cuInit(0);
    if (result == CUDA_ERROR_NO_DEVICE) return moet_fail(MOET_NOT_FOUND, "the NVIDIA driver finds no device");
    if (result == CUDA_ERROR_STUB_LIBRARY)
        return moet_fail(MOET_NOT_FOUND, "libcuda.so.1 is the toolkit's stub: there is no NVIDIA driver");
    if (result != CUDA_SUCCESS) {
        const char *name = NULL, *text = NULL;
        bound.cuGetErrorName(result, &name);
        bound.cuGetErrorString(result, &text);
        return moet_fail(MOET_DEVICE, "the NVIDIA driver does not start: CUDA error %d (%s): %s", (int)result,
                         name ? name : "unknown", text ? text : "no text");
    }
    return MOET_OK;
}

static void bind_first(void)
{
    bind_status = bind();
    if (bind_status != MOET_OK) snprintf(bind_error, sizeof bind_error, "%s", moet_last_error());
}

moet_status moet_cuda_api_get(const struct moet_cuda_api **api)
{
    pthread_once(&bind_once, bind_first);
    if (bind_status != MOET_OK) return moet_fail(bind_status, "%s", bind_error);
    *api = &bound;
    return MOET_OK;
}

moet_status moet_cuda_fail(CUresult result, const char *what)
{
    const struct moet_cuda_api *cuda;
    const char *name = NULL, *text = NULL;
    if (moet_cuda_api_get(&cuda) == MOET_OK) {
        cuda->cuGetErrorName(result, &name);
        cuda->cuGetErrorString(result, &text);
    }
    moet_status status = result == CUDA_ERROR_OUT_OF_MEMORY ? MOET_NO_DEVICE_MEMORY : MOET_DEVICE;
    return moet_fail(status, "%s: CUDA error %d (%s): %s", what, (int)result, name ? name : "unknown",
                     text ? text : "no text");
}
#else
typedef int moet_cuda_api_unused; /* a translation unit must not be empty */
#endif
