/* host_common: what both host kernels share: BF16 conversion and the division of a grouped GEMM into tasks. */
#ifndef MOET_HOST_COMMON_H
#define MOET_HOST_COMMON_H

#include <string.h>

#include "host_module.h"

static inline float moet_host_widen(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Nearest even; a NaN stays one. Without a branch, so that it vectorises. */
static inline uint16_t moet_host_narrow(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    uint32_t quiet = (word >> 16) | 0x40u;
    return (uint16_t)((word & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

static inline void moet_host_widen_row(float *to, const uint16_t *from, int32_t count)
{
    for (int32_t i = 0; i < count; i++) to[i] = moet_host_widen(from[i]);
}

/* A task is up to `rows` rows of one expert by up to `columns` columns. */
typedef struct moet_host_tasks {
    int32_t experts, rows, columns, n;
    int32_t count;
    int32_t first_task[MOET_MAX_EXPERTS + 1];
    int32_t first_row[MOET_MAX_EXPERTS + 1];
} moet_host_tasks;

typedef struct moet_host_task {
    int32_t expert, row, rows, column, columns;
} moet_host_task;

static inline void moet_host_tasks_init(moet_host_tasks *tasks, const moet_host_gemm *gemm, int32_t rows,
                                        int32_t columns)
{
    int32_t task = 0, row = 0, panels = (gemm->n + columns - 1) / columns;
    tasks->experts = gemm->experts;
    tasks->rows = rows;
    tasks->columns = columns;
    tasks->n = gemm->n;
    for (int32_t e = 0; e < gemm->experts; e++) {
        int32_t left = (int32_t)(gemm->max_rows - row), count = gemm->counts[e];
        if (count < 0) count = 0; /* device counts are not checked by anyone before */
        if (count > left) count = left;
        tasks->first_task[e] = task;
        tasks->first_row[e] = row;
        task += (count + rows - 1) / rows * panels;
        row += count;
    }
    tasks->first_task[gemm->experts] = tasks->count = task;
    tasks->first_row[gemm->experts] = row;
}

/* The last expert whose first task is not past `index`; experts without rows have no task. Chunks of rows follow one
 * another within a column panel, so that threads at work on neighbours share the panel's weights in a cache. */
static inline moet_host_task moet_host_task_at(const moet_host_tasks *tasks, int32_t index)
{
    int32_t low = 0, high = tasks->experts;
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        if (tasks->first_task[middle] <= index)
            low = middle;
        else
            high = middle;
    }
    int32_t count = tasks->first_row[low + 1] - tasks->first_row[low];
    int32_t chunks = (count + tasks->rows - 1) / tasks->rows, within = index - tasks->first_task[low];
    int32_t row = within % chunks * tasks->rows, column = within / chunks * tasks->columns;
    return (moet_host_task){.expert = low,
                            .row = tasks->first_row[low] + row,
                            .rows = count - row < tasks->rows ? count - row : tasks->rows,
                            .column = column,
                            .columns = tasks->n - column < tasks->columns ? tasks->n - column : tasks->columns};
}

/* host_tile_kernel.c */
bool moet_host_isa_usable(int32_t isa);
void moet_host_isa_best(moet_host_isa *isa);
void moet_host_tile_gemm(const moet_host_gemm *gemm, const moet_host_tile_config *config);

#endif
