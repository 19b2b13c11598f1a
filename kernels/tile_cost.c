#include "tile_cost.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define NS 1e9
#define OVERLAP 6.0 /* exponent of the norm that joins what goes on at the same time: infinite, the larger alone */
/* Fitted to an H100's trials (docs/tuning.md). */
#define COPY_ROWS 12.0 /* what a box of rows takes beside its rows, in rows */
#define CROSSING 0.25  /* how much longer HBM's stream takes, as a part, where all of it goes to both halves of L2 */

enum { MOST_KINDS = MOET_MAX_TILE_STEPS, MOST_SLOTS = 2048 };

/* Tiles that compute equally many rows take equally long. */
typedef struct tile_kind {
    double count, seconds;
} tile_kind;

typedef struct gemm {
    const moet_tile_shape *shape;
    const moet_device_rates *rates;
    double n, k, column_tiles, sms;
    int64_t l2_bytes;
    bool has_halves; /* L2, as all of this architecture; measured on H100 alone */
} gemm;

/* How long two things take that go on at the same time. */
static double joined(double a, double b)
{
    const double most = a > b ? a : b, least = a > b ? b : a;
    return most > 0 ? most * pow(1 + pow(least / most, OVERLAP), 1 / OVERLAP) : 0;
}

/* One tile, of so many computed rows, on an SM of its own. */
static double tile_seconds(const gemm *g, double rows)
{
    const moet_tile_shape *s = g->shape;
    const double tensor = g->rates->rate[MOET_RATE_TENSOR] * s->tensor_fraction / g->sms;
    const double l2 = g->rates->rate[MOET_RATE_L2] / g->sms, store = g->rates->rate[MOET_RATE_STORE] / g->sms;
    /* m64 nN k16 reads (64 + N) * 32 B of shared memory at 128 B/clk and multiplies N/2 clk. */
    const double filled = s->rows_are_n && rows < 64 ? 0.5 + 32 / rows : 1;
    const double math = 2 * rows * s->cols * g->k * filled / tensor;
    const double copied = rows + (s->x_box > 0 ? ceil(rows / s->x_box) * COPY_ROWS : 0);
    const double copy = (copied / s->x_shared + (double)s->cols / s->w_shared) * g->k * s->element_bytes / l2;
    const double out = rows * s->cols * 2 * s->store_factor / store;
    /* Copies run ahead under a store; what multiplies waits for it, or another group does that meanwhile. */
    return joined(s->hides_store ? joined(math, out) : math + out, copy);
}

/* How many times as long an expert's weights take to stream when so many row tiles read them. H100's L2 is in two
 * halves, with a part of HBM behind each. An SM reads through its own half: what SMs of both read crosses the link
 * between them. Of readers that are in either half by chance not all are in the same with probability
 * 1 - 2^(1 - readers). */
static double crossing(const gemm *g, double readers)
{
    return g->has_halves ? 1 + CROSSING * (1 - exp2(1 - readers)) : 1;
}

/* HBM: each operand once, and again for every band or column of tiles where more of it lies between than L2 holds. What
 * SMs work on at the same time they read once. */
static double expert_bytes(const gemm *g, double rows, double row_tiles)
{
    const moet_tile_shape *s = g->shape;
    const double height = fmin(row_tiles, fmax(s->group, ceil(g->sms / g->column_tiles)));
    const double columns = fmin(g->column_tiles, ceil(g->sms / height)); /* at the same time */
    const double w_bytes = g->n * g->k * 2, x_bytes = rows * g->k * 2, l2_bytes = (double)g->l2_bytes;
    const bool w_stays = l2_bytes <= 0 || w_bytes < l2_bytes;
    const bool x_stays = l2_bytes <= 0 || x_bytes * height / row_tiles < l2_bytes;
    return w_bytes * crossing(g, row_tiles) * (w_stays ? 1 : ceil(row_tiles / height)) +
           x_bytes * (x_stays ? 1 : ceil(g->column_tiles / columns)) + rows * g->n * 2;
}

/* Gives `count` tiles one by one to the slot that is free first. A slot that is busy until `load` takes those that
 * start before a moment that is searched for. */
static void give(double *loads, int32_t slots, double count, double seconds)
{
    double low = loads[0], high = loads[0];
    for (int32_t i = 1; i < slots; i++) {
        low = loads[i] < low ? loads[i] : low;
        high = loads[i] > high ? loads[i] : high;
    }
    high += seconds * (count / slots + 1);
    for (int32_t step = 0; step < 50 && high - low > 1e-4 * seconds; step++) {
        const double middle = 0.5 * (low + high);
        double taken = 0;
        for (int32_t i = 0; i < slots; i++) taken += loads[i] < middle ? ceil((middle - loads[i]) / seconds) : 0;
        if (taken < count)
            low = middle;
        else
            high = middle;
    }
    double left = count;
    for (int32_t i = 0; i < slots; i++) {
        const double taken = loads[i] < low ? ceil((low - loads[i]) / seconds) : 0;
        loads[i] += taken * seconds;
        left -= taken;
    }
    for (int32_t i = 0; i < slots && left >= 1; i++) {
        if (loads[i] <= high) {
            loads[i] += seconds;
            left--;
        }
    }
}

/* When the last tile ends. */
static double makespan(const gemm *g, tile_kind *kinds, int32_t count)
{
    double loads[MOST_SLOTS] = {0}, last = 0, sum = 0;
    const int32_t ctas = g->shape->ctas_per_sm, wanted = (int32_t)g->sms * ctas;
    const int32_t slots = wanted < MOST_SLOTS ? wanted : MOST_SLOTS;
    for (int32_t i = count - 1; i >= 0; i--) { /* the most rows take longest */
        if (kinds[i].count > 0) give(loads, slots, kinds[i].count, kinds[i].seconds * ctas);
        sum += kinds[i].count * kinds[i].seconds;
    }
    for (int32_t i = 0; i < slots; i++) last = loads[i] > last ? loads[i] : last;
    if (g->shape->splits_last) {
        double longest = 0;
        for (int32_t i = 0; i < count; i++)
            longest = kinds[i].count > 0 && kinds[i].seconds > longest ? kinds[i].seconds : longest;
        const double waves = sum / g->sms / longest, part = waves - floor(waves);
        const double halved = (floor(waves) + 0.5) * longest;
        if (part > 0 && part <= 0.5 && halved < last) last = halved;
    }
    return last;
}

moet_tile_shape moet_tile_shape_of(int32_t rows, int32_t cols, int32_t row_step)
{
    return (moet_tile_shape){.rows = rows,
                             .cols = cols,
                             .row_step = row_step,
                             .ctas_per_sm = 1,
                             .x_shared = 1,
                             .w_shared = 1,
                             .group = INT32_MAX,
                             .element_bytes = 2,
                             .store_factor = 1,
                             .tensor_fraction = 1};
}

static gemm gemm_of(const moet_problem *problem, const moet_tile_shape *shape, const moet_device_info *device,
                    const moet_device_rates *rates)
{
    const double n = moet_problem_n(problem);
    return (gemm){.shape = shape,
                  .rates = rates,
                  .n = n,
                  .k = moet_problem_k(problem),
                  .column_tiles = ceil(n / shape->cols),
                  .sms = device->sm_count > 0 ? device->sm_count : 1,
                  .l2_bytes = device->l2_bytes,
                  .has_halves = strcmp(device->backend, "cuda") == 0 && device->cc_major == 9};
}

moet_tiling moet_tile_tiling(const moet_problem *problem, const moet_tile_shape *shape, const moet_device_info *device,
                             const moet_device_rates *rates)
{
    const gemm g = gemm_of(problem, shape, device, rates);
    const double hbm = rates->rate[MOET_RATE_HBM], w_bytes = g.n * g.k * 2, l2_bytes = (double)g.l2_bytes;
    const double height = fmax(shape->group, ceil(g.sms / g.column_tiles)); /* as expert_bytes has it, of many tiles */
    const double columns = fmin(g.column_tiles, ceil(g.sms / height));
    moet_tiling tiling = {.rows = shape->rows,
                          .row_step = shape->row_step,
                          .is_even = shape->rows_are_n,
                          .splits_last = shape->splits_last,
                          .is_followed = shape->is_followed,
                          .column_tiles = g.column_tiles,
                          .slots = g.sms * shape->ctas_per_sm,
                          .x_seconds = g.k * 2 / hbm,
                          .out_seconds = g.n * 2 / hbm,
                          .band_tiles = l2_bytes > 0 && w_bytes >= l2_bytes && height < 1024 ? (int32_t)height : 0,
                          .x_reads = ceil(g.column_tiles / columns),
                          .x_rows = l2_bytes > 0 ? l2_bytes / (g.k * 2) : INFINITY,
                          .launch_seconds = 1 / rates->rate[MOET_RATE_LAUNCH]};
    assert(shape->rows / shape->row_step <= MOET_MAX_TILE_STEPS);
    for (int32_t i = 0; i < shape->rows / shape->row_step; i++)
        tiling.seconds[i] = shape->ctas_per_sm * tile_seconds(&g, (double)shape->row_step * (i + 1));
    for (int32_t i = 0; i < MOET_MOST_READERS; i++) tiling.weight_seconds[i] = w_bytes / hbm * crossing(&g, i + 1);
    return tiling;
}

double moet_tile_cost_ns(const moet_problem *problem, const int32_t *counts, const moet_tile_shape *shape,
                         const moet_device_info *device, const moet_device_rates *rates)
{
    const gemm g = gemm_of(problem, shape, device, rates);
    tile_kind kinds[MOST_KINDS] = {{0}};
    const int32_t kind_count = shape->rows / shape->row_step;
    assert(kind_count >= 1 && kind_count <= MOST_KINDS && kind_count * shape->row_step == shape->rows);
    for (int32_t i = 0; i < kind_count; i++) kinds[i].seconds = tile_seconds(&g, (double)shape->row_step * (i + 1));
    double busy = 0, together = 0; /* sums over experts: SMs alone, with HBM beside them */
    for (int32_t e = 0; e < problem->experts; e++) {
        if (counts[e] <= 0) continue;
        const int32_t row_tiles = (counts[e] + shape->rows - 1) / shape->rows;
        const int32_t even = (counts[e] + row_tiles - 1) / row_tiles;
        const int32_t height =
            shape->rows_are_n ? (even + shape->row_step - 1) / shape->row_step * shape->row_step : shape->rows;
        const int32_t full = counts[e] / height, rest = counts[e] - full * height;
        double own = 0;
        if (full > 0) {
            const int32_t kind = height / shape->row_step - 1;
            kinds[kind].count += full * g.column_tiles;
            own += full * g.column_tiles * kinds[kind].seconds;
        }
        if (rest > 0) {
            const int32_t kind = (rest + shape->row_step - 1) / shape->row_step - 1;
            kinds[kind].count += g.column_tiles;
            own += g.column_tiles * kinds[kind].seconds;
        }
        own /= g.sms;
        busy += own;
        together += joined(own, expert_bytes(&g, counts[e], row_tiles) / rates->rate[MOET_RATE_HBM]);
    }
    if (busy <= 0) return NS / rates->rate[MOET_RATE_LAUNCH];
    const double idle = shape->is_followed ? 0 : makespan(&g, kinds, kind_count) - busy; /* SMs that wait at the end */
    /* Where HBM is what takes long, it goes on while SMs wait. */
    const double math_part = busy / together;
    return NS * (together + (idle > 0 ? idle * math_part * math_part : 0) + 1 / rates->rate[MOET_RATE_LAUNCH]);
}

double moet_pass_cost_ns(double bytes, const moet_device_rates *rates)
{
    return NS * (bytes / rates->rate[MOET_RATE_HBM] + 1 / rates->rate[MOET_RATE_LAUNCH]);
}
