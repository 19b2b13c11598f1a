/* buffers: a workload's memory and inputs. Sets differ in address; x differs in value too. Set 0 is the one that is
 * checked. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

enum { X_SEED = 1, W_SEED = 101, BIAS_SEED = 201, DOWN_SEED = 401, DOWN_BIAS_SEED = 501 };
static const float w_scale = 0.02f;

/* ---- workspace ---- */

moet_status moet_bench_workspace(moet_bench *bench, size_t size_bytes, void **workspace)
{
    if (size_bytes == 0) {
        *workspace = NULL;
        return MOET_OK;
    }
    if (size_bytes > bench->workspace_bytes) {
        if (bench->workspace_count == bench->workspace_capacity) {
            int32_t capacity = bench->workspace_capacity ? 2 * bench->workspace_capacity : 8;
            void **grown = realloc(bench->workspaces, (size_t)capacity * sizeof *grown);
            if (!grown) return moet_fail(MOET_NO_MEMORY, "workspace: out of host memory");
            bench->workspaces = grown;
            bench->workspace_capacity = capacity;
        }
        /* At least half as much again, so that a rising series of sizes does not add up. */
        size_t grown_bytes = bench->workspace_bytes + bench->workspace_bytes / 2;
        size_t wanted = (size_bytes > grown_bytes ? size_bytes : grown_bytes) + 255;
        void *block;
        MOET_TRY(bench->device->backend->alloc(bench->device, wanted, &block));
        bench->workspaces[bench->workspace_count++] = block;
        bench->workspace_bytes = wanted - 255;
    }
    uintptr_t address = (uintptr_t)bench->workspaces[bench->workspace_count - 1];
    *workspace = (char *)bench->workspaces[bench->workspace_count - 1] + (-address & 255);
    return MOET_OK;
}

moet_status moet_bench_scribble_workspace(moet_bench *bench, uint8_t byte)
{
    if (bench->workspace_count == 0) return MOET_OK;
    return bench->device->backend->fill(bench->device, bench->workspaces[bench->workspace_count - 1], byte,
                                        bench->workspace_bytes);
}

void moet_bench_release_workspaces(moet_bench *bench)
{
    for (int32_t i = 0; i < bench->workspace_count; i++)
        bench->device->backend->free(bench->device, bench->workspaces[i]);
    bench->workspace_count = 0;
    bench->workspace_bytes = 0;
}

/* ---- buffers ---- */

static void release_weights(moet_bench *bench, int32_t first_set)
{
    for (int32_t s = first_set; s < MOET_MAX_SETS; s++) {
        moet_buffer_set *set = &bench->buffers.sets[s];
        bench->device->backend->free(bench->device, set->w);
        bench->device->backend->free(bench->device, set->bias);
        bench->device->backend->free(bench->device, set->down);
        bench->device->backend->free(bench->device, set->down_bias);
        set->w = set->bias = set->down = set->down_bias = NULL;
    }
}

/* What depends on the rows. */
static void release_rows(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    const moet_backend *backend = bench->device->backend;
    for (int32_t s = 0; s < MOET_MAX_SETS; s++) {
        backend->free(bench->device, b->sets[s].x);
        backend->free(bench->device, b->sets[s].out_block);
        b->sets[s].x = b->sets[s].out = b->sets[s].out_block = NULL;
    }
    backend->free(bench->device, b->sets[MOET_SPREAD_SET].x);
    b->sets[MOET_SPREAD_SET] = (moet_buffer_set){0};
    backend->free(bench->device, b->device_counts);
    backend->free(bench->device, b->reference);
    backend->free(bench->device, b->magnitude);
    b->device_counts = NULL;
    b->reference = b->magnitude = NULL;
    free(b->counts);
    b->counts = NULL;
    moet_oracle_release(&b->oracle);
    moet_path_choices_release(bench);
}

void moet_buffers_release(moet_bench *bench)
{
    release_rows(bench);
    release_weights(bench, 0);
    bench->buffers = (moet_buffers){0};
}

/* Sets wanted, as peers measure: weights of all sets together far larger than the caches, within 24 GB for the layer's
 * three matrices. */
static int32_t wanted_sets(const moet_bench *bench, const moet_problem *problem, size_t w_bytes)
{
    if (bench->device->info.cc_major == 0) return w_bytes > (size_t)64 << 20 ? 2 : MOET_MAX_SETS;
    double sets = 24e9 / (6.0 * problem->experts * (double)problem->hidden * problem->inter);
    return sets < 2 ? 2 : sets > MOET_MAX_SETS ? MOET_MAX_SETS : (int32_t)sets;
}

static bool same_weights(const moet_problem *a, const moet_problem *b)
{
    const bool path = a->op == MOET_OP_FFN;
    if (path != (b->op == MOET_OP_FFN) || (path && (a->inter != b->inter || a->down_bias != b->down_bias)))
        return false;
    return a->experts == b->experts && moet_problem_n(a) == moet_problem_n(b) &&
           moet_problem_k(a) == moet_problem_k(b) && a->bias == b->bias && a->layout == b->layout;
}

static void size_buffers(moet_buffers *b)
{
    size_t M = (size_t)b->routing.rows, E = (size_t)b->problem.experts;
    size_t N = (size_t)moet_problem_n(&b->problem), K = (size_t)moet_problem_k(&b->problem);
    if (b->problem.op == MOET_OP_FFN) {
        size_t R = (size_t)b->routing.tokens, H = N, I = (size_t)b->problem.inter;
        b->x_bytes = b->out_bytes = R * H * 2;
        b->w_bytes = E * 2 * I * H * 2;
        b->bias_bytes = b->problem.bias ? E * 2 * I * 2 : 0;
        b->down_bytes = E * H * I * 2;
        b->down_bias_bytes = b->problem.down_bias ? E * H * 2 : 0;
        b->guard_bytes = 256 * H * 2;
        return;
    }
    b->down_bytes = b->down_bias_bytes = 0;
    b->x_bytes = M * K * 2;
    b->w_bytes = E * N * K * 2;
    b->bias_bytes = b->problem.bias ? E * N * 2 : 0;
    b->out_bytes = M * N * 2;
    b->guard_bytes = 256 * N * 2; /* a whole tile of rows too many */
}

/* Chooses set_count by what fits; NO_DEVICE_MEMORY says what was needed. */
static moet_status fit_sets(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    size_t weight_bytes = b->w_bytes + b->bias_bytes + b->down_bytes + b->down_bias_bytes;
    size_t set_bytes = weight_bytes + b->x_bytes + b->out_bytes + b->guard_bytes;
    size_t other_bytes = b->out_bytes * 4 + b->x_bytes;                     /* reference and magnitude, fp32; spread x */
    if (bench->device->info.cc_major > 0) other_bytes += (size_t)256 << 20; /* workspaces, kernels, graphs */
    if (b->problem.op == MOET_OP_FFN) /* what a path has between its passes, twice while the reference is made */
        other_bytes += (size_t)b->routing.rows * 2 * (2 * (size_t)b->problem.hidden + 6 * (size_t)b->problem.inter);
    size_t available = 0;
    MOET_TRY(bench->device->backend->free_bytes(bench->device, &available));
    for (int32_t s = 0; s < MOET_MAX_SETS; s++) {
        if (b->sets[s].w) available += weight_bytes;
    }
    int32_t sets = wanted_sets(bench, &b->problem, b->w_bytes);
    while (sets > 2 && other_bytes + set_bytes * (size_t)sets > available) sets--;
    size_t needed = other_bytes + set_bytes * (size_t)sets;
    if (needed > available)
        return moet_fail(
            MOET_NO_DEVICE_MEMORY,
            "the workload (%d experts, N %d, K %d, %lld rows) needs %.2f GiB of device memory and %.2f GiB "
            "are free: free memory, or take fewer experts or rows",
            b->problem.experts, moet_problem_n(&b->problem), moet_problem_k(&b->problem), (long long)b->routing.rows,
            (double)needed / (1 << 30), (double)available / (1 << 30));
    b->set_count = sets;
    return MOET_OK;
}

/* An array of random values; `first`: of set 0, which others copy. */
static moet_status make_array(moet_bench *bench, void *const *first, size_t size_bytes, uint64_t seed, float scale,
                              void **array)
{
    if (size_bytes == 0) return MOET_OK;
    MOET_TRY(bench->device->backend->alloc(bench->device, size_bytes, array));
    if (array != first) return moet_ops_copy(bench->ops, *array, *first, size_bytes, bench->stream);
    return moet_ops_random(bench->ops, *array, (int64_t)(size_bytes / 2), bench->seed + seed, scale, bench->stream);
}

static moet_status make_weights(moet_bench *bench, moet_buffer_set *set)
{
    moet_buffers *b = &bench->buffers;
    moet_buffer_set *first = &b->sets[0];
    if (set->w) return MOET_OK;
    MOET_TRY(make_array(bench, &first->w, b->w_bytes, W_SEED, w_scale, &set->w));
    if (set == first && set->w) {
        const moet_problem gemm = b->problem.op == MOET_OP_FFN ? moet_problem_gemm(&b->problem, MOET_OP_UP) : b->problem;
        MOET_TRY(moet_ops_mirror(bench->ops, &gemm, set->w, bench->stream));
    }
    MOET_TRY(make_array(bench, &first->bias, b->bias_bytes, BIAS_SEED, 1.0f, &set->bias));
    MOET_TRY(make_array(bench, &first->down, b->down_bytes, DOWN_SEED, w_scale, &set->down));
    return make_array(bench, &first->down_bias, b->down_bias_bytes, DOWN_BIAS_SEED, 1.0f, &set->down_bias);
}

static moet_status make_set(moet_bench *bench, int32_t index)
{
    moet_buffers *b = &bench->buffers;
    moet_buffer_set *set = &b->sets[index];
    moet_device *device = bench->device;
    MOET_TRY(make_weights(bench, set));
    if (b->x_bytes) MOET_TRY(device->backend->alloc(device, b->x_bytes, &set->x));
    size_t block_bytes = MOET_FRONT_GUARD_BYTES + b->out_bytes + b->guard_bytes;
    MOET_TRY(device->backend->alloc(device, block_bytes, &set->out_block));
    set->out = (char *)set->out_block + MOET_FRONT_GUARD_BYTES;
    MOET_TRY(device->backend->fill(device, set->out_block, MOET_POISON, block_bytes));
    return moet_ops_random(bench->ops, set->x, (int64_t)(b->x_bytes / 2), bench->seed + X_SEED + (uint64_t)index, 1.0f,
                           bench->stream);
}

static moet_status make_spread_set(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_buffer_set *set = &b->sets[MOET_SPREAD_SET];
    const int64_t k = b->problem.op == MOET_OP_FFN ? b->problem.hidden : moet_problem_k(&b->problem);
    if (b->x_bytes == 0) return MOET_OK;
    *set = b->sets[0];
    set->x = NULL;
    MOET_TRY(bench->device->backend->alloc(bench->device, b->x_bytes, &set->x));
    return moet_ops_spread(bench->ops, set->x, b->sets[0].x, (int64_t)b->x_bytes / (2 * k), (int32_t)k, bench->seed,
                           bench->stream);
}

static moet_status make_reference(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_device *device = bench->device;
    if (b->out_bytes) {
        MOET_TRY(device->backend->alloc(device, b->out_bytes * 2, (void **)&b->reference));
        MOET_TRY(device->backend->alloc(device, b->out_bytes * 2, (void **)&b->magnitude));
    }
    if (b->problem.op == MOET_OP_FFN) {
        MOET_TRY(device->backend->stream_synchronize(device, bench->stream));
        return moet_path_reference(bench);
    }
    MOET_TRY(moet_ops_reference_gemm(bench->ops, &b->problem, b->sets[0].x, b->sets[0].w, b->sets[0].bias,
                                     b->device_counts, b->routing.rows, b->reference, b->magnitude, bench->stream));
    MOET_TRY(device->backend->stream_synchronize(device, bench->stream));
    return moet_oracle_create(bench);
}

static moet_status make_all(moet_bench *bench, const int32_t *counts)
{
    moet_buffers *b = &bench->buffers;
    moet_device *device = bench->device;
    size_t counts_bytes = (size_t)b->problem.experts * sizeof *counts;
    size_buffers(b);
    MOET_TRY(fit_sets(bench));
    release_weights(bench, b->set_count);
    b->counts = malloc(counts_bytes);
    if (!b->counts) return moet_fail(MOET_NO_MEMORY, "workload: out of host memory");
    memcpy(b->counts, counts, counts_bytes);
    MOET_TRY(device->backend->alloc(device, counts_bytes, (void **)&b->device_counts));
    MOET_TRY(device->backend->upload(device, b->device_counts, counts, counts_bytes));
    for (int32_t s = 0; s < b->set_count; s++) MOET_TRY(make_set(bench, s));
    MOET_TRY(make_spread_set(bench));
    if (b->problem.op == MOET_OP_FFN) MOET_TRY(moet_path_choices_create(bench));
    return make_reference(bench);
}

moet_status moet_buffers_set(moet_bench *bench, const moet_problem *problem, const int32_t *counts, int64_t tokens)
{
    moet_buffers *b = &bench->buffers;
    release_rows(bench);
    if (b->sets[0].w && !same_weights(&b->problem, problem)) release_weights(bench, 0);
    b->problem = *problem;
    moet_status status = moet_routing_summarize(counts, problem->experts, &b->routing);
    if (status == MOET_OK && problem->op == MOET_OP_FFN) {
        if (tokens != 0) b->routing.tokens = tokens;
        status = moet_path_check(&b->routing, &b->choices.count);
    }
    if (status == MOET_OK) status = make_all(bench, counts);
    if (status != MOET_OK) moet_buffers_release(bench);
    return status;
}
