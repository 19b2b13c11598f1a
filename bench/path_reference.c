/* path_reference: what the result of a workload of op FFN must be. All of it is made once on the device, stage by
 * stage, and a few tokens of it are checked by the C reference's bound. Subjects are then compared with both. */
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/ffn_reference.h"
#include "../kernels/reference.h"

/* ---- a few tokens, by the C reference in double ---- */

enum { MOST_TOKENS = 4 };
static const double full_products = 1 << 23; /* M 3 H I and R H up to which every token is computed */
static const double most_products = 1 << 28; /* of the tokens beyond the first: about a second on the host */

static double products_of(const moet_buffers *b, int64_t token)
{
    int32_t local = 0;
    for (int32_t i = 0; i < b->choices.count; i++) local += b->choices.ids[token * b->choices.count + i] >= 0;
    return 3.0 * local * b->problem.hidden * b->problem.inter;
}

/* A token of the expert that has most rows; 0 where there are no rows. */
static int64_t busy_token(const moet_buffers *b)
{
    int32_t busiest = 0;
    for (int32_t e = 1; e < b->problem.experts; e++) {
        if (b->counts[e] > b->counts[busiest]) busiest = e;
    }
    for (int64_t i = 0; i < b->routing.tokens * b->choices.count; i++) {
        if (b->choices.ids[i] == busiest) return i / b->choices.count;
    }
    return 0;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* All, or one of the busiest expert, the last, the first, one by the seed: as many as can be afforded. */
static moet_status choose_tokens(const moet_bench *bench, moet_oracle *o)
{
    const moet_buffers *b = &bench->buffers;
    const int64_t R = b->routing.tokens;
    const double H = b->problem.hidden, all = 3.0 * (double)b->routing.rows * H * b->problem.inter;
    const bool full = all <= full_products && (double)R * H <= full_products;
    o->rows = malloc((size_t)(full ? R : MOST_TOKENS) * sizeof *o->rows);
    if (!o->rows) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    if (full) {
        for (int64_t t = 0; t < R; t++) o->rows[o->row_count++] = t;
        return MOET_OK;
    }
    const int64_t wanted[MOST_TOKENS] = {busy_token(b), R - 1, 0, (int64_t)(bench->seed * 0x9e3779b9u % (uint64_t)R)};
    double products = 0;
    for (int32_t i = 0; i < MOST_TOKENS; i++) {
        bool repeated = false;
        for (int32_t j = 0; j < o->row_count; j++) repeated = repeated || o->rows[j] == wanted[i];
        products += repeated ? 0 : products_of(b, wanted[i]);
        if (!repeated && (i == 0 || products <= most_products)) o->rows[o->row_count++] = wanted[i];
    }
    qsort(o->rows, (size_t)o->row_count, sizeof *o->rows, ascending);
    return MOET_OK;
}

/* The path of the oracle's tokens alone, with the experts that they need. */
typedef struct sub_path {
    moet_problem problem;
    int32_t *number; /* [E] expert's number in here, -1 absent */
    int32_t *ids;
    float *weights;
    uint16_t *x, *up, *up_bias, *down, *down_bias;
} sub_path;

static void release_sub_path(sub_path *s)
{
    void *arrays[] = {s->number, s->ids, s->weights, s->x, s->up, s->up_bias, s->down, s->down_bias};
    for (int32_t i = 0; i < MOET_COUNT_OF(arrays); i++) free(arrays[i]);
}

/* Numbers the experts in their order, which is that of the sum over a token's experts. */
static moet_status make_sub_path(const moet_buffers *b, sub_path *s)
{
    const moet_oracle *o = &b->oracle;
    const size_t k = (size_t)b->choices.count, n = (size_t)o->row_count, E = (size_t)b->problem.experts;
    const size_t H = (size_t)b->problem.hidden, I = (size_t)b->problem.inter;
    s->problem = b->problem;
    s->number = calloc(E, sizeof *s->number);
    s->ids = malloc(n * k * sizeof *s->ids);
    s->weights = malloc(n * k * sizeof *s->weights);
    if (!s->number || !s->ids || !s->weights) return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    for (size_t t = 0; t < n; t++) {
        memcpy(s->ids + t * k, b->choices.ids + (size_t)o->rows[t] * k, k * sizeof *s->ids);
        memcpy(s->weights + t * k, b->choices.weights + (size_t)o->rows[t] * k, k * sizeof *s->weights);
    }
    for (size_t i = 0; i < n * k; i++) {
        if (s->ids[i] >= 0) s->number[s->ids[i]] = 1;
    }
    int32_t experts = 0;
    for (size_t e = 0; e < E; e++) s->number[e] = s->number[e] ? experts++ : -1;
    for (size_t i = 0; i < n * k; i++) s->ids[i] = s->ids[i] >= 0 ? s->number[s->ids[i]] : -1;
    s->problem.experts = experts > 0 ? experts : 1;
    const size_t F = (size_t)s->problem.experts;
    s->x = malloc(n * H * 2);
    s->up = calloc(F * 2 * I * H, 2);
    s->up_bias = calloc(F * 2 * I, 2);
    s->down = calloc(F * H * I, 2);
    s->down_bias = calloc(F * H, 2);
    if (!s->x || !s->up || !s->up_bias || !s->down || !s->down_bias)
        return moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    return MOET_OK;
}

static moet_status fetch_sub_path(moet_bench *bench, const sub_path *s)
{
    const moet_buffers *b = &bench->buffers;
    const moet_buffer_set *set = &b->sets[0];
    const size_t H = (size_t)b->problem.hidden, I = (size_t)b->problem.inter;
    const struct {
        uint16_t *to;
        const void *from; /* NULL: the problem has none */
        size_t elements;  /* of an expert */
    } arrays[] = {{s->up, set->w, 2 * I * H},
                  {s->up_bias, set->bias, 2 * I},
                  {s->down, set->down, H * I},
                  {s->down_bias, set->down_bias, H}};
    for (int32_t e = 0; e < b->problem.experts; e++) {
        for (int32_t i = 0; s->number[e] >= 0 && i < MOET_COUNT_OF(arrays); i++) {
            if (!arrays[i].from) continue;
            MOET_TRY(bench->device->backend->download(
                bench->device, arrays[i].to + (size_t)s->number[e] * arrays[i].elements,
                (const uint16_t *)arrays[i].from + (size_t)e * arrays[i].elements, arrays[i].elements * 2));
        }
    }
    for (int32_t t = 0; t < b->oracle.row_count; t++)
        MOET_TRY(bench->device->backend->download(bench->device, s->x + (size_t)t * H,
                                                  (const uint16_t *)set->x + (size_t)b->oracle.rows[t] * H, H * 2));
    return MOET_OK;
}

static moet_status make_oracle(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_oracle *o = &b->oracle;
    sub_path s = {0};
    moet_status status = choose_tokens(bench, o);
    if (status == MOET_OK) status = make_sub_path(b, &s);
    if (status == MOET_OK) status = fetch_sub_path(bench, &s);
    if (status != MOET_OK) goto done;
    const size_t elements = (size_t)o->row_count * (size_t)b->problem.hidden;
    o->column_count = b->problem.hidden;
    o->columns = malloc((size_t)o->column_count * sizeof *o->columns);
    o->expected = malloc(elements * sizeof *o->expected);
    o->bound = malloc(elements * sizeof *o->bound);
    if (!o->columns || !o->expected || !o->bound) {
        status = moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
        goto done;
    }
    for (int32_t c = 0; c < o->column_count; c++) o->columns[c] = c;
    const moet_ffn_args args = {.x = s.x,
                                .ids = s.ids,
                                .weights = s.weights,
                                .up = s.up,
                                .up_bias = s.up_bias,
                                .down = s.down,
                                .down_bias = s.down_bias,
                                .tokens = o->row_count};
    s.problem.numerics = MOET_NUMERICS_TRAIN; /* fast may round where train does */
    status = moet_reference_ffn_double(&s.problem, b->choices.count, &args, o->expected, o->bound);
done:
    release_sub_path(&s);
    return status;
}

/* ---- all tokens, on the device ---- */

enum { UP, DOWN, GEMM_COUNT };
static const moet_op ops[GEMM_COUNT] = {[UP] = MOET_OP_UP, [DOWN] = MOET_OP_DOWN};

/* The states of a path's stages and of its two GEMMs by themselves, and the memory between them. */
typedef struct stages {
    const moet_family *family;
    moet_config config, gemm_configs[GEMM_COUNT];
    moet_problem gemm_problems[GEMM_COUNT];
    void *state, *gemms[GEMM_COUNT];
    bool device_counts;
    moet_permuted permuted;
    void *up, *act, *workspace, *gemm_workspace;
    void *block; /* all of these */
} stages;

/* The last path family that applies, by its default: the fastest come first, and checking them by another's kernels
 * tells more. */
static moet_status find_family(const moet_bench *bench, stages *s)
{
    const moet_buffers *b = &bench->buffers;
    const moet_device_info *info = &bench->device->info;
    char why[MOET_REASON_SIZE] = "this build has none";
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *family = moet_families[i];
        moet_config config = {.family = family};
        if (strcmp(family->backend, info->backend) != 0 || !moet_family_serves(family, MOET_OP_FFN)) continue;
        family->default_config(&b->problem, b->routing.rows, info, &config);
        if (!family->applicable(&b->problem, &config, info, why)) continue;
        s->family = family;
        s->config = config;
    }
    if (s->family) return MOET_OK;
    return moet_fail(MOET_UNSUPPORTED, "no kernel family of op ffn runs on %s: %s", info->name, why);
}

static size_t put(size_t *end, size_t bytes)
{
    const size_t start = *end;
    *end += (bytes + 255) / 256 * 256;
    return start;
}

static moet_status prepare_stages(moet_bench *bench, stages *s)
{
    const moet_buffers *b = &bench->buffers;
    const size_t M = (size_t)b->routing.rows, R = (size_t)b->routing.tokens, E = (size_t)b->problem.experts;
    const size_t H = (size_t)b->problem.hidden, I = (size_t)b->problem.inter, k = (size_t)b->choices.count;
    size_t end = 0, gemm_bytes = 0;
    moet_prepare_args args = {.device = bench->device,
                              .problem = &b->problem,
                              .config = &s->config,
                              .max_rows = M > 0 ? (int64_t)M : 1,
                              .max_tokens = (int64_t)R,
                              .choices = b->choices.count,
                              .device_counts = s->family->traits(&b->problem, &s->config).device_counts};
    s->device_counts = args.device_counts;
    MOET_TRY(s->family->prepare(&args, &s->state));
    const size_t x = put(&end, M * H * 2), up = put(&end, M * 2 * I * 2), act = put(&end, M * I * 2);
    const size_t counts = put(&end, E * 4), places = put(&end, R * (k < E ? k : E) * 4), source = put(&end, M * 4);
    const size_t prob = put(&end, M * 4), workspace = put(&end, s->family->workspace_bytes(&args));
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        s->gemm_problems[i] = moet_problem_gemm(&b->problem, ops[i]);
        s->gemm_configs[i] = (moet_config){.family = s->family->gemm};
        s->family->gemm->default_config(&s->gemm_problems[i], b->routing.rows, &bench->device->info,
                                        &s->gemm_configs[i]);
        args.problem = &s->gemm_problems[i];
        args.config = &s->gemm_configs[i];
        args.max_tokens = args.choices = 0;
        MOET_TRY(s->family->gemm->prepare(&args, &s->gemms[i]));
        const size_t bytes = s->family->gemm->workspace_bytes(&args);
        gemm_bytes = bytes > gemm_bytes ? bytes : gemm_bytes;
    }
    const size_t gemm_workspace = put(&end, gemm_bytes);
    MOET_TRY(bench->device->backend->alloc(bench->device, end + 255, &s->block));
    char *block = (char *)s->block + (-(uintptr_t)s->block & 255);
    s->permuted = (moet_permuted){.counts = (int32_t *)(void *)(block + counts),
                                  .places = (int32_t *)(void *)(block + places),
                                  .source = (int32_t *)(void *)(block + source),
                                  .prob = (float *)(void *)(block + prob),
                                  .x = block + x};
    s->up = block + up;
    s->act = block + act;
    s->workspace = block + workspace;
    s->gemm_workspace = gemm_bytes ? block + gemm_workspace : NULL;
    return MOET_OK;
}

static void release_stages(moet_bench *bench, stages *s)
{
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        if (s->gemms[i]) s->family->gemm->release(s->gemms[i]);
    }
    if (s->state) s->family->release(s->state);
    bench->device->backend->free(bench->device, s->block);
}

static moet_status run_gemm(const moet_bench *bench, const stages *s, int32_t which, const void *x, void *out)
{
    const moet_buffers *b = &bench->buffers;
    const moet_buffer_set *set = &b->sets[0];
    const moet_family_launch_args args = {.x = x,
                                          .w = which == UP ? set->w : set->down,
                                          .bias = which == UP ? set->bias : set->down_bias,
                                          .out = out,
                                          .counts = s->device_counts ? s->permuted.counts : b->counts,
                                          .counts_on_device = s->device_counts,
                                          .rows = b->routing.rows,
                                          .workspace = s->gemm_workspace,
                                          .stream = bench->stream};
    return s->family->gemm->launch(s->gemms[which], &args);
}

/* Set 0's output. */
static moet_status run_stages(moet_bench *bench, const stages *s)
{
    const moet_buffers *b = &bench->buffers;
    const moet_ffn_args args = moet_path_args(bench, 0, s->device_counts);
    MOET_TRY(s->family->permute(s->state, &args, &s->permuted, s->workspace));
    if (b->routing.rows > 0) {
        MOET_TRY(run_gemm(bench, s, UP, s->permuted.x, s->up));
        MOET_TRY(s->family->activate(s->state, s->up, &s->permuted, s->act, bench->stream));
        MOET_TRY(run_gemm(bench, s, DOWN, s->act, s->permuted.x));
    }
    MOET_TRY(s->family->unpermute(s->state, &args, s->permuted.x, &s->permuted));
    return bench->device->backend->stream_synchronize(bench->device, bench->stream);
}

/* Other bits than the reference's are right within 2^-8 |ref| + 2^-6 of the row's root mean square. Paths round at the
 * same places, but where their sums differ by a bit, so do roundings of activations: each is off by at most 2^-9 of
 * itself, and these add up in a result as a random walk, to about 2^-9 of the row's rms; the worst of 10^8 elements is
 * six times that. A lost product of I = 2048 is about 2^-5.5. In the form of the GEMMs' bound: a magnitude. */
static moet_status keep_reference(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_device *device = bench->device;
    enum { CHUNK = 64 };
    const int64_t R = b->routing.tokens, H = b->problem.hidden;
    const double unit = moet_reference_bound(moet_problem_k(&b->problem), 0, 1);
    uint16_t *bits = malloc((size_t)H * CHUNK * sizeof *bits);
    float *values = malloc((size_t)H * CHUNK * sizeof *values),
          *magnitude = malloc((size_t)H * CHUNK * sizeof *magnitude);
    moet_status status = MOET_OK;
    if (!bits || !values || !magnitude) status = moet_fail(MOET_NO_MEMORY, "verification: out of host memory");
    for (int64_t t = 0; t < R && status == MOET_OK; t += CHUNK) {
        const int64_t rows = R - t < CHUNK ? R - t : CHUNK;
        status =
            device->backend->download(device, bits, (const uint16_t *)b->sets[0].out + t * H, (size_t)(rows * H) * 2);
        for (int64_t r = 0; r < rows; r++) {
            double squares = 0;
            for (int64_t i = r * H; i < (r + 1) * H; i++) {
                values[i] = moet_bf16_to_float(bits[i]);
                squares += (double)values[i] * (double)values[i];
            }
            const float rms = (float)(0x1p-6 * sqrt(squares / (double)H) / unit);
            for (int64_t i = r * H; i < (r + 1) * H; i++) magnitude[i] = rms;
        }
        const size_t size_bytes = (size_t)(rows * H) * sizeof *values;
        if (status == MOET_OK) status = device->backend->upload(device, b->reference + t * H, values, size_bytes);
        if (status == MOET_OK) status = device->backend->upload(device, b->magnitude + t * H, magnitude, size_bytes);
    }
    free(bits);
    free(values);
    free(magnitude);
    return status;
}

static moet_status check_reference(moet_bench *bench, const stages *s)
{
    moet_finding worst;
    MOET_TRY(moet_oracle_check(bench, bench->buffers.sets[0].out, &worst));
    if (worst.error > 1)
        return moet_fail(MOET_WRONG,
                         "the stages of %s and the C reference disagree at token %lld, column %d: %.9g and %.9g +- "
                         "%.2g; op ffn cannot be verified on this device",
                         s->family->name, (long long)worst.row, worst.column, worst.got, worst.expected, worst.bound);
    return MOET_OK;
}

moet_status moet_path_reference(moet_bench *bench)
{
    stages s = {0};
    if (bench->buffers.routing.tokens == 0) return MOET_OK;
    moet_status status = find_family(bench, &s);
    if (status == MOET_OK) status = prepare_stages(bench, &s);
    if (status == MOET_OK) status = run_stages(bench, &s);
    if (status == MOET_OK) status = make_oracle(bench);
    if (status == MOET_OK) status = check_reference(bench, &s);
    if (status == MOET_OK) status = keep_reference(bench);
    release_stages(bench, &s);
    return status;
}
