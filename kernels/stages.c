#include "stages_table.h"

#include <stdlib.h>
#include <string.h>

#include "../src/nvtx.h"

static const moet_stages_table *const tables[] = {
#ifdef MOET_CUDA
    &moet_stages_table_cuda,
#endif
    &moet_stages_table_host,
};

static const moet_stages_table *table_find(const char *backend)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(tables); i++) {
        if (strcmp(tables[i]->backend, backend) == 0) return tables[i];
    }
    return NULL;
}

static moet_status number_check(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return MOET_OK;
    return moet_fail(MOET_INVALID, "stages: %s is %lld, must be %lld to %lld", name, (long long)value, (long long)low,
                     (long long)high);
}

moet_status moet_stages_create(moet_device *device, const moet_problem *problem, int32_t choices, int64_t max_tokens,
                               int32_t max_sms, const moet_cubin *cubin, moet_stages **stages)
{
    const moet_stages_table *table = table_find(device->backend->name);
    if (!table)
        return moet_fail(MOET_UNSUPPORTED, "backend '%s' has no stages of the expert path in this build",
                         device->backend->name);
    MOET_TRY(number_check("op", problem->op, MOET_OP_FFN, MOET_OP_FFN));
    MOET_TRY(number_check("choices", choices, 1, MOET_MAX_CHOICES));
    MOET_TRY(number_check("max_tokens", max_tokens, 1, MOET_MAX_ROWS));
    MOET_TRY(number_check("experts", problem->experts, 1, MOET_MAX_EXPERTS));
    MOET_TRY(number_check("activation", problem->activation, MOET_ACTIVATION_SWIGLU, MOET_ACTIVATION_GPT_OSS));
    /* Rows are read and written 16 bytes at a time. */
    if (problem->hidden < 8 || problem->hidden % 8 || problem->inter < 8 || problem->inter % 8)
        return moet_fail(MOET_INVALID, "stages: hidden is %d and inter %d, must be multiples of 8", problem->hidden,
                         problem->inter);
    moet_stages *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "stages: out of host memory");
    *result = (moet_stages){.table = table,
                            .device = device,
                            .problem = *problem,
                            .choices = choices,
                            .max_tokens = max_tokens,
                            .max_sms = max_sms};
    moet_status status = table->create(result, cubin);
    if (status != MOET_OK) {
        free(result);
        return status;
    }
    *stages = result;
    return MOET_OK;
}

void moet_stages_destroy(moet_stages *stages)
{
    if (!stages) return;
    stages->table->destroy(stages);
    free(stages);
}

const moet_cubin *moet_stages_cubin(const moet_stages *stages)
{
    return stages->table->cubin ? stages->table->cubin(stages) : NULL;
}

size_t moet_stages_workspace_bytes(const moet_problem *problem, int32_t choices, int64_t max_tokens, int32_t max_sms,
                                   const moet_device_info *device)
{
    const moet_stages_table *table = table_find(device->backend);
    return table ? table->workspace_bytes(problem, choices, max_tokens, max_sms, device) : 0;
}

moet_stages_grid moet_stages_permute_grid(const moet_problem *problem, int32_t choices, int64_t tokens, int32_t max_sms,
                                          const moet_device_info *device)
{
    const moet_stages_table *table = table_find(device->backend);
    if (table && table->permute_grid) return table->permute_grid(problem, choices, tokens, max_sms, device);
    return (moet_stages_grid){table != NULL, table != NULL};
}

/* What the caller may leave to us: dense strides, and how many tokens there are at most. */
static moet_status args_resolve(const moet_stages *stages, const moet_ffn_args *args, moet_ffn_args *resolved)
{
    *resolved = *args;
    if (!args->x_stride) resolved->x_stride = stages->problem.hidden;
    if (!args->ids_stride) resolved->ids_stride = stages->choices;
    if (!args->weights_stride) resolved->weights_stride = stages->choices;
    if (!args->out_stride) resolved->out_stride = stages->problem.hidden;
    if (args->device_tokens) resolved->tokens = stages->max_tokens;
    return number_check("tokens", resolved->tokens, 0, stages->max_tokens);
}

moet_status moet_stages_permute(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                                int64_t max_rows, int32_t *target, void *workspace, void *stream)
{
    moet_ffn_args resolved;
    MOET_TRY(args_resolve(stages, args, &resolved));
    MOET_TRY(number_check("max_rows", max_rows, 0, MOET_MAX_ROWS));
    resolved.stream = stream;
    moet_nvtx_begin(MOET_NVTX_PERMUTE, NULL, resolved.tokens);
    return moet_nvtx_end(stages->table->permute(stages, &resolved, permuted, max_rows, target, workspace));
}

moet_status moet_stages_gather(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                               int64_t rows, void *stream)
{
    moet_ffn_args resolved;
    MOET_TRY(args_resolve(stages, args, &resolved));
    MOET_TRY(number_check("rows", rows, 0, MOET_MAX_ROWS));
    if (rows == 0) return MOET_OK;
    resolved.stream = stream;
    moet_nvtx_begin(MOET_NVTX_GATHER, NULL, rows);
    return moet_nvtx_end(stages->table->gather(stages, &resolved, permuted, rows));
}

moet_status moet_stages_activate(moet_stages *stages, const void *up, const moet_permuted *permuted, int64_t rows,
                                 void *out, void *stream)
{
    MOET_TRY(number_check("rows", rows, 0, MOET_MAX_ROWS));
    if (rows == 0) return MOET_OK;
    moet_nvtx_begin(MOET_NVTX_ACTIVATE, NULL, rows);
    return moet_nvtx_end(stages->table->activate(stages, up, permuted, rows, out, stream));
}

moet_status moet_stages_combine(moet_stages *stages, const moet_ffn_args *args, const void *rows,
                                const moet_permuted *permuted, void *stream)
{
    moet_ffn_args resolved;
    MOET_TRY(args_resolve(stages, args, &resolved));
    if (resolved.tokens == 0) return MOET_OK;
    resolved.stream = stream;
    moet_nvtx_begin(MOET_NVTX_COMBINE, NULL, resolved.tokens);
    return moet_nvtx_end(stages->table->combine(stages, &resolved, rows, permuted));
}

#ifndef MOET_CUDA
bool moet_stages_source(int32_t cc_major, int32_t cc_minor, moet_source *source)
{
    (void)cc_major, (void)cc_minor, (void)source;
    return false;
}
#endif
