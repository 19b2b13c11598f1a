#include "ops_table.h"

#include <stdlib.h>
#include <string.h>

static const moet_ops_table *const tables[] = {
#ifdef MOET_CUDA
    &moet_ops_table_cuda,
#endif
    &moet_ops_table_host,
};

moet_status moet_ops_create(moet_device *device, moet_ops **ops)
{
    const moet_ops_table *table = NULL;
    for (int32_t i = 0; i < MOET_COUNT_OF(tables); i++) {
        if (strcmp(tables[i]->backend, device->backend->name) == 0) table = tables[i];
    }
    if (!table)
        return moet_fail(MOET_UNSUPPORTED, "backend '%s' has no measuring kernels in this build",
                         device->backend->name);
    moet_ops *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "measuring kernels: out of host memory");
    *result = (moet_ops){.table = table, .device = device};
    moet_status status = table->create(device, &result->impl);
    if (status != MOET_OK) {
        free(result);
        return status;
    }
    *ops = result;
    return MOET_OK;
}

void moet_ops_destroy(moet_ops *ops)
{
    if (!ops) return;
    ops->table->destroy(ops->device, ops->impl);
    free(ops);
}

moet_status moet_ops_random(moet_ops *ops, void *bf16, int64_t count, uint64_t seed, float scale, void *stream)
{
    return count > 0 ? ops->table->random(ops, bf16, count, seed, scale, stream) : MOET_OK;
}

moet_status moet_ops_spread(moet_ops *ops, void *to, const void *from, int64_t rows, int32_t k, uint64_t seed,
                            void *stream)
{
    return rows > 0 ? ops->table->spread(ops, to, from, rows, k, seed, stream) : MOET_OK;
}

moet_status moet_ops_mirror(moet_ops *ops, const moet_problem *problem, void *w, void *stream)
{
    return ops->table->mirror(ops, problem, w, stream);
}

moet_status moet_ops_reference_gemm(moet_ops *ops, const moet_problem *problem, const void *x, const void *w,
                                    const void *bias, const int32_t *device_counts, int64_t rows, float *reference,
                                    float *magnitude, void *stream)
{
    if (rows == 0) return MOET_OK;
    return ops->table->reference_gemm(ops, problem, x, w, problem->bias ? bias : NULL, device_counts, rows, reference,
                                      magnitude, stream);
}

moet_status moet_ops_compare(moet_ops *ops, const void *out, const float *reference, const float *magnitude,
                             int64_t count, int32_t k, void *stream, moet_comparison *result)
{
    if (count == 0) {
        *result = (moet_comparison){.first_wrong = -1};
        return MOET_OK;
    }
    return ops->table->compare(ops, out, reference, magnitude, count, k, stream, result);
}

moet_status moet_ops_gather(moet_ops *ops, const moet_problem *problem, const void *w, int32_t expert,
                            const int32_t *columns, int32_t column_count, void *gathered, void *stream)
{
    return ops->table->gather(ops, problem, w, expert, columns, column_count, gathered, stream);
}

moet_status moet_ops_copy(moet_ops *ops, void *to, const void *from, size_t size_bytes, void *stream)
{
    return ops->table->copy(ops, to, from, size_bytes, stream);
}

moet_status moet_ops_read(moet_ops *ops, void *sink, const void *from, size_t size_bytes, void *stream)
{
    return ops->table->read(ops, sink, from, size_bytes, stream);
}

moet_status moet_ops_spin(moet_ops *ops, int64_t cycles, void *stream)
{
    return ops->table->spin ? ops->table->spin(ops, cycles, stream) : MOET_OK;
}
