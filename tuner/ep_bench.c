/* ep_bench: see ep_bench.h. A sample is one replay of one call's graph: ranks meet on the host, each device spins for
 * the others' launches to get there and meets them in an untimed dispatch of another, tiny layer (one of its own would
 * leave rows in the caches), then the graph is timed by events. A round takes every graph once, in an order that all
 * ranks draw alike; its time is the slowest rank's. */
#include "ep_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../bench/bench.h"
#include "../kernels/reference.h"
#include "ep_ids.h"
#include "random.h"

/* So many tokens that each rank hears from each in all transports. */
enum { WARM_ROUNDS = 3, SPIN_CYCLES = 500000, MEETING_TOKENS = 64 };

const moet_output_column moet_ep_columns[MOET_EP_COLUMNS] = {
    {"name", MOET_OUTPUT_TEXT, 0},         {"ranks", MOET_OUTPUT_INTEGER, 0},
    {"tokens", MOET_OUTPUT_INTEGER, 0},    {"skew", MOET_OUTPUT_TEXT, 0},
    {"peer", MOET_OUTPUT_TEXT, 0},         {"returns", MOET_OUTPUT_TEXT, 0},
    {"chunks", MOET_OUTPUT_INTEGER, 0},    {"comm_sms", MOET_OUTPUT_INTEGER, 0},
    {"dispatch_us", MOET_OUTPUT_REAL, 1},  {"rate_gbs", MOET_OUTPUT_REAL, 1},
    {"combine_us", MOET_OUTPUT_REAL, 1},   {"combine_gbs", MOET_OUTPUT_REAL, 1},
    {"experts_us", MOET_OUTPUT_REAL, 1},   {"layer_us", MOET_OUTPUT_REAL, 1},
    {"layer_iqr_us", MOET_OUTPUT_REAL, 1}, {"layer_over_max", MOET_OUTPUT_REAL, 3},
    {"graph", MOET_OUTPUT_BOOL, 0},        {"same_bits", MOET_OUTPUT_BOOL, 0},
    {"config", MOET_OUTPUT_TEXT, 0},
};

moet_status moet_ep_bench_open(moet_ep_bench *bench, moet_handle *handle)
{
    const moet_backend *backend = handle->device->backend;
    bench->handle = handle;
    MOET_TRY(moet_ops_create(handle->device, &bench->ops));
    MOET_TRY(backend->stream_create(handle->device, &bench->stream));
    MOET_TRY(backend->event_create(handle->device, &bench->begin));
    return backend->event_create(handle->device, &bench->end);
}

void moet_ep_bench_close(moet_ep_bench *bench)
{
    if (!bench->handle) return;
    const moet_backend *backend = bench->handle->device->backend;
    moet_ops_destroy(bench->ops);
    if (bench->stream) backend->stream_destroy(bench->handle->device, bench->stream);
    if (bench->begin) backend->event_destroy(bench->handle->device, bench->begin);
    if (bench->end) backend->event_destroy(bench->handle->device, bench->end);
}

/* ---- inputs ---- */

/* A rank's tensors, and what is counted of its routing. */
typedef struct inputs {
    void *x, *ids, *weights, *up, *down, *out;
    int32_t *host_ids;  /* [T, k] */
    int64_t *sent_rows; /* [ranks] rows, and their pairs, for each rank */
    int64_t *sent_pairs;
} inputs;

static moet_status make_ids(const moet_ep_bench *bench, const moet_ep_shape *p, inputs *in)
{
    const int32_t k = p->choices, local = p->experts / bench->as.ranks;
    MOET_TRY(bench->ids_dir ? moet_ep_ids_read(bench->ids_dir, p, bench->as.rank, bench->as.ranks, in->host_ids)
                            : moet_ep_ids_draw(p, bench->as.rank, in->host_ids));
    for (int64_t t = 0; t < p->tokens; t++) {
        const int32_t *ids = in->host_ids + t * k;
        for (int32_t c = 0; c < k; c++) {
            bool is_new = true;
            if (ids[c] < 0) continue;
            for (int32_t j = 0; j < c; j++) is_new = is_new && (ids[j] < 0 || ids[j] / local != ids[c] / local);
            in->sent_rows[ids[c] / local] += is_new;
            in->sent_pairs[ids[c] / local]++;
        }
    }
    return MOET_OK;
}

static void inputs_free(const moet_ep_bench *bench, inputs *in)
{
    moet_device *device = bench->handle->device;
    void *const memory[] = {in->x, in->ids, in->weights, in->up, in->down, in->out};
    for (int32_t i = 0; i < MOET_COUNT_OF(memory); i++) device->backend->free(device, memory[i]);
    free(in->host_ids);
    free(in->sent_rows);
    free(in->sent_pairs);
}

/* Experts first to first + count - 1, each from a seed of its own, so that any rank can make any. */
static moet_status make_experts(const moet_ep_bench *bench, const moet_ep_shape *p, int32_t first, int32_t count,
                                void **up, void **down)
{
    moet_device *device = bench->handle->device;
    const int64_t up_count = 2 * (int64_t)p->inter * p->hidden, down_count = (int64_t)p->inter * p->hidden;
    *up = *down = NULL;
    MOET_TRY(device->backend->alloc(device, (size_t)(count * up_count) * 2, up));
    MOET_TRY(device->backend->alloc(device, (size_t)(count * down_count) * 2, down));
    for (int32_t e = 0; e < count; e++) {
        const uint64_t seed = 2 * (uint64_t)(first + e) + 1000;
        MOET_TRY(moet_ops_random(bench->ops, (uint16_t *)*up + e * up_count, up_count, seed, 0.02f, bench->stream));
        MOET_TRY(moet_ops_random(bench->ops, (uint16_t *)*down + e * down_count, down_count, seed + 1, 0.02f,
                                 bench->stream));
    }
    return MOET_OK;
}

static moet_status make_inputs(const moet_ep_bench *bench, const moet_ep_shape *p, inputs *in)
{
    moet_device *device = bench->handle->device;
    const moet_backend *backend = device->backend;
    const int32_t local = p->experts / bench->as.ranks;
    const size_t T = (size_t)p->tokens, k = (size_t)p->choices, row_bytes = (size_t)p->hidden * 2;
    uint64_t random = 7 + (uint64_t)bench->as.rank;
    in->host_ids = malloc(T * k * sizeof *in->host_ids + 1);
    in->sent_rows = calloc((size_t)bench->as.ranks, sizeof *in->sent_rows);
    in->sent_pairs = calloc((size_t)bench->as.ranks, sizeof *in->sent_pairs);
    float *weights = malloc(T * k * sizeof *weights + 1);
    moet_status status = in->host_ids && in->sent_rows && in->sent_pairs && weights
                             ? make_ids(bench, p, in)
                             : moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (size_t i = 0; i < T * k && weights; i++) weights[i] = (float)moet_random_uniform(&random);
    if (status == MOET_OK) status = backend->alloc(device, T * row_bytes, &in->x);
    if (status == MOET_OK) status = backend->alloc(device, T * row_bytes, &in->out);
    if (status == MOET_OK) status = backend->alloc(device, T * k * 4, &in->ids);
    if (status == MOET_OK) status = backend->alloc(device, T * k * 4, &in->weights);
    if (status == MOET_OK) status = backend->upload(device, in->ids, in->host_ids, T * k * 4);
    if (status == MOET_OK) status = backend->upload(device, in->weights, weights, T * k * 4);
    if (status == MOET_OK)
        status =
            moet_ops_random(bench->ops, in->x, p->tokens * p->hidden, 3 + (uint64_t)bench->as.rank, 1, bench->stream);
    if (status == MOET_OK) status = make_experts(bench, p, bench->as.rank * local, local, &in->up, &in->down);
    free(weights);
    return status;
}

static moet_ep_args args_of(const moet_ep_bench *bench, const moet_ep_shape *p, const inputs *in)
{
    return (moet_ep_args){.x = in->x,
                          .ids = in->ids,
                          .weights = in->weights,
                          .up = in->up,
                          .down = in->down,
                          .out = in->out,
                          .tokens = p->tokens,
                          .stream = bench->stream};
}

/* swiglu with the weights in advance, as bench/peers/ep.py has it. */
moet_problem moet_ep_bench_problem(const moet_ep_bench *bench, const moet_ep_shape *p)
{
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_FFN, p->experts, p->hidden, p->inter);
    problem.prob = MOET_PROB_ADVANCE;
    problem.numerics = bench->numerics;
    return problem;
}

/* ---- the layer against one rank ---- */

/* moet_ffn of a group of experts on this rank's tokens, to host memory. */
static moet_status run_group(const moet_ep_bench *bench, const moet_ep_shape *p, const inputs *in, int32_t first,
                             int32_t count, uint16_t *result)
{
    moet_device *device = bench->handle->device;
    const moet_backend *backend = device->backend;
    const size_t choices = (size_t)(p->tokens * p->choices);
    const moet_plan_options options = {.max_tokens = p->tokens, .choices = p->choices, .device_counts = true};
    moet_problem problem = moet_ep_bench_problem(bench, p);
    moet_plan *plan = NULL;
    void *ids = NULL, *up = NULL, *down = NULL, *out = NULL;
    int32_t *local = malloc(choices * sizeof *local + 1);
    if (!local) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (size_t i = 0; i < choices; i++) {
        const int32_t id = in->host_ids[i] - first;
        local[i] = id >= 0 && id < count ? id : -1;
    }
    problem.experts = count;
    moet_status status = backend->alloc(device, choices * 4, &ids);
    if (status == MOET_OK) status = backend->alloc(device, (size_t)(p->tokens * p->hidden) * 2, &out);
    if (status == MOET_OK) status = backend->upload(device, ids, local, choices * 4);
    if (status == MOET_OK) status = make_experts(bench, p, first, count, &up, &down);
    if (status == MOET_OK) status = moet_plan_create(bench->handle, &problem, &options, &plan);
    if (status == MOET_OK) {
        const moet_ffn_args args = {.x = in->x,
                                    .ids = ids,
                                    .weights = in->weights,
                                    .up = up,
                                    .down = down,
                                    .out = out,
                                    .tokens = p->tokens,
                                    .stream = bench->stream};
        status = moet_ffn(plan, &args);
    }
    if (status == MOET_OK) status = backend->stream_synchronize(device, bench->stream);
    if (status == MOET_OK) status = backend->download(device, result, out, (size_t)(p->tokens * p->hidden) * 2);
    moet_plan_destroy(plan);
    void *const memory[] = {ids, up, down, out};
    for (int32_t i = 0; i < MOET_COUNT_OF(memory); i++) backend->free(device, memory[i]);
    free(local);
    return status;
}

/* What the layer must give, in host memory: moet_ep_returns says how. */
static moet_status expect(const moet_ep_bench *bench, const moet_ep_shape *p, const inputs *in, moet_ep_returns returns,
                          uint16_t *want)
{
    const int32_t ranks = bench->as.ranks, local = p->experts / ranks;
    const int64_t H = p->hidden;
    if (returns == MOET_EP_RETURNS_ROWS) return run_group(bench, p, in, 0, p->experts, want);
    const size_t elements = (size_t)(p->tokens * H);
    uint16_t *group = malloc(elements * 2 + 1);
    float *sums = calloc(elements + 1, sizeof *sums);
    int32_t *parts = calloc((size_t)p->tokens + 1, sizeof *parts);
    moet_status status = group && sums && parts ? MOET_OK : moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (int32_t q = 0; q < ranks && status == MOET_OK; q++) {
        status = run_group(bench, p, in, q * local, local, group);
        for (int64_t t = 0; t < p->tokens && status == MOET_OK; t++) {
            bool is_there = false;
            for (int32_t c = 0; c < p->choices; c++) {
                const int32_t id = in->host_ids[t * p->choices + c];
                is_there = is_there || (id >= 0 && id / local == q);
            }
            if (!is_there) continue;
            parts[t]++;
            for (int64_t i = t * H; i < (t + 1) * H; i++) {
                sums[i] += moet_bf16_to_float(group[i]);
                want[i] = parts[t] == 1 ? group[i] : moet_bf16_from_float(sums[i]);
            }
        }
    }
    free(group);
    free(sums);
    free(parts);
    return status;
}

/* Runs the layer once and compares with `want`; all ranks come to the same. */
static moet_status check(const moet_ep_bench *bench, const moet_ep_shape *p, const inputs *in, moet_ep *ep,
                         const uint16_t *want)
{
    moet_device *device = bench->handle->device;
    const size_t elements = (size_t)(p->tokens * p->hidden);
    const moet_ep_args args = args_of(bench, p, in);
    int64_t wrong = 0, *all = malloc((size_t)bench->as.ranks * sizeof *all);
    uint16_t *got = malloc(elements * 2 + 1);
    moet_status status = got && all ? MOET_OK : moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    if (status == MOET_OK) status = device->backend->fill(device, in->out, 0xff, elements * 2);
    if (status == MOET_OK) status = moet_ep_run(ep, &args);
    if (status == MOET_OK) status = moet_ep_wait(ep, bench->stream);
    if (status == MOET_OK) status = device->backend->download(device, got, in->out, elements * 2);
    for (size_t i = 0; i < elements && status == MOET_OK; i++) wrong += got[i] != want[i];
    if (status == MOET_OK) status = moet_ep_comm_allgather(ep->control, &wrong, sizeof wrong, all);
    for (int32_t r = 0; r < bench->as.ranks && status == MOET_OK; r++) {
        if (all[r] != 0)
            status = moet_fail(MOET_WRONG, "%s, %lld tokens, %.300s: %lld elements on rank %d differ from one rank's",
                               p->name, (long long)p->tokens, moet_ep_describe(ep), (long long)all[r], r);
    }
    free(got);
    free(all);
    return status;
}

/* ---- timing ---- */

/* A graph, or where the device has none the parts of the layer, and its times of the rounds, the slowest rank's. */
typedef struct subject {
    moet_ep *ep;
    int32_t parts;
    void *graph;
    int64_t *time_ns; /* [rounds] */
} subject;

static moet_status capture(const moet_ep_bench *bench, const moet_ep_args *args, subject *s)
{
    moet_device *device = bench->handle->device;
    if (!device->backend->capture_begin) return MOET_OK;
    char why[512];
    void *graph = NULL;
    MOET_TRY(device->backend->capture_begin(device, bench->stream));
    const moet_status status = moet_ep_run_parts(s->ep, args, s->parts);
    snprintf(why, sizeof why, "%s", moet_last_error());
    const moet_status ended = device->backend->capture_end(device, bench->stream, &graph);
    s->graph = graph;
    return status != MOET_OK ? moet_fail(status, "%s", why) : ended;
}

static moet_status launch(const moet_ep_bench *bench, const moet_ep_args *args, const subject *s)
{
    return s->graph ? bench->handle->device->backend->graph_launch(bench->handle->device, s->graph, bench->stream)
                    : moet_ep_run_parts(s->ep, args, s->parts);
}

/* What ranks meet in: the dispatch of a few tokens each, of a layer of its own. */
typedef struct meeting {
    subject subject;
    moet_ep_args args;
} meeting;

/* Where one ended badly, the other lets go too of what hangs on the device: either may be what the stream waits in. */
static moet_status wait_for_both(const moet_ep_bench *bench, moet_ep *timed, moet_ep *met)
{
    char why[512];
    const moet_status status = moet_ep_wait(timed, bench->stream);
    if (status == MOET_OK) return moet_ep_wait(met, bench->stream);
    snprintf(why, sizeof why, "%s", moet_last_error());
    if (!bench->handle->device->is_stuck) (void)moet_ep_wait(met, bench->stream);
    return moet_fail(status, "%s", why);
}

/* One sample of all ranks; the slowest one's into *time_ns. */
static moet_status sample(const moet_ep_bench *bench, const moet_ep_args *args, const subject *s, const meeting *meet,
                          double *all_us, int64_t *time_ns)
{
    moet_device *device = bench->handle->device;
    const moet_backend *backend = device->backend;
    double time_us = 0, slowest_us = 0;
    char own = 0;
    MOET_TRY(moet_ep_comm_allgather(s->ep->control, &own, 1, all_us));
    MOET_TRY(moet_ops_spin(bench->ops, SPIN_CYCLES, bench->stream));
    MOET_TRY(launch(bench, &meet->args, &meet->subject));
    MOET_TRY(backend->event_record(device, bench->begin, bench->stream));
    MOET_TRY(launch(bench, args, s));
    MOET_TRY(backend->event_record(device, bench->end, bench->stream));
    MOET_TRY(wait_for_both(bench, s->ep, meet->subject.ep));
    MOET_TRY(backend->event_elapsed_us(device, bench->begin, bench->end, &time_us));
    MOET_TRY(moet_ep_comm_allgather(s->ep->control, &time_us, sizeof time_us, all_us));
    for (int32_t r = 0; r < bench->as.ranks; r++) slowest_us = fmax(slowest_us, all_us[r]);
    *time_ns = llround(slowest_us * 1e3);
    return MOET_OK;
}

static moet_status run_rounds(const moet_ep_bench *bench, const moet_ep_args *args, const meeting *meet,
                              subject *subjects, int32_t count)
{
    int32_t *order = malloc((size_t)count * sizeof *order);
    double *all_us = malloc((size_t)bench->as.ranks * sizeof *all_us);
    uint64_t random = 11;
    moet_status status = order && all_us ? MOET_OK : moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (int32_t round = -WARM_ROUNDS; round < bench->rounds && status == MOET_OK; round++) {
        for (int32_t i = 0; i < count; i++) { /* Fisher and Yates, inside out */
            const int32_t at = (int32_t)(moet_random_next(&random) % (uint64_t)(i + 1));
            order[i] = order[at];
            order[at] = i;
        }
        for (int32_t i = 0; i < count && status == MOET_OK; i++) {
            subject *s = &subjects[order[i]];
            int64_t time_ns = 0;
            status = sample(bench, args, s, meet, all_us, &time_ns);
            if (round >= 0) s->time_ns[round] = time_ns;
        }
    }
    free(order);
    free(all_us);
    return status;
}

/* ---- a point ---- */

enum { DISPATCH, EXPERTS, COMBINE, LAYER, BASE_SUBJECTS };
static const int32_t base_parts[] = {
    [DISPATCH] = MOET_EP_DISPATCH, [EXPERTS] = MOET_EP_EXPERTS, [COMBINE] = MOET_EP_COMBINE, [LAYER] = MOET_EP_ALL};

/* A variant with its layer. Its parts alone are timed in one chunk with all SMs: its own, or another variant's. */
typedef struct entry {
    moet_ep_variant variant;
    moet_ep *ep;
    int32_t base;  /* entry whose parts these are */
    int32_t first; /* its subjects: BASE_SUBJECTS where it is a base, else LAYER's alone */
    bool is_shown;
} entry;

typedef struct run {
    const moet_ep_shape *point;
    inputs in;
    entry entries[2 * MOET_EP_MAX_VARIANTS];
    int32_t entry_count;
    meeting meet;
    subject *subjects;
    int32_t subject_count;
} run;

static int32_t entry_find(const run *r, const moet_ep_variant *v, int32_t chunks)
{
    for (int32_t i = 0; i < r->entry_count; i++) {
        const moet_ep_variant *own = &r->entries[i].variant;
        if (strcmp(own->transport, v->transport) == 0 && own->returns == v->returns && own->chunks == chunks &&
            (chunks == 1 || own->comm_sms == v->comm_sms))
            return i;
    }
    return -1;
}

/* Bases first, so that every variant finds its own. */
static void list_entries(run *r, const moet_ep_variant *variants, int32_t count)
{
    for (int32_t is_base = 1; is_base >= 0; is_base--) {
        for (int32_t i = 0; i < count; i++) {
            const int32_t chunks = is_base ? 1 : variants[i].chunks;
            int32_t at = entry_find(r, &variants[i], chunks);
            if (at < 0) {
                at = r->entry_count++;
                r->entries[at] = (entry){.variant = variants[i], .first = r->subject_count};
                r->entries[at].variant.chunks = chunks;
                if (is_base) r->entries[at].variant.comm_sms = 0;
                r->entries[at].base = is_base ? at : entry_find(r, &variants[i], 1);
                r->subject_count += is_base ? BASE_SUBJECTS : 1;
            }
            if (variants[i].chunks == chunks) r->entries[at].is_shown = true;
        }
    }
}

moet_ep_options moet_ep_bench_options(const moet_ep_bench *bench, const moet_ep_shape *point,
                                      const moet_ep_variant *variant)
{
    moet_ep_options options = bench->as;
    options.returns = variant->returns;
    options.chunks = variant->chunks;
    options.comm_sms = variant->comm_sms;
    options.max_tokens = point->tokens;
    options.choices = point->choices;
    snprintf(options.transport, sizeof options.transport, "%s", variant->transport);
    return options;
}

bool moet_ep_bench_is_default(const moet_ep_variant *variant)
{
    return strcmp(variant->transport, "auto") == 0 && variant->chunks == 1;
}

static moet_status open_entry(const moet_ep_bench *bench, run *r, entry *e)
{
    const moet_problem problem = moet_ep_bench_problem(bench, r->point);
    const moet_ep_options options = moet_ep_bench_options(bench, r->point, &e->variant);
    return moet_ep_create(bench->handle, &problem, &options, &e->ep);
}

/* What crosses the busiest rank's link in one direction: rows or pairs, of dispatch or, with the same bytes the other
 * way, of combine. */
static moet_status busiest(const moet_ep_bench *bench, const run *r, moet_ep_comm *control, const int64_t *sent,
                           int64_t *most)
{
    const int32_t ranks = bench->as.ranks;
    int64_t *all = malloc((size_t)ranks * (size_t)ranks * sizeof *all);
    if (!all) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    const moet_status status = moet_ep_comm_allgather(control, sent, (size_t)ranks * sizeof *sent, all);
    *most = 0;
    for (int32_t i = 0; i < ranks && status == MOET_OK; i++) {
        int64_t out = 0, in = 0;
        for (int32_t j = 0; j < ranks; j++) {
            if (j == i) continue;
            out += all[i * ranks + j];
            in += all[j * ranks + i];
        }
        if (out > *most) *most = out;
        if (in > *most) *most = in;
    }
    free(all);
    (void)r;
    return status;
}

/* Expert rows of the busiest rank. */
static moet_status busiest_rank(const moet_ep_bench *bench, const run *r, moet_ep_comm *control, int64_t *most)
{
    const int32_t ranks = bench->as.ranks;
    int64_t *all = malloc((size_t)ranks * (size_t)ranks * sizeof *all);
    if (!all) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    const moet_status status = moet_ep_comm_allgather(control, r->in.sent_pairs, (size_t)ranks * sizeof *all, all);
    *most = 0;
    for (int32_t to = 0; to < ranks && status == MOET_OK; to++) {
        int64_t rows = 0;
        for (int32_t from = 0; from < ranks; from++) rows += all[from * ranks + to];
        if (rows > *most) *most = rows;
    }
    free(all);
    return status;
}

static double median_us(const moet_ep_bench *bench, const subject *s)
{
    return (double)moet_stats_median(s->time_ns, bench->rounds) * 1e-3;
}

static moet_status print_entry(const moet_ep_bench *bench, const run *r, const entry *e)
{
    const entry *base = &r->entries[e->base];
    const subject *parts = &r->subjects[base->first];
    const subject *layer = &r->subjects[e == base ? e->first + LAYER : e->first];
    const double dispatch_us = median_us(bench, &parts[DISPATCH]), combine_us = median_us(bench, &parts[COMBINE]);
    const double experts_us = median_us(bench, &parts[EXPERTS]), layer_us = median_us(bench, layer);
    int64_t rows = 0, back = 0, busiest_rows = 0;
    moet_choice choice;
    char peer[16 + MOET_EP_NAME_SIZE];
    MOET_TRY(busiest(bench, r, e->ep->control, r->in.sent_rows, &rows));
    MOET_TRY(busiest(bench, r, e->ep->control,
                     e->variant.returns == MOET_EP_RETURNS_ROWS ? r->in.sent_pairs : r->in.sent_rows, &back));
    MOET_TRY(busiest_rank(bench, r, e->ep->control, &busiest_rows));
    MOET_TRY(moet_plan_query(e->ep->plan, NULL, &choice));
    if (!bench->out) return MOET_OK;
    const moet_ep_result result = {.point = r->point,
                                   .variant = &e->variant,
                                   .ep = e->ep,
                                   .config = choice.config,
                                   .busiest = busiest_rows,
                                   .is_graph = layer->graph != NULL,
                                   .layer_ns = layer->time_ns,
                                   .dispatch_ns = e == base ? parts[DISPATCH].time_ns : NULL,
                                   .experts_ns = e == base ? parts[EXPERTS].time_ns : NULL,
                                   .combine_ns = e == base ? parts[COMBINE].time_ns : NULL};
    if (bench->keep) MOET_TRY(bench->keep(bench->keep_context, &result));
    const double row_bytes = 2.0 * r->point->hidden;
    snprintf(peer, sizeof peer, "moe-tune %s", moet_ep_transport_name(e->ep));
    moet_output_text(bench->out, r->point->name);
    moet_output_integer(bench->out, bench->as.ranks);
    moet_output_integer(bench->out, r->point->tokens);
    moet_output_text(bench->out, r->point->skew);
    moet_output_text(bench->out, peer);
    moet_output_text(bench->out, moet_ep_returns_name(e->variant.returns));
    moet_output_integer(bench->out, e->ep->options.chunks);
    moet_output_integer(bench->out, e->ep->options.comm_sms);
    moet_output_real(bench->out, dispatch_us);
    moet_output_real(bench->out, (double)rows * row_bytes / dispatch_us * 1e-3);
    moet_output_real(bench->out, combine_us);
    moet_output_real(bench->out, (double)back * row_bytes / combine_us * 1e-3);
    moet_output_real(bench->out, experts_us);
    moet_output_real(bench->out, layer_us);
    moet_output_real(bench->out, (double)moet_stats_iqr(layer->time_ns, bench->rounds) * 1e-3);
    moet_output_real(bench->out, layer_us / fmax(dispatch_us + combine_us, experts_us));
    moet_output_bool(bench->out, layer->graph != NULL);
    if (bench->is_checked)
        moet_output_bool(bench->out, true); /* a wrong one does not get here */
    else
        moet_output_none(bench->out);
    moet_output_text(bench->out, choice.config);
    fflush(stdout);
    return MOET_OK;
}

static moet_status check_entries(const moet_ep_bench *bench, run *r)
{
    const size_t bytes = (size_t)(r->point->tokens * r->point->hidden) * 2;
    uint16_t *want = malloc(bytes + 1);
    moet_status status = want ? MOET_OK : moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (int32_t returns = 0; returns < MOET_EP_RETURNS_COUNT && status == MOET_OK; returns++) {
        bool is_made = false;
        for (int32_t i = 0; i < r->entry_count && status == MOET_OK; i++) {
            if (r->entries[i].variant.returns != (moet_ep_returns)returns) continue;
            if (!is_made) status = expect(bench, r->point, &r->in, (moet_ep_returns)returns, want);
            is_made = true;
            if (status == MOET_OK) status = check(bench, r->point, &r->in, r->entries[i].ep, want);
        }
    }
    free(want);
    return status;
}

static moet_status open_subjects(const moet_ep_bench *bench, run *r, const moet_ep_args *args)
{
    r->subjects = calloc((size_t)r->subject_count, sizeof *r->subjects);
    if (!r->subjects) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    for (int32_t i = 0; i < r->entry_count; i++) {
        const entry *e = &r->entries[i];
        const bool is_base = e->base == i;
        MOET_TRY(moet_ep_run(e->ep, args)); /* a capture keeps its counts, and parts find what the others left */
        MOET_TRY(moet_ep_wait(e->ep, bench->stream));
        for (int32_t j = 0; j < (is_base ? BASE_SUBJECTS : 1); j++) {
            subject *s = &r->subjects[e->first + j];
            *s = (subject){.ep = e->ep, .parts = is_base ? base_parts[j] : MOET_EP_ALL};
            s->time_ns = calloc((size_t)bench->rounds, sizeof *s->time_ns);
            if (!s->time_ns) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
            MOET_TRY(capture(bench, args, s));
        }
    }
    return MOET_OK;
}

static moet_status open_meeting(const moet_ep_bench *bench, run *r, const moet_ep_args *args)
{
    static const moet_ep_variant variant = {.transport = "auto", .returns = MOET_EP_RETURNS_SUMS, .chunks = 1};
    const moet_problem problem = moet_ep_bench_problem(bench, r->point);
    moet_ep_options options = moet_ep_bench_options(bench, r->point, &variant);
    if (options.max_tokens > MEETING_TOKENS) options.max_tokens = MEETING_TOKENS;
    r->meet.args = *args;
    r->meet.args.tokens = options.max_tokens;
    r->meet.subject.parts = MOET_EP_DISPATCH;
    MOET_TRY(moet_ep_create(bench->handle, &problem, &options, &r->meet.subject.ep));
    MOET_TRY(moet_ep_run(r->meet.subject.ep, &r->meet.args));
    MOET_TRY(moet_ep_wait(r->meet.subject.ep, bench->stream));
    return capture(bench, &r->meet.args, &r->meet.subject);
}

static void run_free(const moet_ep_bench *bench, run *r)
{
    moet_device *device = bench->handle->device;
    for (int32_t i = 0; i < r->subject_count && r->subjects; i++) {
        if (r->subjects[i].graph) device->backend->graph_destroy(device, r->subjects[i].graph);
        free(r->subjects[i].time_ns);
    }
    if (r->meet.subject.graph) device->backend->graph_destroy(device, r->meet.subject.graph);
    moet_ep_destroy(r->meet.subject.ep);
    for (int32_t i = r->entry_count - 1; i >= 0; i--) moet_ep_destroy(r->entries[i].ep);
    inputs_free(bench, &r->in);
    free(r->subjects);
    free(r);
}

moet_status moet_ep_bench_point(moet_ep_bench *bench, const moet_ep_shape *point, const moet_ep_variant *variants,
                                int32_t variant_count)
{
    run *r = calloc(1, sizeof *r);
    if (!r) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    r->point = point;
    list_entries(r, variants, variant_count);
    moet_status status = make_inputs(bench, point, &r->in);
    const moet_ep_args args = args_of(bench, point, &r->in);
    for (int32_t i = 0; i < r->entry_count && status == MOET_OK; i++) status = open_entry(bench, r, &r->entries[i]);
    if (status == MOET_OK && bench->is_checked) status = check_entries(bench, r);
    if (status == MOET_OK) status = open_subjects(bench, r, &args);
    if (status == MOET_OK) status = open_meeting(bench, r, &args);
    if (status == MOET_OK) status = run_rounds(bench, &args, &r->meet, r->subjects, r->subject_count);
    for (int32_t i = 0; i < r->entry_count && status == MOET_OK; i++) {
        if (r->entries[i].is_shown) status = print_entry(bench, r, &r->entries[i]);
    }
    if (!bench->handle->device->is_stuck) run_free(bench, r);
    return status;
}
