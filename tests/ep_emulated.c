/* ep_emulated: ep_cuda.c, with its grids and arguments, over a driver that runs ep.cu's kernels on the host
 * (ep_emulated.cpp). Linked in the place of ep_host.c, it is what the host backend's layer is made of. Needs no CUDA.
 */
#include <stdlib.h>
#include <string.h>

#ifndef MOET_CUDA
#define MOET_CUDA
#endif
#include "../kernels/ep_source.h"
#include "../src/ep_stages.h"

extern const size_t ep_emulated_pass_bytes;
const void *ep_emulated_find(const char *name);
void ep_emulated_launch(const void *kernel, unsigned blocks, unsigned threads, int sms, bool is_early, void **args);

enum { SMS = 2 };

/* ---- of cuda.h and cuda_api.h, what ep_cuda.c names ---- */

#define MOET_CUDA_API_H

typedef enum CUresult { CUDA_SUCCESS } CUresult;
typedef enum CUlaunchAttributeID { CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6 } CUlaunchAttributeID;
typedef struct CUlaunchAttribute {
    CUlaunchAttributeID id;
    union {
        int programmaticStreamSerializationAllowed;
    } value;
} CUlaunchAttribute;
typedef struct CUlaunchConfig {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void *hStream;
    CUlaunchAttribute *attrs;
    unsigned numAttrs;
} CUlaunchConfig;

struct moet_cuda_api {
    CUresult (*cuLaunchKernelEx)(const CUlaunchConfig *config, const void *function, void **args, void **extra);
};

static CUresult launch_emulated(const CUlaunchConfig *config, const void *function, void **args, void **extra)
{
    (void)extra;
    ep_emulated_launch(function, config->gridDimX, config->blockDimX, SMS, config->numAttrs > 0, args);
    return CUDA_SUCCESS;
}

static moet_status api_get(const struct moet_cuda_api **api)
{
    static const struct moet_cuda_api emulated = {launch_emulated};
    *api = &emulated;
    return MOET_OK;
}

static moet_status load(const char *const *names, int32_t count, void **functions)
{
    if (ep_emulated_pass_bytes != sizeof(moet_ep_pass))
        return moet_fail(MOET_MISMATCH, "moet_ep_pass has %zu bytes, in ep.cu %zu", sizeof(moet_ep_pass),
                         ep_emulated_pass_bytes);
    for (int32_t i = 0; i < count; i++) {
        functions[i] = (void *)(uintptr_t)ep_emulated_find(names[i]);
        if (!functions[i]) return moet_fail(MOET_NOT_FOUND, "ep.cu has no kernel %s", names[i]);
    }
    return MOET_OK;
}

#define moet_cuda_api_get api_get
#define moet_cuda_fail(result, what) moet_fail(MOET_DEVICE, "%s: CUDA error %d", what, (int)(result))
#define moet_module_compile(source, cubin, log) ((void)(source), (void)(cubin), (void)(log), MOET_OK)
#define moet_module_load(cubin, names, count, module, functions)                                                       \
    (*(module) = NULL, (void)(cubin), load(names, count, functions))
#define moet_module_unload(module) ((void)(module))

/* Its table gets the host's name, and a `create` that goes before its own. */
static moet_status cuda_create(moet_device *device, moet_ep_stages **stages);
#define cuda_create(device, stages) create_on(device, stages)
#define moet_ep_stages_cuda moet_ep_stages_host
#define moet_ep_source ep_emulated_source
bool ep_emulated_source(int32_t cc_major, int32_t cc_minor, moet_source *source);

#include "../kernels/ep_cuda.c"

#undef cuda_create
static moet_status cuda_create(moet_device *device, moet_ep_stages **stages)
{
    static moet_device emulated;
    emulated = *device;
    emulated.info.cc_major = 9;
    emulated.info.sm_count = SMS;
    emulated.info.driver_cuda_version = EARLY_DRIVER;
    return create_on(&emulated, stages);
}
