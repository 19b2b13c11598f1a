/* counts.c: src/counts.h on the host, and on CUDA by counts.cu. */
#include "../src/counts.h"

#include <stddef.h>
#include <stdlib.h>

/* ---- host ---- */

static moet_status host_create(moet_device *device, moet_counts **counts)
{
    (void)device;
    *counts = NULL; /* it has no state */
    return MOET_OK;
}

static void host_destroy(moet_counts *counts) { (void)counts; }

static moet_status host_summarize(moet_counts *counts, const int32_t *values, int32_t experts, moet_routing *routing,
                                  void *stream)
{
    (void)counts;
    (void)stream;
    moet_routing r = {.experts = experts, .max_over_mean = 1};
    for (int32_t e = 0; e < experts; e++) {
        const int32_t count = values[e] > 0 ? values[e] : 0;
        r.rows += count;
        r.active += count > 0;
        if (count > r.max) r.max = count;
    }
    if (r.rows > 0) r.max_over_mean = (double)r.max * experts / (double)r.rows;
    r.tokens = r.rows;
    *routing = r;
    return MOET_OK;
}

const moet_counts_table moet_counts_host = {"host", host_create, host_destroy, host_summarize};

/* ---- CUDA ---- */

#ifdef MOET_CUDA
#include "../src/cuda_api.h"
#include "counts_source.h"
#include "ep_source.h"

extern const char moet_source_counts[];

/* As counts.cu has it. */
_Static_assert(sizeof(moet_routing) == 40 && offsetof(moet_routing, rows) == 8 && offsetof(moet_routing, max) == 16 &&
                   offsetof(moet_routing, max_over_mean) == 24 && offsetof(moet_routing, tokens) == 32,
               "struct routing of counts.cu");

struct moet_counts {
    const struct moet_cuda_api *cuda;
    void *module, *kernel;
};

bool moet_counts_source(int32_t cc_major, int32_t cc_minor, moet_source *source)
{
    moet_source ep; /* for the same targets */
    if (!moet_ep_source(cc_major, cc_minor, &ep)) return false;
    *source = (moet_source){.name = "counts.cu", .text = moet_source_counts, .arch = ep.arch};
    return true;
}

static void cuda_destroy(moet_counts *counts)
{
    if (!counts) return;
    if (counts->module) moet_module_unload(counts->module);
    free(counts);
}

static moet_status cuda_create(moet_device *device, moet_counts **counts)
{
    static const char *const names[] = {"moet_summarize_counts"};
    moet_source source;
    moet_cubin cubin = {0};
    moet_counts *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "moet_plan_summarize: out of host memory");
    moet_status status = moet_cuda_api_get(&result->cuda);
    if (status == MOET_OK && !moet_counts_source(device->info.cc_major, device->info.cc_minor, &source))
        status = moet_fail(MOET_UNSUPPORTED, "moet_plan_summarize: no target for compute capability %d.%d",
                           device->info.cc_major, device->info.cc_minor);
    if (status == MOET_OK) status = moet_module_compile(&source, &cubin, NULL);
    if (status == MOET_OK) status = moet_module_load(&cubin, names, 1, &result->module, &result->kernel);
    moet_cubin_release(&cubin);
    if (status != MOET_OK) {
        cuda_destroy(result);
        return status;
    }
    *counts = result;
    return MOET_OK;
}

static moet_status cuda_summarize(moet_counts *counts, const int32_t *values, int32_t experts, moet_routing *routing,
                                  void *stream)
{
    void *args[] = {&values, &experts, &routing};
    const CUresult result = counts->cuda->cuLaunchKernel(counts->kernel, 1, 1, 1, 256, 1, 1, 0, stream, args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "moet_summarize_counts");
}

const moet_counts_table moet_counts_cuda = {"cuda", cuda_create, cuda_destroy, cuda_summarize};
#endif
