/* calibrate.c: see calibrate.h. */
#include "calibrate.h"

#include <stdlib.h>
#include <string.h>

#include "cost_fit.h"

enum { CONFIGS = 6, ROUNDS = 3, EXPERTS = 8 };

/* Shapes on which different rates are what takes long: weights from HBM; tiles of a few waves; multiplying; storing, as
 * K is short; a launch. */
typedef struct shape {
    moet_op op;
    int32_t hidden, inter, rows; /* of each expert */
} shape;
static const shape device_shapes[] = {{MOET_OP_UP, 4096, 2048, 32},
                                      {MOET_OP_UP, 2048, 1024, 200},
                                      {MOET_OP_UP, 4096, 2048, 1024},
                                      {MOET_OP_DOWN, 4096, 512, 1024},
                                      {MOET_OP_DOWN, 512, 512, 16}};
static const shape host_shapes[] = {
    {MOET_OP_UP, 256, 128, 4}, {MOET_OP_UP, 256, 128, 32}, {MOET_OP_DOWN, 256, 64, 32}, {MOET_OP_DOWN, 64, 64, 1}};

/* Trials leave room for what is measured where they are of too few workloads. */
enum { MOST_MEASURED = CONFIGS * MOET_COUNT_OF(device_shapes), MOST_POINTS = 4000 };
_Static_assert(MOET_COUNT_OF(host_shapes) <= MOET_COUNT_OF(device_shapes), "room for those of the host too");

typedef struct points {
    int32_t count, workloads;
    int64_t workload_ids[MOET_CALIBRATE_WORKLOADS]; /* the first [workloads], each once: more are as good */
    bool is_host;
    moet_cost_point *items; /* [MOST_POINTS] */
} points;

static moet_status add(points *p, const moet_problem *problem, const int32_t *counts, const moet_config *config,
                       int64_t time_ns)
{
    const size_t bytes = (size_t)problem->experts * sizeof *counts;
    if (p->count == MOST_POINTS) return MOET_OK;
    moet_cost_point *point = &p->items[p->count];
    *point = (moet_cost_point){.problem = *problem, .config = *config, .time_ns = (double)time_ns};
    point->counts = malloc(bytes);
    if (point->counts == NULL) return moet_fail(MOET_NO_MEMORY, "no memory for a measured time");
    memcpy(point->counts, counts, bytes);
    for (int32_t e = 0; e < problem->experts; e++) point->tokens += counts[e];
    p->count++;
    return MOET_OK;
}

static void add_workload(points *p, int64_t workload_id)
{
    for (int32_t i = 0; i < p->workloads; i++)
        if (p->workload_ids[i] == workload_id) return;
    if (p->workloads < MOET_CALIBRATE_WORKLOADS) p->workload_ids[p->workloads++] = workload_id;
}

static void release(points *p)
{
    for (int32_t i = 0; i < p->count; i++) free(p->items[i].counts);
    free(p->items);
}

/* ---- trials ---- */

static moet_status visit(void *context, const moet_store_trial_row *row)
{
    points *p = context;
    moet_config config;
    moet_problem problem;
    /* A single launch outside a graph is not what is estimated. */
    if (p->count == MOST_POINTS - MOST_MEASURED || !row->is_current || row->median_ns <= 0 ||
        (row->eager && !p->is_host) || moet_config_parse(row->config, &config) != MOET_OK ||
        config.family->estimate_ns == NULL || config.family->gemm != NULL ||
        moet_problem_parse(row->problem_key, &problem) != MOET_OK || problem.experts != row->experts)
        return MOET_OK;
    add_workload(p, row->workload_id);
    return add(p, &problem, row->counts, &config, row->median_ns);
}

/* ---- measuring ---- */

/* The first family that estimates GEMMs and serves this problem here. */
static const moet_family *find_family(const moet_problem *problem, const moet_device_info *device)
{
    for (int32_t i = 0; moet_families[i] != NULL; i++) {
        const moet_family *family = moet_families[i];
        char why[MOET_REASON_SIZE];
        moet_config config = {.family = family};
        if (family->estimate_ns == NULL || family->gemm != NULL || strcmp(family->backend, device->backend) != 0)
            continue;
        family->default_config(problem, EXPERTS, device, &config);
        if (family->applicable(problem, &config, device, why)) return family;
    }
    return NULL;
}

/* CONFIGS of those that a sweep tries first, evenly apart; their number. */
static int32_t choose_configs(const moet_family *family, const moet_problem *problem, const moet_device_info *device,
                              moet_config chosen[CONFIGS])
{
    int32_t applicable = 0, count = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        int32_t place = 0;
        moet_config config;
        moet_config_first(family, &config);
        do {
            char why[MOET_REASON_SIZE];
            bool is_first = true;
            for (int32_t i = 0; i < family->param_count; i++)
                is_first = is_first && (config.value[i] == 0 || family->params[i].search == MOET_SEARCH_FIRST);
            if (!is_first || !family->applicable(problem, &config, device, why)) continue;
            if (pass == 1 && count < CONFIGS && place == (2 * count + 1) * applicable / (2 * CONFIGS))
                chosen[count++] = config;
            place++;
        } while (moet_config_next(&config));
        applicable = place;
    }
    return count;
}

static moet_status measure_shape(moet_worker *worker, const shape *of, points *p, moet_compile_ahead *ahead)
{
    const moet_device_info *device = moet_worker_info(worker);
    moet_problem problem;
    moet_config configs[CONFIGS];
    int32_t counts[EXPERTS], subjects[CONFIGS];
    moet_problem_init(&problem, of->op, EXPERTS, of->hidden, of->inter);
    for (int32_t e = 0; e < EXPERTS; e++) counts[e] = of->rows;
    const moet_family *family = find_family(&problem, device);
    const int32_t count = family ? choose_configs(family, &problem, device, configs) : 0;
    if (count == 0) return MOET_OK;
    for (int32_t i = 0; i < count; i++) MOET_TRY(moet_compile_ahead_add(ahead, &problem, &configs[i], device));
    MOET_TRY(moet_worker_set_workload(worker, &problem, counts, 0));
    MOET_TRY(moet_worker_set_racing(worker, true));
    for (int32_t i = 0; i < count; i++) {
        moet_compile_ahead_wait(ahead, &problem, &configs[i], device);
        MOET_TRY(moet_worker_add_config(worker, &configs[i], true, &subjects[i]));
    }
    for (int32_t i = 0; i < ROUNDS; i++) MOET_TRY(moet_worker_round(worker));
    for (int32_t i = 0; i < count; i++) {
        if (moet_worker_active(worker, subjects[i]) && moet_worker_median_ns(worker, subjects[i]) > 0)
            MOET_TRY(add(p, &problem, counts, &configs[i], moet_worker_median_ns(worker, subjects[i])));
    }
    return MOET_OK;
}

static moet_status measure(moet_worker *worker, moet_compile_ahead *ahead, points *p)
{
    const shape *shapes = p->is_host ? host_shapes : device_shapes;
    const int32_t count = p->is_host ? MOET_COUNT_OF(host_shapes) : MOET_COUNT_OF(device_shapes);
    for (int32_t i = 0; i < count; i++) {
        const moet_status status = measure_shape(worker, &shapes[i], p, ahead);
        /* Fewer points will do where a card is full, say. */
        if (status != MOET_OK && status != MOET_NO_DEVICE_MEMORY && status != MOET_WRONG && status != MOET_TIMEOUT &&
            status != MOET_UNSUPPORTED)
            return status;
    }
    return MOET_OK;
}

moet_status moet_calibrate(moet_worker *worker, moet_compile_ahead *ahead, moet_store *store,
                           const moet_ceilings *ceilings, moet_store_cost *cost)
{
    const moet_device_info *device = moet_worker_info(worker);
    const char *key = moet_worker_key(worker);
    moet_status status = moet_store_get_cost(store, key, cost);
    if (status != MOET_NOT_FOUND) return status;

    points p = {.is_host = strcmp(device->backend, "host") == 0};
    moet_store_cost result = {.rates = moet_cost_guess(device, ceilings)};
    const moet_device_rates guess = result.rates;
    p.items = malloc(MOST_POINTS * sizeof *p.items);
    if (p.items == NULL) return moet_fail(MOET_NO_MEMORY, "no memory for measured times");
    const moet_store_filter filter = {.device_key = key, .ok_only = true};
    status = moet_store_each_trial(store, &filter, visit, &p);
    if (status == MOET_OK && (p.count < MOET_CALIBRATE_TRIALS || p.workloads < MOET_CALIBRATE_WORKLOADS))
        status = measure(worker, ahead, &p);
    if (status == MOET_OK && p.count > 0) {
        status = moet_cost_fit(device, p.items, p.count, &guess, &result.rates, &result.error);
        result.points = p.count;
        if (status == MOET_OK) status = moet_store_put_cost(store, key, &result);
    }
    release(&p);
    if (status == MOET_OK) *cost = result;
    return status;
}
