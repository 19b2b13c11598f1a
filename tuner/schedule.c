/* schedule.c: see schedule.h. */
#include "schedule.h"

#include <math.h>
#include <stdlib.h>

#include "../kernels/ffn_path.h"

/* When each slot is free, as a heap: the earliest is the first. */
typedef struct slots {
    int32_t count;
    double *free_at;
} slots;

/* The slot that is free first takes a tile. */
static void give(slots *s, double rows)
{
    const double end = s->free_at[0] + rows;
    int32_t at = 0;
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child + 1 < s->count && s->free_at[child + 1] < s->free_at[child]) {
            child++;
        }
        if (child >= s->count || s->free_at[child] >= end) {
            break;
        }
        s->free_at[at] = s->free_at[child];
        at = child;
    }
    s->free_at[at] = end;
}

/* Rows that a tile of so many is multiplied for. */
static int32_t padded(int32_t rows, const moet_tile_shape *shape)
{
    return (rows + shape->row_step - 1) / shape->row_step * shape->row_step;
}

moet_status moet_schedule_of(const moet_problem *problem, const int32_t *counts, const moet_tile_shape *shape,
                             int32_t sm_count, moet_schedule *schedule)
{
    const int64_t n = moet_problem_n(problem), column_tiles = (n + shape->cols - 1) / shape->cols;
    moet_schedule result = {0};
    slots s = {.count = sm_count * shape->ctas_per_sm};
    s.free_at = calloc((size_t)s.count, sizeof *s.free_at);
    if (s.free_at == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a schedule of %d tiles at a time", s.count);
    }
    double useful_rows = 0, multiplied_rows = 0, longest = 0, last = 0;
    for (int32_t e = 0; e < problem->experts; e++) {
        if (counts[e] <= 0) {
            continue;
        }
        const int32_t row_tiles = (counts[e] + shape->rows - 1) / shape->rows;
        const int32_t even = (counts[e] + row_tiles - 1) / row_tiles;
        const int32_t height = shape->rows_are_n ? padded(even, shape) : shape->rows;
        useful_rows += counts[e];
        for (int32_t row = 0; row < counts[e]; row += height) {
            const int32_t rows = padded(counts[e] - row < height ? counts[e] - row : height, shape);
            multiplied_rows += rows;
            longest = rows > longest ? rows : longest;
            for (int64_t c = 0; c < column_tiles; c++) {
                give(&s, rows);
            }
            result.tiles += column_tiles;
        }
    }
    for (int32_t i = 0; i < s.count; i++) {
        last = s.free_at[i] > last ? s.free_at[i] : last;
    }
    free(s.free_at);
    if (result.tiles > 0 && shape->splits_last) { /* as kernels/tile_cost.c has it */
        const double waves = multiplied_rows * (double)column_tiles / s.count / longest, part = waves - floor(waves);
        const double halved = (floor(waves) + 0.5) * longest;
        last = part > 0 && part <= 0.5 && halved < last ? halved : last;
    }
    if (result.tiles > 0) {
        result.waves = (double)result.tiles / s.count;
        result.padding_share = 1 - useful_rows * (double)n / (multiplied_rows * (double)(column_tiles * shape->cols));
        result.tail_share = 1 - multiplied_rows * (double)column_tiles / (last * s.count);
    }
    *schedule = result;
    return MOET_OK;
}

/* One GEMM; *known false leaves schedule as it is. */
static moet_status schedule_gemm(const moet_problem *problem, const int32_t *counts, const moet_config *config,
                                 const moet_device_info *device, bool *known, moet_schedule *schedule)
{
    moet_tile_shape shape;
    *known = config->family->tile_shape != NULL && device->sm_count > 0 &&
             config->family->tile_shape(problem, config, device, &shape);
    return *known ? moet_schedule_of(problem, counts, &shape, device->sm_count, schedule) : MOET_OK;
}

moet_status moet_schedule_config(const moet_problem *problem, const int32_t *counts, const moet_config *config,
                                 const moet_device_info *device, bool *known, moet_schedule *schedule)
{
    if (config->family->gemm == NULL) {
        return schedule_gemm(problem, counts, config, device, known, schedule);
    }
    moet_schedule halves[2] = {{0}}, both = {0};
    double flops[2], sum = 0;
    for (int32_t i = 0; i < 2; i++) {
        const moet_problem gemm = moet_problem_gemm(problem, i == 0 ? MOET_OP_UP : MOET_OP_DOWN);
        const moet_config half = moet_ffn_path_half(config, i);
        MOET_TRY(schedule_gemm(&gemm, counts, &half, device, known, &halves[i]));
        if (!*known) {
            return MOET_OK;
        }
        flops[i] = (double)moet_problem_n(&gemm) * moet_problem_k(&gemm);
        sum += flops[i];
    }
    for (int32_t i = 0; i < 2; i++) {
        both.tiles += halves[i].tiles;
        both.waves += halves[i].waves;
        both.padding_share += halves[i].padding_share * flops[i] / sum;
        both.tail_share += halves[i].tail_share * flops[i] / sum;
    }
    *schedule = both;
    return MOET_OK;
}
