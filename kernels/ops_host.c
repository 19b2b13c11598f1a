/* ops_host: ops.h on the host, by plain C and threads. OpenMP stays out: libmoet must not bring its runtime along. */
#include "ops_table.h"
#include "reference.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 256
#define PANEL 8 /* columns of the reference GEMM that a thread holds at once */

/* Works on items [begin, end); thread is below the count given to run_parallel. */
typedef void (*range_function)(void *context, int32_t thread, int64_t begin, int64_t end);

typedef struct range_job {
    range_function function;
    void *context;
    int32_t thread;
    int64_t begin, end;
} range_job;

static void *run_range(void *argument)
{
    const range_job *job = argument;
    job->function(job->context, job->thread, job->begin, job->end);
    return NULL;
}

/* Threads that are worth starting for this much work. */
static int32_t thread_count(const moet_ops *ops, int64_t items, int64_t items_per_thread)
{
    int64_t threads = (items + items_per_thread - 1) / items_per_thread;
    if (threads > ops->device->info.sm_count) threads = ops->device->info.sm_count;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    return threads < 1 ? 1 : (int32_t)threads;
}

static void run_parallel(int32_t threads, int64_t items, range_function function, void *context)
{
    pthread_t handles[MAX_THREADS];
    range_job jobs[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    for (int32_t i = 0; i < threads; i++) {
        jobs[i] = (range_job){function, context, i, items * i / threads, items * (i + 1) / threads};
        if (i > 0) started[i] = pthread_create(&handles[i], NULL, run_range, &jobs[i]) == 0;
    }
    for (int32_t i = 0; i < threads; i++) {
        if (!started[i]) run_range(&jobs[i]); /* the first is ours, and so is what could not be started */
    }
    for (int32_t i = 0; i < threads; i++) {
        if (started[i]) pthread_join(handles[i], NULL);
    }
}

static moet_status host_create(moet_device *device, void **impl)
{
    (void)device;
    *impl = NULL;
    return MOET_OK;
}

static void host_destroy(moet_device *device, void *impl)
{
    (void)device;
    (void)impl;
}

/* Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014); the same in ops.cu. */
static uint64_t mix64(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- random ---- */

typedef struct random_job {
    uint16_t *to;
    uint64_t seed;
    float scale;
} random_job;

static void random_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    const random_job *job = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        uint64_t h = mix64(job->seed + (uint64_t)i * 0x9e3779b97f4a7c15u);
        float u = (float)((h >> 40) + 1) * 0x1p-24f; /* (0, 1] */
        float v = (float)(h & 0xffffff) * 0x1p-24f;  /* [0, 1) */
        float normal = sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v);
        job->to[i] = moet_bf16_from_float(job->scale * normal);
    }
}

static moet_status host_random(moet_ops *ops, void *bf16, int64_t count, uint64_t seed, float scale, void *stream)
{
    (void)stream;
    random_job job = {bf16, mix64(seed), scale};
    run_parallel(thread_count(ops, count, 65536), count, random_range, &job);
    return MOET_OK;
}

/* ---- several scales ---- */

typedef struct spread_job {
    uint16_t *to;
    const uint16_t *from;
    int64_t k;
    uint64_t seed;
} spread_job;

/* Items are rows. The same as in ops.cu. */
static void spread_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    const spread_job *job = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const int64_t kind = row % 5;
        for (int64_t k = 0; k < job->k; k++) {
            const int64_t from = row * job->k + (kind == 0 && k >= job->k / 2 ? k - job->k / 2 : k);
            const int32_t own = (int32_t)(mix64(job->seed + (uint64_t)from * 0x9e3779b97f4a7c15u) % 13) - 6;
            const int32_t exponent = kind == 1 ? 6 : kind == 2 ? -6 : kind == 4 ? 0 : own;
            job->to[row * job->k + k] = moet_bf16_from_float(ldexpf(moet_bf16_to_float(job->from[from]), exponent));
        }
    }
}

static moet_status host_spread(moet_ops *ops, void *to, const void *from, int64_t rows, int32_t k, uint64_t seed,
                               void *stream)
{
    (void)stream;
    spread_job job = {to, from, k, mix64(seed)};
    run_parallel(thread_count(ops, rows, 65536 / k + 1), rows, spread_range, &job);
    return MOET_OK;
}

static moet_status host_mirror(moet_ops *ops, const moet_problem *problem, void *w, void *stream)
{
    (void)ops;
    (void)stream;
    const int64_t N = moet_problem_n(problem), K = moet_problem_k(problem);
    const bool nk = problem->layout == MOET_LAYOUT_NK;
    const int64_t column_step = nk ? K : 1, k_step = nk ? 1 : N;
    for (int64_t e = 0; e < problem->experts; e++) {
        for (int64_t n = 7; n < N; n += 8) {
            uint16_t *column = (uint16_t *)w + e * N * K + n * column_step;
            for (int64_t k = 0; k < K / 2; k++) column[(K / 2 + k) * k_step] = column[k * k_step] ^ 0x8000;
        }
    }
    return MOET_OK;
}

/* ---- reference GEMM ---- */

typedef float float8 __attribute__((vector_size(32)));
typedef int32_t int8 __attribute__((vector_size(32)));

typedef struct gemm_job {
    const uint16_t *x, *w, *bias;
    const int32_t *counts;
    int32_t experts;
    int64_t N, K;
    bool nk;
    float *reference, *magnitude;
    float8 *panels; /* [threads][K] */
} gemm_job;

/* panel[k] = the weights of columns n0 .. n0 + 7. N is a multiple of 8. */
static void load_panel(const gemm_job *job, int32_t expert, int64_t n0, float8 *panel)
{
    const uint16_t *w = job->w + expert * job->N * job->K;
    for (int64_t k = 0; k < job->K; k++) {
        float8 v;
        for (int32_t j = 0; j < PANEL; j++)
            v[j] = moet_bf16_to_float(job->nk ? w[(n0 + j) * job->K + k] : w[k * job->N + n0 + j]);
        panel[k] = v;
    }
}

static void store_row(const gemm_job *job, int32_t expert, int64_t row, int64_t n0, const float *sum, const float *size)
{
    float *reference = job->reference + row * job->N + n0, *magnitude = job->magnitude + row * job->N + n0;
    for (int32_t j = 0; j < PANEL; j++) {
        float b = job->bias ? moet_bf16_to_float(job->bias[expert * job->N + n0 + j]) : 0.0f;
        reference[j] = sum[j] + b;
        magnitude[j] = size[j] + fabsf(b);
    }
}

static void gemm_rows(const gemm_job *job, int32_t expert, int64_t row, int32_t rows, int64_t n0, const float8 *panel)
{
    /* Two rows at a time share the panel's loads. A product of two BF16 is exact in fp32, so that multiply and add
     * equals a fused multiply-add. */
    const uint16_t *x0 = job->x + row * job->K, *x1 = rows > 1 ? x0 + job->K : x0;
    union {
        float8 v;
        float f[PANEL];
    } sum0 = {{0}}, sum1 = {{0}}, size0 = {{0}}, size1 = {{0}};
    for (int64_t k = 0; k < job->K; k++) {
        float8 p0 = panel[k] * moet_bf16_to_float(x0[k]), p1 = panel[k] * moet_bf16_to_float(x1[k]);
        sum0.v += p0;
        sum1.v += p1;
        size0.v += (float8)((int8)p0 & 0x7fffffff);
        size1.v += (float8)((int8)p1 & 0x7fffffff);
    }
    store_row(job, expert, row, n0, sum0.f, size0.f);
    if (rows > 1) store_row(job, expert, row + 1, n0, sum1.f, size1.f);
}

static void gemm_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    const gemm_job *job = context;
    float8 *panel = job->panels + thread * job->K;
    for (int64_t n0 = begin * PANEL; n0 < end * PANEL; n0 += PANEL) {
        int64_t row = 0;
        for (int32_t e = 0; e < job->experts; e++) {
            if (job->counts[e] == 0) continue;
            load_panel(job, e, n0, panel);
            for (int32_t i = 0; i < job->counts[e]; i += 2)
                gemm_rows(job, e, row + i, job->counts[e] - i > 1 ? 2 : 1, n0, panel);
            row += job->counts[e];
        }
    }
}

static moet_status host_reference_gemm(moet_ops *ops, const moet_problem *problem, const void *x, const void *w,
                                       const void *bias, const int32_t *counts, int64_t rows, float *reference,
                                       float *magnitude, void *stream)
{
    (void)rows;
    (void)stream;
    gemm_job job = {.x = x, .w = w, .bias = bias, .counts = counts, .experts = problem->experts};
    job.N = moet_problem_n(problem);
    job.K = moet_problem_k(problem);
    job.nk = problem->layout == MOET_LAYOUT_NK;
    job.reference = reference;
    job.magnitude = magnitude;
    int32_t threads = thread_count(ops, job.N / PANEL, 1);
    job.panels = aligned_alloc(64, ((size_t)threads * (size_t)job.K * sizeof(float8) + 63) & ~(size_t)63);
    if (!job.panels) return moet_fail(MOET_NO_MEMORY, "reference GEMM: out of host memory");
    run_parallel(threads, job.N / PANEL, gemm_range, &job);
    free(job.panels);
    return MOET_OK;
}

/* ---- compare ---- */

typedef struct compare_job {
    const uint16_t *out;
    const float *reference, *magnitude;
    float gamma;
    moet_comparison parts[MAX_THREADS];
} compare_job;

static void compare_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    compare_job *job = context;
    moet_comparison part = {.first_wrong = -1};
    for (int64_t i = begin; i < end; i++) {
        float bound = 0x1p-8f * fabsf(job->reference[i]) + job->gamma * job->magnitude[i] + 1e-38f;
        float error = fabsf(moet_bf16_to_float(job->out[i]) - job->reference[i]) / bound;
        if (!(error <= INFINITY)) error = INFINITY; /* NaN */
        if ((double)error > part.error) part.error = (double)error;
        if (error > 1.0f) {
            part.wrong++;
            if (part.first_wrong < 0) part.first_wrong = i;
        }
        part.bits_hash += mix64((uint64_t)i << 16 | job->out[i]);
    }
    job->parts[thread] = part;
}

static moet_status host_compare(moet_ops *ops, const void *out, const float *reference, const float *magnitude,
                                int64_t count, int32_t k, void *stream, moet_comparison *result)
{
    (void)stream;
    compare_job job = {.out = out, .reference = reference, .magnitude = magnitude};
    job.gamma = (float)moet_reference_bound(k, 0, 1);
    int32_t threads = thread_count(ops, count, 65536);
    run_parallel(threads, count, compare_range, &job);
    moet_comparison all = {.first_wrong = -1};
    for (int32_t i = 0; i < threads; i++) {
        const moet_comparison *part = &job.parts[i];
        if (part->error > all.error) all.error = part->error;
        all.wrong += part->wrong;
        if (all.first_wrong < 0) all.first_wrong = part->first_wrong; /* parts are in ascending order */
        all.bits_hash += part->bits_hash;
    }
    *result = all;
    return MOET_OK;
}

/* ---- gather, copy, read ---- */

static moet_status host_gather(moet_ops *ops, const moet_problem *problem, const void *w, int32_t expert,
                               const int32_t *columns, int32_t column_count, void *gathered, void *stream)
{
    (void)ops;
    (void)stream;
    int64_t N = moet_problem_n(problem), K = moet_problem_k(problem);
    const uint16_t *from = (const uint16_t *)w + expert * N * K;
    uint16_t *to = gathered;
    for (int64_t i = 0; i < column_count; i++) {
        for (int64_t k = 0; k < K; k++)
            to[i * K + k] = problem->layout == MOET_LAYOUT_NK ? from[columns[i] * K + k] : from[k * N + columns[i]];
    }
    return MOET_OK;
}

typedef struct stream_job {
    char *to;
    const char *from;
    uint64_t *sums; /* [threads] */
} stream_job;

static void copy_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    const stream_job *job = context;
    (void)thread;
    memcpy(job->to + begin * 16, job->from + begin * 16, (size_t)(end - begin) * 16);
}

static void read_range(void *context, int32_t thread, int64_t begin, int64_t end)
{
    typedef uint64_t uint64x8 __attribute__((vector_size(64)));
    const stream_job *job = context;
    const char *from = job->from + begin * 16, *last = job->from + end * 16;
    uint64x8 sum = {0};
    for (; from + sizeof sum <= last; from += sizeof sum) {
        uint64x8 v;
        memcpy(&v, from, sizeof v);
        sum += v;
    }
    uint64_t total = 0;
    for (; from < last; from += 8) {
        uint64_t v;
        memcpy(&v, from, sizeof v);
        total += v;
    }
    for (int32_t i = 0; i < 8; i++) total += sum[i];
    job->sums[thread] = total;
}

static moet_status host_copy(moet_ops *ops, void *to, const void *from, size_t size_bytes, void *stream)
{
    (void)stream;
    int64_t items = (int64_t)(size_bytes / 16);
    stream_job job = {.to = to, .from = from};
    run_parallel(thread_count(ops, items, 65536), items, copy_range, &job);
    return MOET_OK;
}

static moet_status host_read(moet_ops *ops, void *sink, const void *from, size_t size_bytes, void *stream)
{
    (void)stream;
    int64_t items = (int64_t)(size_bytes / 16);
    stream_job job = {.from = from, .sums = sink};
    run_parallel(thread_count(ops, items, 65536), items, read_range, &job);
    return MOET_OK;
}

const moet_ops_table moet_ops_table_host = {
    .backend = "host",
    .create = host_create,
    .destroy = host_destroy,
    .random = host_random,
    .spread = host_spread,
    .mirror = host_mirror,
    .reference_gemm = host_reference_gemm,
    .compare = host_compare,
    .gather = host_gather,
    .copy = host_copy,
    .read = host_read,
};
