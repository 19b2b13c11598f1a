/* stages_table: what a backend implements for stages.h, whose functions resolve strides and bounds first. Only the
 * stages*.c files include this. */
#ifndef MOET_STAGES_TABLE_H
#define MOET_STAGES_TABLE_H

#include "stages.h"

typedef struct moet_stages_table {
    const char *backend;
    moet_status (*create)(moet_stages *stages, const moet_cubin *cubin);
    void (*destroy)(moet_stages *stages);
    const moet_cubin *(*cubin)(const moet_stages *stages); /* NULL: none */
    size_t (*workspace_bytes)(const moet_problem *problem, int32_t choices, int64_t max_tokens, int32_t max_sms,
                              const moet_device_info *device);
    moet_stages_grid (*permute_grid)(const moet_problem *problem, int32_t choices, int64_t tokens, int32_t max_sms,
                                     const moet_device_info *device); /* NULL: one, on the caller's thread */
    /* args: no stride is 0; tokens is at most max_tokens, and is it where device_tokens says how many there are. */
    moet_status (*permute)(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                           int64_t max_rows, int32_t *target, void *workspace);
    /* rows > 0 */
    moet_status (*gather)(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted, int64_t rows);
    moet_status (*activate)(moet_stages *stages, const void *up, const moet_permuted *permuted, int64_t rows, void *out,
                            void *stream);
    /* tokens > 0 */
    moet_status (*combine)(moet_stages *stages, const moet_ffn_args *args, const void *rows,
                           const moet_permuted *permuted);
} moet_stages_table;

struct moet_stages {
    const moet_stages_table *table;
    moet_device *device;
    moet_problem problem;
    int32_t choices;
    int64_t max_tokens;
    int32_t max_sms; /* 0: all */
    void *impl; /* the backend's own */
};

/* Places of a token: min(k, E). */
static inline int32_t moet_stages_width(const moet_stages *stages)
{
    return stages->choices < stages->problem.experts ? stages->choices : stages->problem.experts;
}

extern const moet_stages_table moet_stages_table_host;
#ifdef MOET_CUDA
extern const moet_stages_table moet_stages_table_cuda;
#endif

#endif
