/* sweep_plan.c: which tasks a sweep has, and how long they may take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/ffn_path.h"
#include "candidates.h"
#include "cost_fit.h"
#include "race.h"
#include "sweep.h"

/* Whether a task falls into the shard: by a hash of what it is, so that shards agree whatever else they sweep. */
moet_status moet_sweep_is_in_shard(const moet_shard *shard, const moet_sweep_task *task, bool *inside)
{
    const moet_workload *workload = task->workload;
    size_t size = MOET_STORE_PROBLEM_SIZE + (size_t)workload->experts * 12;
    char *text = malloc(size);
    char hash[MOET_SHA256_TEXT_SIZE];
    if (text == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a task's text");
    }
    moet_store_problem_key(&task->problem, workload, text);
    size_t used = strlen(text);
    for (int32_t i = 0; i < workload->experts; i++) {
        used += (size_t)snprintf(text + used, size - used, " %d", workload->counts[i]);
    }
    moet_sha256_text(text, used, hash);
    free(text);
    hash[8] = '\0'; /* 32 bits */
    *inside = strtoull(hash, NULL, 16) % (uint64_t)shard->count == (uint64_t)(shard->index - 1);
    return MOET_OK;
}

static moet_status make_task(const moet_sweep_options *options, const moet_workload *workload, moet_op op,
                             moet_layout layout, moet_sweep_task *task)
{
    moet_problem problem;
    moet_problem_init(&problem, op, workload->experts, workload->hidden, workload->inter);
    problem.layout = layout;
    moet_problem_options_apply(&options->problem, &problem);
    if (moet_problem_validate(&problem) != MOET_OK) {
        char message[512];
        snprintf(message, sizeof message, "%s", moet_last_error());
        return moet_fail(MOET_INVALID, "workload %s, op %s: %s", workload->name, moet_op_text(op), message);
    }
    *task = (moet_sweep_task){.problem = problem, .workload = workload};
    return MOET_OK;
}

static bool same_shape(const moet_workload *a, const moet_workload *b)
{
    return a->experts == b->experts && a->hidden == b->hidden && a->inter == b->inter;
}

/* Heavier first, otherwise as they came, so that a sweep whose time runs out has measured what happens most. */
static int by_weight(const void *a, const void *b)
{
    const moet_workload *x = ((const moet_sweep_task *)a)->workload, *y = ((const moet_sweep_task *)b)->workload;
    const double x_weight = moet_workload_weight(x), y_weight = moet_workload_weight(y);
    return x_weight != y_weight ? (x_weight < y_weight) - (x_weight > y_weight) : (x > y) - (x < y);
}

/* The next of the numbers below `count` in an order that is coarse first: that of their bits reversed. *at: 0 before the
 * first; what comes next. At most `count` times. */
static int32_t next_spread(int32_t count, uint32_t *at)
{
    int32_t bits = 0;
    while ((1u << bits) < (uint32_t)count) bits++;
    for (;;) {
        uint32_t reversed = 0;
        for (int32_t b = 0; b < bits; b++) reversed |= (*at >> b & 1) << (bits - 1 - b);
        (*at)++;
        if (reversed < (uint32_t)count) return (int32_t)reversed;
    }
}

/* Of equal weights those far from each other come first: what wins at a workload is tried at its neighbours, so that
 * later ones have neighbours on all sides, and a sweep that is cut short has seen some of everything. */
static moet_status spread(moet_sweep_task *items, int32_t count)
{
    moet_sweep_task *copy = malloc((size_t)(count > 0 ? count : 1) * sizeof *copy);
    if (copy == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for %d tasks", count);
    }
    memcpy(copy, items, (size_t)count * sizeof *copy);
    for (int32_t begin = 0, end = 0; begin < count; begin = end) {
        uint32_t at = 0;
        const double weight = moet_workload_weight(copy[begin].workload);
        while (end < count && moet_workload_weight(copy[end].workload) == weight) end++;
        for (int32_t i = begin; i < end; i++) items[i] = copy[begin + next_spread(end - begin, &at)];
    }
    free(copy);
    return MOET_OK;
}

/* A workload, and the first of its shape. */
typedef struct shaped {
    const moet_workload *workload, *first;
} shaped;

static int by_shape(const void *a, const void *b)
{
    const moet_workload *x = ((const shaped *)a)->workload, *y = ((const shaped *)b)->workload;
    return x->experts != y->experts ? (x->experts > y->experts) - (x->experts < y->experts)
           : x->hidden != y->hidden ? (x->hidden > y->hidden) - (x->hidden < y->hidden)
           : x->inter != y->inter   ? (x->inter > y->inter) - (x->inter < y->inter)
                                    : (x > y) - (x < y);
}

static int by_first(const void *a, const void *b)
{
    const shaped *x = a, *y = b;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first)
                                : (x->workload > y->workload) - (x->workload < y->workload);
}

/* Workloads of a shape one behind the other, shapes by their first, otherwise as they came; malloc'd. */
static shaped *order_by_shape(const moet_workloads *workloads)
{
    const size_t count = (size_t)workloads->count;
    shaped *order = malloc((count + 1) * sizeof *order);
    if (order == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) order[i].workload = &workloads->items[i];
    qsort(order, count, sizeof *order, by_shape);
    for (size_t i = 0; i < count; i++) {
        const bool goes_on = i > 0 && same_shape(order[i - 1].workload, order[i].workload);
        order[i].first = goes_on ? order[i - 1].first : order[i].workload;
    }
    qsort(order, count, sizeof *order, by_first);
    return order;
}

/* Tasks of one shape, op and layout, behind those that are there. */
static moet_status plan_kind(const moet_sweep_options *options, const shaped *order, int32_t count, moet_op op,
                             moet_layout layout, moet_sweep_tasks *tasks)
{
    const int32_t first = tasks->count;
    for (int32_t i = 0; i < count; i++) {
        bool inside = false;
        moet_sweep_task *task = &tasks->items[tasks->count];
        MOET_TRY(make_task(options, order[i].workload, op, layout, task));
        MOET_TRY(moet_sweep_is_in_shard(&options->shard, task, &inside));
        tasks->count += inside;
    }
    qsort(tasks->items + first, (size_t)(tasks->count - first), sizeof *tasks->items, by_weight);
    return spread(tasks->items + first, tasks->count - first);
}

/* Weights belong to a shape, op and layout, and are kept from one workload to the next. */
static moet_status plan_all(const moet_sweep_options *options, const shaped *order, int32_t count,
                            moet_sweep_tasks *tasks)
{
    const int32_t kinds = options->problem.ops.count * options->problem.layouts.count;
    for (int32_t begin = 0, end = 0; begin < count; begin = end) {
        while (end < count && order[end].first == order[begin].first) {
            end++;
        }
        for (int32_t kind = 0; kind < kinds; kind++) {
            const moet_op op = options->problem.ops.ops[kind / options->problem.layouts.count];
            const moet_layout layout = options->problem.layouts.layouts[kind % options->problem.layouts.count];
            MOET_TRY(plan_kind(options, order + begin, end - begin, op, layout, tasks));
        }
    }
    return MOET_OK;
}

moet_status moet_sweep_plan(const moet_sweep_options *options, const moet_workloads *workloads, moet_sweep_tasks *tasks)
{
    size_t most =
        (size_t)workloads->count * (size_t)options->problem.ops.count * (size_t)options->problem.layouts.count;
    moet_sweep_tasks planned = {.items = calloc(most > 0 ? most : 1, sizeof *planned.items)};
    shaped *order = order_by_shape(workloads);
    moet_status status = planned.items != NULL && order != NULL
                             ? plan_all(options, order, workloads->count, &planned)
                             : moet_fail(MOET_NO_MEMORY, "no memory for %zu tasks", most);
    free(order);
    if (status != MOET_OK) {
        moet_sweep_tasks_release(&planned);
        return status;
    }
    *tasks = planned;
    return MOET_OK;
}

void moet_sweep_tasks_release(moet_sweep_tasks *tasks)
{
    free(tasks->items);
    *tasks = (moet_sweep_tasks){0};
}

/* What a device does in a second, and what a candidate costs besides its calls. */
typedef struct device_speed {
    double flops_per_s, reference_flops_per_s;
    double prepare_s;  /* prepare, verify, capture, store */
    double sample_s;   /* a sample's least time, replayed once untimed */
    double ceilings_s; /* of one round */
} device_speed;

static device_speed guess_speed(const moet_device_info *device)
{
    if (strcmp(device->backend, "host") == 0) {
        return (device_speed){15e9 * device->sm_count, 1e9 * device->sm_count, 0.02, 0.04, 0.1};
    }
    return (device_speed){3e12 * device->sm_count, 1e10 * device->sm_count, 0.05, 0.0015, 0.008};
}

/* Whether the GEMMs of this sweep's paths are measured before them, and then known (moet_known_gemms). */
static bool gemms_come_first(const moet_sweep_options *options)
{
    bool seen[MOET_OP_COUNT] = {false};
    for (int32_t i = 0; i < options->problem.ops.count && options->problem.ops.ops[i] != MOET_OP_FFN; i++) {
        seen[options->problem.ops.ops[i]] = true;
    }
    return options->shard.count == 1 && seen[MOET_OP_UP] && seen[MOET_OP_DOWN]; /* else another shard may have them */
}

static bool is_half(const moet_candidate *c)
{
    return c->config.family->gemm != NULL && !c->family_default && !moet_ffn_path_is_chained(&c->config);
}

/* Adds what is listed for a task. A path's halves are those listed here where nothing is known of its GEMMs; where the
 * store knows them, or will when the task's turn comes, fewer by far, or few of a small space. */
static void add_listed(const moet_candidates *list, bool is_whole, bool gemms_first, moet_sweep_size *size)
{
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        if (!is_half(c)) {
            size->candidates += c->applicable;
            size->inapplicable += !c->applicable;
        }
    }
    for (int32_t f = 0; moet_families[f] != NULL; f++) {
        int64_t applicable = 0, inapplicable = 0;
        for (int32_t i = 0; i < list->count; i++) {
            const moet_candidate *c = &list->items[i];
            if (c->config.family == moet_families[f] && is_half(c)) {
                applicable += c->applicable;
                inapplicable += !c->applicable;
            }
        }
        if (applicable + inapplicable == 0) {
            continue;
        }
        const int64_t known = moet_candidates_most_known(moet_families[f]);
        size->candidates += gemms_first || (is_whole && applicable < known) ? known : applicable;
        size->inapplicable += gemms_first ? 0 : inapplicable;
        size->is_bound = true;
    }
}

/* How many candidates are added around the best, at most. */
static int32_t most_around(const moet_candidates *candidates, moet_effort effort)
{
    const moet_effort_rule *rule = moet_effort_rule_of(effort);
    int32_t most = 0, centers = rule->centers[0] + rule->centers[1], crossed = 0;
    const moet_family *path = NULL;
    for (int32_t i = 0; i < candidates->count; i++) {
        const moet_candidate *c = &candidates->items[i];
        int32_t around = c->is_chosen ? moet_candidates_around(&c->config) : 0;
        most = around > most ? around : most;
        if (c->is_chosen && c->family_default && c->config.family->gemm != NULL && c->config.family != path) {
            path = c->config.family;
            centers = rule->path_centers[0] + rule->path_centers[1];
            crossed += moet_candidates_most_crossed(path);
        }
    }
    return centers * most + crossed;
}

moet_status moet_sweep_measure_size(const moet_sweep_options *options, const moet_sweep_tasks *tasks,
                                    const moet_device_info *device, moet_sweep_size *size)
{
    moet_sweep_size sum = {.tasks = tasks->count};
    device_speed speed = guess_speed(device);
    for (int32_t i = 0; i < tasks->count; i++) {
        const moet_sweep_task *task = &tasks->items[i];
        moet_candidates candidates = {0};
        moet_routing routing;
        MOET_TRY(moet_routing_summarize(task->workload->counts, task->workload->experts, &routing));
        MOET_TRY(
            moet_candidates_list(&task->problem, task->workload->rows, device, &options->families, NULL, &candidates));
        const int64_t listed = options->effort == MOET_EFFORT_EXHAUSTIVE
                                   ? (int64_t)moet_candidates_listers(&candidates) * options->listed
                                   : 0;
        const int64_t around = most_around(&candidates, options->effort), before = sum.candidates;
        const moet_device_rates guess = moet_cost_guess(device, &(moet_ceilings){0});
        const moet_status status =
            moet_candidates_select(&candidates, &task->problem, task->workload->counts, task->workload->rows, device,
                                   &guess, options->effort);
        if (status != MOET_OK) {
            moet_candidates_release(&candidates);
            return status;
        }
        /* Below exhaustive as many halves are tried whatever is known, and inapplicable ones are not listed. */
        add_listed(&candidates, options->effort == MOET_EFFORT_EXHAUSTIVE,
                   options->effort == MOET_EFFORT_EXHAUSTIVE && gemms_come_first(options), &sum);
        double flops = moet_problem_flops(&task->problem, &routing);
        double call_s = flops / speed.flops_per_s;
        double sample_s = 2 * (call_s > speed.sample_s ? call_s : speed.sample_s);
        /* Each candidate: verified by a few calls, one round; about eight in three more and in the final ones. */
        sum.seconds += flops / speed.reference_flops_per_s +
                       (double)(sum.candidates - before + around + listed) * (speed.prepare_s + 4 * call_s + sample_s) +
                       (3 + options->final_rounds) * (8 * sample_s + speed.ceilings_s);
        sum.around += around;
        sum.listed += listed;
        moet_candidates_release(&candidates);
    }
    *size = sum;
    return MOET_OK;
}
