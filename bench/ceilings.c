/* ceilings: what the device can do at best, measured beside the subjects: a large square GEMM of the default family in
 * both weight layouts, a copy and a read. They give the roofline that efficiency refers to. */
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DENSE_KN, DENSE_NK, COPY, READ, KEPT_ROUNDS = 128 };

typedef struct dense_subject {
    moet_bench *bench;
    const moet_ceiling_set *set;
    const moet_family *family;
    void *state, *workspace;
} dense_subject;

struct moet_ceiling_set {
    moet_bench *bench;
    int32_t size;        /* of the square GEMM */
    size_t stream_bytes; /* that copy and read move */
    void *x, *w, *out, *from, *to;
    dense_subject dense[2];
    moet_runner runners[MOET_CEILING_COUNT];
    int64_t kept[MOET_CEILING_COUNT][KEPT_ROUNDS];
    int32_t kept_count, kept_next;
};

static moet_status launch_dense(void *context, int32_t set)
{
    const dense_subject *dense = context;
    (void)set;
    moet_family_launch_args args = {
        .x = dense->set->x,
        .w = dense->set->w,
        .out = dense->set->out,
        .counts = &dense->set->size,
        .rows = dense->set->size,
        .workspace = dense->workspace,
        .stream = dense->bench->stream,
    };
    return dense->family->launch(dense->state, &args);
}

static moet_status launch_copy(void *context, int32_t set)
{
    moet_ceiling_set *c = context;
    (void)set;
    return moet_ops_copy(c->bench->ops, c->to, c->from, c->stream_bytes, c->bench->stream);
}

static moet_status launch_read(void *context, int32_t set)
{
    moet_ceiling_set *c = context;
    (void)set;
    return moet_ops_read(c->bench->ops, c->bench->sink, c->from, c->stream_bytes, c->bench->stream);
}

static moet_status prepare_dense(moet_bench *bench, moet_ceiling_set *set, int32_t index, moet_layout layout)
{
    moet_device *device = bench->device;
    dense_subject *dense = &set->dense[index];
    moet_problem problem;
    moet_config config;
    moet_problem_init(&problem, MOET_OP_DOWN, 1, set->size, set->size);
    problem.layout = layout;
    MOET_TRY(moet_default_config(&problem, set->size, false, &device->info, &config));
    *dense = (dense_subject){.bench = bench, .set = set, .family = config.family};
    moet_prepare_args args = {.device = device, .problem = &problem, .config = &config, .max_rows = set->size};
    size_t workspace_bytes = config.family->workspace_bytes(&args);
    if (workspace_bytes > 0) MOET_TRY(device->backend->alloc(device, workspace_bytes, &dense->workspace));
    MOET_TRY(config.family->prepare(&args, &dense->state));
    moet_runner *runner = &set->runners[index];
    *runner = (moet_runner){.launch = launch_dense, .context = dense, .set_count = 1};
    bool capturable = config.family->traits(&problem, &config).capturable;
    MOET_TRY(launch_dense(dense, 0)); /* what is set up lazily is not captured */
    MOET_TRY(device->backend->stream_synchronize(device, bench->stream));
    return moet_runner_prepare(bench, runner, capturable, true, INFINITY);
}

static moet_status prepare_stream(moet_bench *bench, moet_ceiling_set *set, int32_t index,
                                  moet_status (*launch)(void *, int32_t))
{
    moet_runner *runner = &set->runners[index];
    *runner = (moet_runner){.launch = launch, .context = set, .set_count = 1};
    return moet_runner_prepare(bench, runner, true, true, INFINITY);
}

static moet_status allocate(moet_bench *bench, moet_ceiling_set *set)
{
    moet_device *device = bench->device;
    const moet_backend *backend = device->backend;
    bool host = device->info.cc_major == 0;
    set->size = host ? 1024 : 8192;
    set->stream_bytes = host ? (size_t)64 << 20 : (size_t)1 << 30;
    size_t free_bytes = 0;
    MOET_TRY(backend->free_bytes(device, &free_bytes));
    while (set->stream_bytes > (size_t)16 << 20 && set->stream_bytes > free_bytes / 16) set->stream_bytes /= 2;
    int64_t elements = (int64_t)set->size * set->size;
    MOET_TRY(backend->alloc(device, (size_t)elements * 2, &set->x));
    MOET_TRY(backend->alloc(device, (size_t)elements * 2, &set->w));
    MOET_TRY(backend->alloc(device, (size_t)elements * 2, &set->out));
    MOET_TRY(backend->alloc(device, set->stream_bytes, &set->from));
    MOET_TRY(backend->alloc(device, set->stream_bytes, &set->to));
    MOET_TRY(moet_ops_random(bench->ops, set->x, elements, bench->seed, 1.0f, bench->stream));
    MOET_TRY(moet_ops_random(bench->ops, set->w, elements, bench->seed + 1, 1.0f, bench->stream));
    MOET_TRY(
        moet_ops_random(bench->ops, set->from, (int64_t)(set->stream_bytes / 2), bench->seed + 2, 1.0f, bench->stream));
    MOET_TRY(moet_ops_copy(bench->ops, set->to, set->from, set->stream_bytes, bench->stream)); /* touches the pages */
    return backend->stream_synchronize(device, bench->stream);
}

static moet_status prepare_all(moet_bench *bench, moet_ceiling_set *set)
{
    MOET_TRY(allocate(bench, set));
    MOET_TRY(prepare_dense(bench, set, DENSE_KN, MOET_LAYOUT_KN));
    MOET_TRY(prepare_dense(bench, set, DENSE_NK, MOET_LAYOUT_NK));
    MOET_TRY(prepare_stream(bench, set, COPY, launch_copy));
    return prepare_stream(bench, set, READ, launch_read);
}

moet_status moet_ceiling_set_create(moet_bench *bench, moet_ceiling_set **set)
{
    moet_ceiling_set *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "ceilings: out of host memory");
    result->bench = bench;
    moet_status status = prepare_all(bench, result);
    if (status != MOET_OK) {
        status = moet_fail(status, "measuring the device's ceilings: %s", moet_last_error());
        moet_ceiling_set_destroy(bench, result);
        return status;
    }
    *set = result;
    return MOET_OK;
}

void moet_ceiling_set_destroy(moet_bench *bench, moet_ceiling_set *set)
{
    if (!set) return;
    const moet_backend *backend = bench->device->backend;
    for (int32_t i = 0; i < MOET_CEILING_COUNT; i++) moet_runner_release(bench, &set->runners[i]);
    for (int32_t i = 0; i < 2; i++) {
        if (set->dense[i].family) set->dense[i].family->release(set->dense[i].state);
        backend->free(bench->device, set->dense[i].workspace);
    }
    void *blocks[] = {set->x, set->w, set->out, set->from, set->to};
    for (int32_t i = 0; i < MOET_COUNT_OF(blocks); i++) backend->free(bench->device, blocks[i]);
    free(set);
}

moet_runner *moet_ceiling_runner(moet_ceiling_set *set, int32_t index) { return &set->runners[index]; }

void moet_ceiling_push(moet_ceiling_set *set, const int64_t times_ns[MOET_CEILING_COUNT])
{
    for (int32_t i = 0; i < MOET_CEILING_COUNT; i++) set->kept[i][set->kept_next] = times_ns[i];
    set->kept_next = (set->kept_next + 1) % KEPT_ROUNDS;
    if (set->kept_count < KEPT_ROUNDS) set->kept_count++;
}

void moet_ceiling_medians(const moet_ceiling_set *set, int64_t medians_ns[MOET_CEILING_COUNT])
{
    for (int32_t i = 0; i < MOET_CEILING_COUNT; i++) medians_ns[i] = moet_stats_median(set->kept[i], set->kept_count);
}

moet_ceiling_work moet_ceiling_set_work(const moet_ceiling_set *set)
{
    double size = set->size;
    return (moet_ceiling_work){.dense_flops = 2 * size * size * size, .stream_bytes = (double)set->stream_bytes};
}

moet_ceilings moet_ceiling_rates(const moet_ceiling_work *work, const int64_t medians_ns[MOET_CEILING_COUNT])
{
    double bytes = work->stream_bytes;
    double dense_ns = fmin((double)medians_ns[DENSE_KN], (double)medians_ns[DENSE_NK]);
    moet_ceilings rates = {0};
    if (dense_ns > 0) rates.dense_flops_per_s = work->dense_flops / (dense_ns * 1e-9);
    if (medians_ns[COPY] > 0) rates.copy_bytes_per_s = 2 * bytes / ((double)medians_ns[COPY] * 1e-9);
    if (medians_ns[READ] > 0) rates.read_bytes_per_s = bytes / ((double)medians_ns[READ] * 1e-9);
    return rates;
}

double moet_ceiling_floor_ns(const moet_ceilings *ceilings, double flops, double bytes)
{
    double memory_rate = fmax(ceilings->copy_bytes_per_s, ceilings->read_bytes_per_s);
    if (!(ceilings->dense_flops_per_s > 0) || !(memory_rate > 0)) return 0;
    return 1e9 * fmax(flops / ceilings->dense_flops_per_s, bytes / memory_rate);
}
