/* What a loaded table answers: a problem's points, those near a routing, compiled kernels for untuned problems. And its
 * end. */
#include <math.h>
#include <stdlib.h>
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

const moet_table_problem *moet_table_find_alike(const moet_table *table, const moet_problem *problem)
{
    const moet_table_problem *best = NULL;
    int32_t fewest = INT32_MAX;
    for (int32_t i = 0; i < table->problem_count; i++) {
        const moet_problem *p = &table->problems[i].problem;
        char text[MOET_KEY_SIZE];
        if (p->op != problem->op || p->experts != problem->experts || p->hidden != problem->hidden ||
            p->inter != problem->inter)
            continue;
        const int32_t count = moet_problem_differences(p, problem, text);
        if (count >= fewest) continue;
        best = &table->problems[i];
        fewest = count;
    }
    return best;
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

bool moet_table_is_foreign(const moet_table *table, const moet_problem *problem)
{
    for (int32_t i = 0; i < table->foreign_count; i++) {
        if (problems_equal(&table->foreign[i], problem)) return true;
    }
    return false;
}

/* Just four times the rows is four times, whatever its logarithm is rounded to. */
#define ROUNDING 1e-9

int32_t moet_table_nearest(const moet_table_problem *problem, const bool *usable, int64_t rows, double max_over_mean,
                           moet_table_neighbor *list)
{
    const double log_rows = log((double)rows), log_skew = log(max_over_mean);
    double squares[MOET_TABLE_NEIGHBORS + 1];
    int32_t points[MOET_TABLE_NEIGHBORS + 1], count = 0;
    for (int32_t i = 0; i < problem->point_count; i++) {
        const moet_table_point *point = &problem->points[i];
        if (usable && !usable[i]) continue;
        const double by_rows = log_rows - point->log_rows, by_skew = log_skew - point->log_skew;
        const double square = by_rows * by_rows + by_skew * by_skew;
        if (fabs(by_rows) > MOET_NEAREST_LIMIT + ROUNDING || fabs(by_skew) > MOET_NEAREST_SKEW_LIMIT + ROUNDING)
            continue;
        int32_t at = count;
        for (; at > 0 && square < squares[at - 1]; at--) {
            squares[at] = squares[at - 1];
            points[at] = points[at - 1];
        }
        squares[at] = square;
        points[at] = i;
        if (count < MOET_TABLE_NEIGHBORS) count++;
    }
    for (int32_t i = 0; i < count; i++) {
        const bool is_same = problem->points[points[i]].rows == rows && squares[i] < 1e-18;
        list[i] = (moet_table_neighbor){points[i], is_same ? 0 : sqrt(squares[i])};
    }
    return count;
}

void moet_table_problem_release(moet_table_problem *problem)
{
    for (int32_t i = 0; i < problem->point_count; i++) {
        moet_table_point *point = &problem->points[i];
        for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++) {
            free(point->winner[kind].algorithms);
            free(point->winner[kind].others);
        }
        free(point->counts);
    }
    free(problem->points);
    free(problem->defaults);
}

void moet_table_close(moet_table *table)
{
    if (!table) return;
    for (int32_t i = 0; i < table->problem_count; i++) moet_table_problem_release(&table->problems[i]);
    for (int32_t i = 0; i < table->cubin_count; i++) moet_cubin_release(&table->cubins[i]);
    for (int32_t i = 0; i < table->refusal_count; i++) free(table->refusals[i]);
    moet_table_ep_release(table);
    free(table->problems);
    free(table->foreign);
    free(table->cubins);
    free(table->refusals);
    free(table);
}
