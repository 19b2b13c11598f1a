/* ops_table: what a backend implements for ops.h; the members are documented there. Only the ops_*.c files include
 * this. */
#ifndef MOET_OPS_TABLE_H
#define MOET_OPS_TABLE_H

#include "ops.h"

typedef struct moet_ops_table {
    const char *backend;
    moet_status (*create)(moet_device *device, void **impl);
    void (*destroy)(moet_device *device, void *impl);
    moet_status (*random)(moet_ops *ops, void *bf16, int64_t count, uint64_t seed, float scale, void *stream);
    moet_status (*spread)(moet_ops *ops, void *to, const void *from, int64_t rows, int32_t k, uint64_t seed,
                          void *stream);
    moet_status (*mirror)(moet_ops *ops, const moet_problem *problem, void *w, void *stream);
    moet_status (*reference_gemm)(moet_ops *ops, const moet_problem *problem, const void *x, const void *w,
                                  const void *bias, const int32_t *device_counts, int64_t rows, float *reference,
                                  float *magnitude, void *stream);
    moet_status (*compare)(moet_ops *ops, const void *out, const float *reference, const float *magnitude,
                           int64_t count, int32_t k, void *stream, moet_comparison *result);
    moet_status (*gather)(moet_ops *ops, const moet_problem *problem, const void *w, int32_t expert,
                          const int32_t *columns, int32_t column_count, void *gathered, void *stream);
    moet_status (*copy)(moet_ops *ops, void *to, const void *from, size_t size_bytes, void *stream);
    moet_status (*read)(moet_ops *ops, void *sink, const void *from, size_t size_bytes, void *stream);
    moet_status (*spin)(moet_ops *ops, int64_t cycles, void *stream); /* NULL: returns at once */
} moet_ops_table;

struct moet_ops {
    const moet_ops_table *table;
    moet_device *device;
    void *impl; /* the backend's own */
};

extern const moet_ops_table moet_ops_table_host;
#ifdef MOET_CUDA
extern const moet_ops_table moet_ops_table_cuda;
#endif

#endif
