/* plot_waterfall.c: data of the picture of a database's worst points: where the time of each goes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label.h"
#include "plot.h"
#include "waterfall.h"

enum { MOST_POINTS = 10, LABEL_SIZE = MOET_KEY_SIZE + 256 };

/* A winner, with what of it outlives the walk. */
typedef struct point {
    double efficiency, time_ns;
    moet_problem problem;
    int32_t *counts;
    char label[LABEL_SIZE], config[MOET_CONFIG_SIZE];
} point;

/* The worst so far, the least efficient first. best: efficiency, also of what is left out. */
typedef struct points {
    double best;
    int32_t count;
    point items[MOST_POINTS];
} points;

static void points_release(points *p)
{
    for (int32_t i = 0; i < p->count; i++) {
        free(p->items[i].counts);
    }
}

/* Of op FFN the passes and what the GEMMs hand on to each other are no part of the floor, and one launch of both hides
 * the tail of the first: its parts are not those of a GEMM. */
static moet_status visit(void *context, const moet_store_trial_row *row)
{
    points *p = context;
    moet_problem problem;
    char key[MOET_STORE_PROBLEM_SIZE], shape[MOET_KEY_SIZE];
    if (!row->is_winner[MOET_TABLE_ANY] || row->median_ns <= 0 || !isfinite(row->efficiency) || row->efficiency <= 0) {
        return MOET_OK;
    }
    snprintf(key, sizeof key, "%.*s", (int)moet_store_problem_length(row->problem_key), row->problem_key);
    MOET_TRY(moet_problem_parse(key, &problem));
    if (problem.op == MOET_OP_FFN || problem.experts != row->experts) {
        return MOET_OK;
    }
    p->best = fmax(p->best, row->efficiency);
    int32_t at = p->count;
    while (at > 0 && row->efficiency < p->items[at - 1].efficiency) {
        at--;
    }
    if (moet_plot_is_doubtful(row->efficiency) || at == MOST_POINTS) { /* a floor above the time has no other parts */
        return MOET_OK;
    }
    int32_t *counts = malloc((size_t)row->experts * sizeof *counts);
    if (counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the workloads of a database");
    }
    memcpy(counts, row->counts, (size_t)row->experts * sizeof *counts);
    if (p->count == MOST_POINTS) {
        free(p->items[--p->count].counts);
    }
    memmove(&p->items[at + 1], &p->items[at], (size_t)(p->count - at) * sizeof p->items[0]);
    p->count++;
    point *added = &p->items[at];
    *added =
        (point){.efficiency = row->efficiency, .time_ns = (double)row->median_ns, .problem = problem, .counts = counts};
    moet_label_problem(row->problem_key, shape);
    snprintf(added->label, sizeof added->label, "%.120s %lld rows %.80s: %s", row->workload_name, (long long)row->rows,
             row->skew, shape);
    snprintf(added->config, sizeof added->config, "%s", row->config);
    return MOET_OK;
}

/* Whether it is known how the config cuts its product. */
static bool find_shape(const point *p, const moet_device_info *device, moet_tile_shape *shape)
{
    moet_config config;
    return moet_config_parse(p->config, &config) == MOET_OK && config.family->tile_shape != NULL &&
           device->sm_count > 0 && config.family->tile_shape(&p->problem, &config, device, shape);
}

#define LEAST_PCT 0.05 /* that is drawn: less than a line's width */

/* A line a part that is drawn: place, from and to in % of the time, number of the part from 1. What is below 0 stands
 * left of 0, and what then is above the time right of 100. */
static moet_status write_parts(const point *p, int32_t place, const moet_device_info *device,
                               const moet_ceilings *ceilings, const moet_device_rates *rates, FILE *data)
{
    moet_tile_shape shape;
    moet_waterfall_point of = {.problem = &p->problem,
                               .counts = p->counts,
                               .shape = find_shape(p, device, &shape) ? &shape : NULL,
                               .sm_count = device->sm_count,
                               .floor_ns = p->efficiency * p->time_ns,
                               .time_ns = p->time_ns};
    double parts_ns[MOET_WATERFALL_PART_COUNT], from = 0;
    MOET_TRY(moet_waterfall_of(&of, ceilings, rates, parts_ns));
    for (int32_t i = 0; i < MOET_WATERFALL_PART_COUNT; i++) {
        const double size = 100 * parts_ns[i] / p->time_ns;
        if (fabs(size) >= LEAST_PCT) {
            fprintf(data, "%d %.6g %.6g %d\n", place, size > 0 ? from : size, size > 0 ? from + size : 0, i + 1);
        }
        from += size;
    }
    return MOET_OK;
}

static void write_label(const point *p, int32_t place, const moet_device_info *device, FILE *data)
{
    moet_tile_shape shape;
    fprintf(data, "%d %.6g %.6g \"", place, p->time_ns / 1e3, 100 * p->efficiency);
    moet_plot_put_text(data, p->label);
    fputs("\" \"", data);
    moet_plot_put_text(data, p->config);
    fputs(find_shape(p, device, &shape) ? "\"\n" : " (its tiles are not known)\"\n", data);
}

static moet_status write(const points *p, const moet_device_info *device, const moet_ceilings *ceilings,
                         const moet_device_rates *rates, FILE *data, FILE *settings)
{
    fputs("device = \"", settings);
    moet_plot_put_text(settings, device->name);
    fprintf(settings, "\"\npoints = %d\nparts = \"", p->count);
    for (int32_t i = 0; i < MOET_WATERFALL_PART_COUNT; i++) {
        fprintf(settings, "%s%s", i > 0 ? " " : "", moet_waterfall_text((moet_waterfall_part)i));
    }
    fputs("\"\n", settings);
    for (int32_t i = 0; i < p->count; i++) {
        write_label(&p->items[i], i + 1, device, data);
    }
    fputs("\n\n", data);
    for (int32_t i = 0; i < p->count; i++) {
        MOET_TRY(write_parts(&p->items[i], i + 1, device, ceilings, rates, data));
    }
    return MOET_OK;
}

moet_status moet_plot_write_waterfall(const moet_plot_sources *sources, FILE *data, FILE *settings, double *best)
{
    moet_store *store = NULL;
    moet_device_info info;
    moet_ceilings ceilings;
    moet_store_cost cost;
    points worst = {0};
    char key[MOET_DEVICE_KEY_SIZE];
    MOET_TRY(moet_plot_open(sources->dbs[0], sources->device, &store, key));
    const moet_store_filter filter = {.device_key = key, .winners_only = true, .ok_only = true};
    moet_status status = moet_store_device_info(store, key, &info, &ceilings);
    if (status == MOET_OK) {
        status = moet_store_get_cost(store, key, &cost);
        if (status == MOET_NOT_FOUND) {
            status = moet_fail(MOET_UNSUPPORTED,
                               "%s: no rates of %s were fitted: moe-tune sweep does, when it next measures there",
                               sources->dbs[0], info.name);
        }
    }
    if (status == MOET_OK) status = moet_store_each_trial(store, &filter, visit, &worst);
    moet_store_close(store);
    if (status == MOET_OK && worst.count == 0 && worst.best > 0) {
        status =
            moet_fail(MOET_UNSUPPORTED, "%s: no winner to take apart: efficiencies are up to %.0f %%: " MOET_PLOT_DOUBT,
                      sources->dbs[0], 100 * worst.best);
    } else if (status == MOET_OK && worst.count == 0) {
        status = moet_fail(MOET_UNSUPPORTED, "%s: no winner of op up or down to take apart: sweep --ops up,down first",
                           sources->dbs[0]);
    }
    *best = worst.best;
    if (status == MOET_OK) status = write(&worst, &info, &ceilings, &cost.rates, data, settings);
    points_release(&worst);
    return status;
}
