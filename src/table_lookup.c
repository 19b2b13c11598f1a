/* What a loaded table answers: a problem's points, the point for a routing, compiled kernels for untuned problems. */
#include <math.h>
#include <string.h>

#include "table.h"

static bool problems_equal(const moet_problem *a, const moet_problem *b)
{
    return a->op == b->op && a->experts == b->experts && a->hidden == b->hidden && a->inter == b->inter &&
           a->x_dtype == b->x_dtype && a->w_dtype == b->w_dtype && a->out_dtype == b->out_dtype &&
           a->scales == b->scales && a->layout == b->layout && a->activation == b->activation && a->bias == b->bias &&
           a->prob == b->prob && a->numerics == b->numerics && a->down_bias == b->down_bias &&
           a->combine == b->combine && a->clamp == b->clamp;
}

const moet_table_problem *moet_table_find(const moet_table *table, const moet_problem *problem)
{
    for (int32_t i = 0; i < table->problem_count; i++) {
        if (problems_equal(&table->problems[i].problem, problem)) return &table->problems[i];
    }
    return NULL;
}

static bool sources_equal(const moet_source *a, const moet_source *b)
{
    if (a->text != b->text || strcmp(a->arch, b->arch) != 0 || a->option_count != b->option_count) return false;
    for (int32_t i = 0; i < a->option_count; i++) {
        if (strcmp(a->options[i], b->options[i]) != 0) return false;
    }
    return true;
}

/* The cubin among a table's defaults that is what this source compiles to; NULL if there is none. */
static const moet_cubin *find_compiled(const moet_table *table, const moet_family *family, const moet_source *wanted,
                                       const moet_device_info *info)
{
    moet_source offered;
    for (int32_t i = 0; i < table->problem_count; i++) {
        const moet_table_problem *p = &table->problems[i];
        for (int32_t j = 0; j < p->default_count; j++) {
            const moet_table_default *d = &p->defaults[j];
            if (d->config.family != family) continue;
            for (int32_t c = 0; c < d->cubin_count; c++) {
                if (family->source(&p->problem, &d->config, info->cc_major, info->cc_minor, c, &offered) &&
                    sources_equal(wanted, &offered))
                    return d->cubins[c];
            }
        }
    }
    return NULL;
}

int32_t moet_table_default_cubins(const moet_table *table, const moet_problem *problem, const moet_config *config,
                                  const moet_device *device, const moet_cubin **list)
{
    const moet_device_info *info = &device->info;
    const moet_family *family = config->family;
    moet_source wanted;
    int32_t n = 0;
    if (!family->source) return 0;
    for (; n < MOET_MAX_CUBINS && family->source(problem, config, info->cc_major, info->cc_minor, n, &wanted); n++) {
        if (!(list[n] = find_compiled(table, family, &wanted, info))) return 0;
    }
    return n;
}

const moet_table_point *moet_table_lookup(const moet_table_problem *problem, moet_table_kind kind,
                                          const int32_t *usable, int64_t rows, double max_over_mean, moet_hit *hit,
                                          double *distance)
{
    const double log_rows = log((double)rows), log_skew = log(max_over_mean);
    const moet_table_point *best = NULL;
    double best_square = MOET_NEAREST_LIMIT * MOET_NEAREST_LIMIT;
    for (int32_t i = 0; i < problem->point_count; i++) {
        const moet_table_point *point = &problem->points[i];
        if (!point->winner[kind].present || (usable && usable[i] < 0)) continue;
        double by_rows = log_rows - point->log_rows, by_skew = log_skew - point->log_skew;
        double square = by_rows * by_rows + by_skew * by_skew;
        if (square > best_square || (best && square == best_square)) continue;
        best = point;
        best_square = square;
    }
    if (!best) return NULL;
    bool exact = best->rows == rows && best_square < 1e-18;
    *hit = exact ? MOET_HIT_EXACT : MOET_HIT_NEAREST;
    *distance = exact ? 0 : sqrt(best_square);
    return best;
}
