/* What a plan runs for a routing: of its prepared configurations the one that should take least.
 *
 * At each tuned point the table has the times of some configurations. By what factor such a time is off an estimate of
 * it (moet_tiling_seconds; where a vendor library chooses the tiles, what the SMs and memory need at least) changes
 * slowly with rows and skew, while the estimate knows how rows at hand fit into tiles and tiles into waves. So the
 * factor is averaged over the nearest points, with the inverses of squared distance + NEAR_SQUARE as weights (Shepard's
 * interpolation), and multiplied by the estimate for the counts at hand. */
#include <math.h>
#include <stdlib.h>

#include "plan.h"

/* ln: what a factor costs that was not measured at a point, but comes from another one. Not measured is mostly not
 * thought worth it by a race that knew its estimate. */
#define UNKNOWN_COST 0.10
#define DEFAULT_TIE 0.01  /* ln: the default wins ties, as among winners */
#define NO_CONTENDER 0.10 /* ln: what the points say is so much dearer than their best is not estimated */
#define NEAR_SQUARE 0.2   /* added to squares of distances: one point's chance does not decide */
/* A launch can afford so many estimates of an expert's share of a GEMM, which take 8 to 15 ns each, and what goes with
 * a GEMM as long as a few of them. Of many experts the points say as much: what one has left of its last tile another
 * has too much. */
enum { MOST_ESTIMATES = 112, OF_A_GEMM = 8, MOST_CONTENDERS = 8 };

/* What a configuration took at a point. */
typedef struct cell {
    int64_t time_ns; /* 0: not measured */
    double factor;   /* ln(time / estimate), NAN: not measured anywhere */
    double log_time; /* of the estimate times the factor */
} cell;

/* A configuration's GEMMs. */
typedef struct shape {
    int32_t count; /* 0: not known */
    moet_tiling gemms[MOET_MAX_GEMMS];
} shape;

struct moet_lookup {
    const moet_plan *plan;
    int32_t point_count, config_count;
    bool *usable, *refused; /* [points] */
    cell *cells;            /* [points][configs] */
    shape *shapes;          /* [configs] */
    int32_t contenders;     /* how many are estimated; below 2: none */
    double *costs;          /* [configs] scratch */
};

static cell *cell_of(const moet_lookup *l, int32_t point, int32_t config)
{
    return &l->cells[(int64_t)point * l->config_count + config];
}

/* ln of what a configuration should take. counts NULL: on the device, their sum is all that is known. Only ratios mean
 * something where the table has no rates. */
static double estimate(const moet_lookup *l, int32_t config, const int32_t *counts, const moet_routing *routing)
{
    const moet_table *table = l->plan->handle->table;
    const moet_problem *problem = &l->plan->problem;
    const shape *s = &l->shapes[config];
    double seconds = 0;
    for (int32_t i = 0; counts && i < s->count; i++)
        seconds += moet_tiling_seconds(&s->gemms[i], counts, problem->experts);
    if (seconds > 0) return (double)logf((float)seconds);
    if (!table->has_rates) return log((double)routing->rows);
    const double *rate = table->rates.rate;
    const double math = moet_problem_flops(problem, routing) / rate[MOET_RATE_TENSOR];
    const double memory = moet_problem_bytes(problem, routing) / rate[MOET_RATE_HBM];
    return log((math > memory ? math : memory) + 1 / rate[MOET_RATE_LAUNCH]);
}

/* ---- made once ---- */

static void describe_tiles(moet_lookup *l, int32_t config)
{
    const moet_plan *plan = l->plan;
    const moet_table *table = plan->handle->table;
    const moet_config *c = &plan->prepared[config].config;
    moet_device_info device = plan->handle->device->info;
    shape *s = &l->shapes[config];
    if (!table->has_rates || !c->family->tile || !plan->prepared[config].state) return;
    s->count = c->family->tile(&plan->problem, c, &device, &table->rates, s->gemms);
    if (plan->options.max_sms > 0 && plan->options.max_sms < device.sm_count) {
        for (int32_t i = 0; i < s->count; i++) s->gemms[i].slots *= (double)plan->options.max_sms / device.sm_count;
    }
}

static int32_t find_prepared(const moet_plan *plan, const moet_config *config)
{
    for (int32_t i = 0; i < plan->prepared_count; i++) {
        if (plan->prepared[i].state && moet_config_equal(&plan->prepared[i].config, config)) return i;
    }
    return -1;
}

static void know(moet_lookup *l, int32_t point, int32_t config, int64_t time_ns, const moet_routing *routing)
{
    const int32_t *counts = l->plan->options.device_counts ? NULL : l->plan->tuned->points[point].counts;
    const double log_time = log(1e-9 * (double)time_ns);
    *cell_of(l, point, config) =
        (cell){.time_ns = time_ns, .factor = log_time - estimate(l, config, counts, routing), .log_time = log_time};
    l->usable[point] = true;
}

static moet_status describe_point(moet_lookup *l, int32_t i)
{
    const moet_plan *plan = l->plan;
    const moet_table_point *point = &plan->tuned->points[i];
    const moet_table_winner *winner = &point->winner[plan->kind];
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(point->counts, plan->problem.experts, &routing));
    l->refused[i] = winner->refused || (winner->present && plan->point_prepared[i] < 0);
    for (int32_t k = 0; k < l->config_count; k++) *cell_of(l, i, k) = (cell){0, NAN, NAN};
    for (int32_t j = 0; j < winner->other_count; j++) {
        const int32_t config = find_prepared(plan, &winner->others[j].config);
        if (config >= 0) know(l, i, config, winner->others[j].time_ns, &routing);
    }
    if (plan->point_prepared[i] >= 0) know(l, i, plan->point_prepared[i], winner->time_ns, &routing);
    return MOET_OK;
}

/* Mean over the configurations that were timed at a point. */
static double mean_factor(const moet_lookup *l, int32_t point)
{
    double sum = 0;
    int32_t count = 0;
    for (int32_t k = 0; k < l->config_count; k++) {
        if (cell_of(l, point, k)->time_ns == 0) continue;
        sum += cell_of(l, point, k)->factor;
        count++;
    }
    return count > 0 ? sum / count : 0;
}

/* Where a configuration was not timed its factor differs from the others' as at the nearest point where it was. */
static moet_status fill_unknown(moet_lookup *l, int32_t i)
{
    const moet_table_point *points = l->plan->tuned->points;
    const int32_t *counts = l->plan->options.device_counts ? NULL : points[i].counts;
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(points[i].counts, l->plan->problem.experts, &routing));
    for (int32_t k = 0; k < l->config_count; k++) {
        cell *own = cell_of(l, i, k);
        double least = INFINITY;
        for (int32_t j = 0; j < l->point_count && own->time_ns == 0; j++) {
            const double distance =
                hypot(points[i].log_rows - points[j].log_rows, points[i].log_skew - points[j].log_skew);
            if (cell_of(l, j, k)->time_ns == 0 || distance >= least) continue;
            least = distance;
            own->factor = mean_factor(l, i) + cell_of(l, j, k)->factor - mean_factor(l, j) + UNKNOWN_COST;
        }
        if (own->time_ns == 0) own->log_time = own->factor + estimate(l, k, counts, &routing);
    }
    return MOET_OK;
}

moet_status moet_lookup_create(const moet_plan *plan, moet_lookup **lookup)
{
    const bool counts_are_seen = !plan->options.device_counts;
    const size_t points = (size_t)plan->tuned->point_count, configs = (size_t)plan->prepared_count;
    moet_lookup *l = calloc(1, sizeof *l);
    moet_status status = MOET_OK;
    if (!l) return moet_fail(MOET_NO_MEMORY, "plan: out of memory");
    *l = (moet_lookup){.plan = plan,
                       .point_count = (int32_t)points,
                       .config_count = (int32_t)configs,
                       .usable = calloc(points + 1, sizeof *l->usable),
                       .refused = calloc(points + 1, sizeof *l->refused),
                       .cells = calloc(points * configs + 1, sizeof *l->cells),
                       .shapes = calloc(configs + 1, sizeof *l->shapes),
                       .costs = calloc(configs + 1, sizeof *l->costs)};
    if (!l->usable || !l->refused || !l->cells || !l->shapes || !l->costs) {
        status = moet_fail(MOET_NO_MEMORY, "plan: out of memory");
        goto done;
    }
    int32_t gemms = 1; /* of a configuration; a path has two */
    for (int32_t k = 0; k < l->config_count; k++) {
        describe_tiles(l, k);
        if (l->shapes[k].count > gemms) gemms = l->shapes[k].count;
    }
    l->contenders = counts_are_seen ? MOST_ESTIMATES / (gemms * (plan->problem.experts + OF_A_GEMM)) : 0;
    if (l->contenders > MOST_CONTENDERS) l->contenders = MOST_CONTENDERS;
    for (int32_t i = 0; i < l->point_count && status == MOET_OK; i++) status = describe_point(l, i);
    for (int32_t i = 0; i < l->point_count && status == MOET_OK; i++) status = fill_unknown(l, i);
done:
    if (status != MOET_OK) {
        moet_lookup_destroy(l);
        return status;
    }
    *lookup = l;
    return MOET_OK;
}

void moet_lookup_destroy(moet_lookup *lookup)
{
    if (!lookup) return;
    free(lookup->usable);
    free(lookup->refused);
    free(lookup->cells);
    free(lookup->shapes);
    free(lookup->costs);
    free(lookup);
}

/* ---- every launch ---- */

/* The index of the least cost. */
static int32_t find_least(const moet_lookup *l)
{
    int32_t least = 0;
    for (int32_t k = 1; k < l->config_count; k++) least = l->costs[k] < l->costs[least] ? k : least;
    return least;
}

static moet_decision decide_nearest(const moet_lookup *l, const moet_table_neighbor *near, int32_t count,
                                    const int32_t *counts, const moet_routing *routing)
{
    const moet_plan *plan = l->plan;
    const int32_t nearest = near[0].point, fallback = plan->fallback;
    double weights[MOET_TABLE_NEIGHBORS], sum = 0;
    for (int32_t i = 0; i < count; i++) sum += weights[i] = 1 / (near[i].distance * near[i].distance + NEAR_SQUARE);
    /* What the points say alone: ln of times, averaged. */
    for (int32_t k = 0; k < l->config_count; k++) {
        double cost = 0;
        for (int32_t i = 0; i < count; i++) cost += weights[i] * cell_of(l, near[i].point, k)->log_time;
        l->costs[k] = isnan(cost) ? INFINITY : cost / sum;
    }
    int32_t best = find_least(l);
    double least = l->costs[best], of_default = l->costs[fallback];
    if (l->contenders > 1) {
        /* What the counts say too, of the best by that. */
        least = of_default = INFINITY;
        const double worst = l->costs[best] + NO_CONTENDER;
        for (int32_t n = 0, k = best; n < l->contenders && l->costs[k] <= worst; n++, k = find_least(l)) {
            double cost = 0;
            for (int32_t i = 0; i < count; i++) cost += weights[i] * cell_of(l, near[i].point, k)->factor;
            cost = cost / sum + estimate(l, k, counts, routing);
            if (cost < least) best = k, least = cost;
            if (k == fallback) of_default = cost;
            l->costs[k] = INFINITY; /* done */
        }
    }
    /* The default wins ties, where it was measured. */
    if (cell_of(l, nearest, fallback)->time_ns > 0 && of_default <= least + DEFAULT_TIE) best = fallback;
    return (moet_decision){.prepared = &plan->prepared[best],
                           .point = &plan->tuned->points[nearest],
                           .tuned_ns = cell_of(l, nearest, best)->time_ns,
                           .hit = MOET_HIT_NEAREST,
                           .distance = near[0].distance};
}

moet_decision moet_lookup_decide(const moet_lookup *l, const int32_t *counts, const moet_routing *routing)
{
    const moet_plan *plan = l->plan;
    const moet_table_problem *tuned = plan->tuned;
    moet_table_neighbor near[MOET_TABLE_NEIGHBORS];
    const int32_t count = moet_table_nearest(tuned, l->usable, routing->rows, routing->max_over_mean, near);
    if (count == 0)
        return (moet_decision){
            .prepared = &plan->prepared[plan->fallback],
            .hit = MOET_HIT_DEFAULT,
            .is_refused = moet_table_nearest(tuned, l->refused, routing->rows, routing->max_over_mean, near) > 0};
    const int32_t point = near[0].point, own = plan->point_prepared[point];
    if (near[0].distance > 0 || own < 0) return decide_nearest(l, near, count, counts, routing);
    return (moet_decision){.prepared = &plan->prepared[own],
                           .point = &tuned->points[point],
                           .tuned_ns = tuned->points[point].winner[plan->kind].time_ns,
                           .hit = MOET_HIT_EXACT};
}
