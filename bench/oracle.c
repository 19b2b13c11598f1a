/* oracle: what some elements of a workload's result are, by the C reference in double precision on the host. It checks
 * the device's reference kernel once, and then every subject. Small results are known in full; of large ones tile
 * boundaries of every expert are sampled. */
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/reference.h"

enum { MOST_ROWS = 40, MOST_COLUMNS = 192 };
static const double full_products = 1 << 23; /* M N K up to which every element is computed */

void moet_oracle_release(moet_oracle *oracle)
{
    free(oracle->rows);
    free(oracle->columns);
    free(oracle->expected);
    free(oracle->bound);
    *oracle = (moet_oracle){0};
}

static int compare_rows(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int compare_columns(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* A uniform sample of at most MOST_ROWS of the rows offered (Vitter's algorithm R). */
typedef struct reservoir {
    int64_t rows[MOST_ROWS];
    int64_t offered;
    uint64_t state;
} reservoir;

static void offer_row(reservoir *r, int64_t row)
{
    int64_t at = r->offered < MOST_ROWS ? r->offered : (int64_t)(moet_xorshift(&r->state) % (uint64_t)(r->offered + 1));
    if (at < MOST_ROWS) r->rows[at] = row;
    r->offered++;
}

/* First and last rows of every expert, and both sides of the first and last boundary of each tile height. */
static void offer_expert(reservoir *r, int64_t first, int32_t count)
{
    static const int32_t tiles[] = {16, 64, 128, 256};
    if (count == 0) return;
    offer_row(r, first);
    if (count > 1) offer_row(r, first + count - 1);
    for (int32_t i = 0; i < MOET_COUNT_OF(tiles); i++) {
        int32_t last = (count - 1) / tiles[i] * tiles[i]; /* where the last tile begins */
        if (last == 0) continue;
        offer_row(r, first + last);
        offer_row(r, first + last - 1);
        if (last == tiles[i]) continue;
        offer_row(r, first + tiles[i]);
        offer_row(r, first + tiles[i] - 1);
    }
}

static moet_status choose_rows(const moet_bench *bench, bool full, moet_oracle *oracle)
{
    const moet_buffers *b = &bench->buffers;
    int64_t M = b->routing.rows;
    oracle->rows = malloc((size_t)(full ? M : MOST_ROWS) * sizeof *oracle->rows);
    if (!oracle->rows) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    if (full) {
        for (int64_t i = 0; i < M; i++) oracle->rows[i] = i;
        oracle->row_count = (int32_t)M;
        return MOET_OK;
    }
    reservoir r = {.state = bench->seed | 1};
    int64_t first = 0;
    for (int32_t e = 0; e < b->problem.experts; e++) {
        offer_expert(&r, first, b->counts[e]);
        first += b->counts[e];
    }
    oracle->row_count = (int32_t)(r.offered < MOST_ROWS ? r.offered : MOST_ROWS);
    memcpy(oracle->rows, r.rows, (size_t)oracle->row_count * sizeof *r.rows);
    qsort(oracle->rows, (size_t)oracle->row_count, sizeof *oracle->rows, compare_rows);
    return MOET_OK;
}

/* All columns, or both edges and a random rest; repeats do no harm. */
static moet_status choose_columns(const moet_bench *bench, bool full, moet_oracle *oracle)
{
    int32_t N = moet_problem_n(&bench->buffers.problem);
    int32_t count = full || N < MOST_COLUMNS ? N : MOST_COLUMNS;
    uint64_t state = ~bench->seed | 1;
    oracle->columns = malloc((size_t)count * sizeof *oracle->columns);
    if (!oracle->columns) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    for (int32_t i = 0; i < count; i++) {
        if (count == N || i < 32)
            oracle->columns[i] = i;
        else if (i >= count - 32)
            oracle->columns[i] = N - count + i;
        else
            oracle->columns[i] = (int32_t)(moet_xorshift(&state) % (uint64_t)N);
    }
    qsort(oracle->columns, (size_t)count, sizeof *oracle->columns, compare_columns);
    oracle->column_count = count;
    return MOET_OK;
}

/* Host and device memory for gathering one expert's inputs. */
typedef struct gathering {
    int32_t *device_columns;
    void *device_w;
    uint16_t *x, *w, *bias, *column_bias;
} gathering;

static void release_gathering(moet_bench *bench, gathering *g)
{
    bench->device->backend->free(bench->device, g->device_columns);
    bench->device->backend->free(bench->device, g->device_w);
    free(g->x);
    free(g->w);
    free(g->bias);
    free(g->column_bias);
}

static moet_status allocate_gathering(moet_bench *bench, gathering *g)
{
    const moet_oracle *o = &bench->buffers.oracle;
    moet_device *device = bench->device;
    size_t N = (size_t)moet_problem_n(&bench->buffers.problem), K = (size_t)moet_problem_k(&bench->buffers.problem);
    size_t columns_bytes = (size_t)o->column_count * sizeof *o->columns;
    size_t w_bytes = (size_t)o->column_count * K * 2;
    g->x = malloc(K * 2);
    g->w = malloc(w_bytes);
    g->bias = malloc(N * 2);
    g->column_bias = calloc((size_t)o->column_count, 2);
    if (!g->x || !g->w || !g->bias || !g->column_bias)
        return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    MOET_TRY(device->backend->alloc(device, columns_bytes, (void **)&g->device_columns));
    MOET_TRY(device->backend->alloc(device, w_bytes, &g->device_w));
    return device->backend->upload(device, g->device_columns, o->columns, columns_bytes);
}

static moet_status gather_expert(moet_bench *bench, gathering *g, int32_t expert)
{
    const moet_buffers *b = &bench->buffers;
    const moet_oracle *o = &b->oracle;
    moet_device *device = bench->device;
    size_t N = (size_t)moet_problem_n(&b->problem), K = (size_t)moet_problem_k(&b->problem);
    MOET_TRY(moet_ops_gather(bench->ops, &b->problem, b->sets[0].w, expert, g->device_columns, o->column_count,
                             g->device_w, bench->stream));
    MOET_TRY(device->backend->stream_synchronize(device, bench->stream));
    MOET_TRY(device->backend->download(device, g->w, g->device_w, (size_t)o->column_count * K * 2));
    if (!b->problem.bias) return MOET_OK;
    const char *bias = (const char *)b->sets[0].bias + (size_t)expert * N * 2;
    MOET_TRY(device->backend->download(device, g->bias, bias, N * 2));
    for (int32_t c = 0; c < o->column_count; c++) g->column_bias[c] = g->bias[o->columns[c]];
    return MOET_OK;
}

/* The expected values, by the C reference on what was gathered: one expert whose columns are the chosen ones. */
static moet_status fill_oracle(moet_bench *bench, gathering *g)
{
    const moet_buffers *b = &bench->buffers;
    const moet_oracle *o = &b->oracle;
    int32_t K = moet_problem_k(&b->problem), expert = 0, gathered = -1;
    int64_t expert_end = b->counts[0];
    moet_problem one;
    moet_problem_init(&one, MOET_OP_DOWN, 1, o->column_count, K);
    one.bias = b->problem.bias;
    for (int32_t r = 0; r < o->row_count; r++) {
        while (o->rows[r] >= expert_end) expert_end += b->counts[++expert];
        if (gathered != expert) MOET_TRY(gather_expert(bench, g, expert));
        gathered = expert;
        const char *x = (const char *)b->sets[0].x + o->rows[r] * K * 2;
        MOET_TRY(bench->device->backend->download(bench->device, g->x, x, (size_t)K * 2));
        for (int32_t c = 0; c < o->column_count; c++) {
            double magnitude;
            int64_t at = (int64_t)r * o->column_count + c;
            o->expected[at] = moet_reference_element(&one, g->x, g->w, g->column_bias, 0, 0, c, &magnitude);
            o->bound[at] = moet_reference_bound(K, o->expected[at], magnitude);
        }
    }
    return MOET_OK;
}

/* Calls visit for every oracle row of a [M, N] device array; consecutive rows are fetched together. */
static moet_status each_row(moet_bench *bench, const void *array, size_t element_bytes,
                            void (*visit)(const moet_oracle *oracle, int32_t row_index, const void *row,
                                          moet_finding *worst),
                            moet_finding *worst)
{
    const moet_oracle *o = &bench->buffers.oracle;
    size_t row_bytes = (size_t)moet_problem_n(&bench->buffers.problem) * element_bytes;
    enum { MOST_RUN = 64 };
    char *rows = malloc(row_bytes * MOST_RUN);
    if (!rows) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    moet_status status = MOET_OK;
    for (int32_t r = 0, run; r < o->row_count; r += run) {
        for (run = 1; run < MOST_RUN && r + run < o->row_count && o->rows[r + run] == o->rows[r] + run;) run++;
        status = bench->device->backend->download(
            bench->device, rows, (const char *)array + o->rows[r] * (int64_t)row_bytes, row_bytes * (size_t)run);
        if (status != MOET_OK) break;
        for (int32_t i = 0; i < run; i++) visit(o, r + i, rows + (size_t)i * row_bytes, worst);
    }
    free(rows);
    return status;
}

static void note(const moet_oracle *oracle, int32_t row_index, int32_t c, double got, moet_finding *worst)
{
    int64_t at = (int64_t)row_index * oracle->column_count + c;
    double error = fabs(got - oracle->expected[at]) / (oracle->bound[at] + 1e-38);
    if (!(error <= INFINITY)) error = INFINITY; /* NaN */
    if (error <= worst->error) return;
    *worst = (moet_finding){error, oracle->rows[row_index], oracle->columns[c],
                            got,   oracle->expected[at],    oracle->bound[at]};
}

static void check_bf16_row(const moet_oracle *oracle, int32_t row_index, const void *row, moet_finding *worst)
{
    for (int32_t c = 0; c < oracle->column_count; c++)
        note(oracle, row_index, c, (double)moet_bf16_to_float(((const uint16_t *)row)[oracle->columns[c]]), worst);
}

static void check_fp32_row(const moet_oracle *oracle, int32_t row_index, const void *row, moet_finding *worst)
{
    for (int32_t c = 0; c < oracle->column_count; c++)
        note(oracle, row_index, c, (double)((const float *)row)[oracle->columns[c]], worst);
}

moet_status moet_oracle_check(moet_bench *bench, const uint16_t *out, moet_finding *worst)
{
    *worst = (moet_finding){0};
    return each_row(bench, out, sizeof *out, check_bf16_row, worst);
}

static moet_status check_device_reference(moet_bench *bench)
{
    moet_finding worst = {0};
    MOET_TRY(each_row(bench, bench->buffers.reference, sizeof(float), check_fp32_row, &worst));
    if (worst.error > 1)
        return moet_fail(MOET_WRONG,
                         "the device's reference kernel and the C reference disagree at row %lld, column %d: %.9g and "
                         "%.9g; nothing can be verified on this device",
                         (long long)worst.row, worst.column, worst.got, worst.expected);
    return MOET_OK;
}

moet_status moet_oracle_create(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_oracle *o = &b->oracle;
    double M = (double)b->routing.rows, N = moet_problem_n(&b->problem), K = moet_problem_k(&b->problem);
    bool full = M * N * K <= full_products;
    if (b->routing.rows == 0) return MOET_OK;
    gathering g = {0};
    moet_status status = choose_rows(bench, full, o);
    if (status == MOET_OK) status = choose_columns(bench, full, o);
    if (status == MOET_OK) {
        size_t elements = (size_t)o->row_count * (size_t)o->column_count;
        o->expected = malloc(elements * sizeof *o->expected);
        o->bound = malloc(elements * sizeof *o->bound);
        if (!o->expected || !o->bound) status = moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    }
    if (status == MOET_OK) status = allocate_gathering(bench, &g);
    if (status == MOET_OK) status = fill_oracle(bench, &g);
    release_gathering(bench, &g);
    if (status == MOET_OK) status = check_device_reference(bench);
    return status;
}
