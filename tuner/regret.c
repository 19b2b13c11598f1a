/* regret.c: see regret.h. */
#include "regret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "candidates.h"

#define RACING_ROUNDS 3
#define CLEAR_FACTOR 1.03 /* as of a sweep's race */

/* ---- rivals ---- */

moet_status moet_rivals_add(moet_rivals *rivals, const moet_config *config)
{
    for (int32_t i = 0; i < rivals->count; i++) {
        if (moet_config_equal(&rivals->configs[i], config)) {
            return MOET_OK;
        }
    }
    if (rivals->count == MOET_REGRET_MOST) {
        return moet_fail(MOET_NO_MEMORY,
                         "more than %d configurations of one problem: emit a table without --all-winners",
                         MOET_REGRET_MOST);
    }
    rivals->configs[rivals->count++] = *config;
    return MOET_OK;
}

moet_status moet_rivals_find(const moet_table *table, const moet_problem *problem, int64_t rows,
                             const moet_device_info *device, bool device_counts, moet_rivals *rivals)
{
    static const moet_text_list every_family = {0};
    const moet_table_problem *tuned = moet_table_find(table, problem);
    moet_candidates candidates = {0};
    moet_rivals found = {0};
    moet_status status = MOET_OK;
    for (int32_t i = 0; tuned != NULL && i < tuned->point_count; i++) {
        for (moet_table_kind kind = device_counts; kind < MOET_TABLE_KIND_COUNT && status == MOET_OK; kind++) {
            const moet_table_winner *winner = &tuned->points[i].winner[kind];
            if (winner->present) status = moet_rivals_add(&found, &winner->config);
        }
    }
    if (status == MOET_OK) status = moet_candidates_list(problem, rows, device, &every_family, NULL, &candidates);
    for (int32_t i = 0; i < candidates.count && status == MOET_OK; i++) {
        const moet_candidate *c = &candidates.items[i];
        if (c->family_default && c->applicable && (c->device_counts || !device_counts)) {
            status = moet_rivals_add(&found, &c->config);
        }
    }
    moet_candidates_release(&candidates);
    if (status == MOET_OK) {
        *rivals = found;
    }
    return status;
}

/* ---- measuring ---- */

typedef struct entrant {
    moet_config config;
    int32_t subject; /* -1: did not run */
    bool is_default;
} entrant;

typedef struct measuring {
    moet_bench *bench;
    moet_regret *regret;
    int32_t count;
    entrant entrants[MOET_REGRET_MOST + 1]; /* the first is the choice */
} measuring;

static bool is_live(const measuring *m, const entrant *e)
{
    return e->subject >= 0 && moet_bench_active(m->bench, e->subject);
}

static moet_status run_rounds(const measuring *m, int32_t rounds)
{
    moet_bench_clear_samples(m->bench);
    for (int32_t i = 0; i < rounds; i++) {
        MOET_TRY(moet_bench_round(m->bench));
    }
    return MOET_OK;
}

/* The fastest; the first of equally fast ones, so the choice before others. NULL: none runs. */
static const entrant *find_best(const measuring *m)
{
    const entrant *best = NULL;
    for (int32_t i = 0; i < m->count; i++) {
        const entrant *e = &m->entrants[i];
        if (is_live(m, e) && (best == NULL || moet_bench_median_ns(m->bench, e->subject) <
                                                  moet_bench_median_ns(m->bench, best->subject))) {
            best = e;
        }
    }
    return best;
}

/* The choice and the default stay. */
static void drop_clear(measuring *m)
{
    const entrant *best = find_best(m);
    if (best == NULL) {
        return;
    }
    const int64_t best_ns = moet_bench_median_ns(m->bench, best->subject);
    const int64_t best_noise_ns = moet_bench_noise_ns(m->bench, best->subject);
    for (int32_t i = 1; i < m->count; i++) {
        entrant *e = &m->entrants[i];
        if (!is_live(m, e) || e->is_default) {
            continue;
        }
        const int64_t time_ns = moet_bench_median_ns(m->bench, e->subject);
        if ((double)time_ns > CLEAR_FACTOR * (double)best_ns &&
            time_ns - moet_bench_noise_ns(m->bench, e->subject) > best_ns + best_noise_ns) {
            moet_bench_retire(m->bench, e->subject);
        }
    }
}

static int compare_reals(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median of the rounds' ratios and half their interquartile range, as stats.c has them of times. Both subjects were in
 * every round. */
static moet_status compare_rounds(const measuring *m, const entrant *above, const entrant *below, double *median,
                                  double *noise)
{
    const moet_trial *a = moet_bench_view(m->bench, above->subject), *b = moet_bench_view(m->bench, below->subject);
    const int32_t count = a->sample_count < b->sample_count ? a->sample_count : b->sample_count;
    double *ratios = malloc(((size_t)count + 1) * sizeof *ratios);
    if (ratios == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for %d rounds", count);
    }
    for (int32_t i = 0; i < count; i++) ratios[i] = (double)a->samples[i].time_ns / (double)b->samples[i].time_ns;
    qsort(ratios, (size_t)count, sizeof *ratios, compare_reals);
    *median = count % 2 == 1 ? ratios[count / 2] : (ratios[count / 2 - 1] + ratios[count / 2]) / 2;
    *noise = (ratios[count * 3 / 4] - ratios[count / 4]) / 2;
    free(ratios);
    return MOET_OK;
}

/* What became of the choice, which does not run. */
static void keep_failure(const measuring *m)
{
    const moet_trial *trial = moet_bench_view(m->bench, m->entrants[0].subject);
    m->regret->status = trial->status;
    snprintf(m->regret->reason, sizeof m->regret->reason, "%s", trial->reason);
}

static moet_status compare_best(measuring *m, int32_t best_at, int32_t rounds)
{
    moet_regret *regret = m->regret;
    const entrant *choice = &m->entrants[0], *best = &m->entrants[best_at], *without = NULL;
    for (int32_t i = 0; i < m->count; i++) {
        const entrant *e = &m->entrants[i];
        if (is_live(m, e) && e->is_default) {
            without = e;
        } else if (is_live(m, e) && i != 0 && i != best_at) {
            moet_bench_retire(m->bench, e->subject);
        }
    }
    MOET_TRY(run_rounds(m, rounds));
    if (!is_live(m, choice)) {
        keep_failure(m);
        return MOET_OK;
    }
    if (!is_live(m, best)) {
        return moet_fail(MOET_WRONG, "%s failed when it was timed again: %s", regret->best,
                         moet_bench_view(m->bench, best->subject)->reason);
    }
    double ratio = 1, noise = 0;
    MOET_TRY(compare_rounds(m, choice, best, &ratio, &noise));
    regret->regret = ratio - 1;
    regret->noise = noise;
    if (without != NULL && is_live(m, without)) {
        MOET_TRY(compare_rounds(m, without, best, &ratio, &noise));
        regret->default_regret = ratio - 1;
        regret->has_default = true;
    }
    regret->choice_ns = moet_bench_median_ns(m->bench, choice->subject);
    regret->best_ns = moet_bench_median_ns(m->bench, best->subject);
    return MOET_OK;
}

/* The entrants are there. */
static moet_status run(measuring *m, int32_t rounds)
{
    for (int32_t i = 0; i < m->count; i++) {
        m->regret->candidates += is_live(m, &m->entrants[i]);
        m->regret->failed += !is_live(m, &m->entrants[i]);
    }
    if (!is_live(m, &m->entrants[0])) {
        keep_failure(m);
        return MOET_OK;
    }
    moet_bench_set_racing(m->bench, true);
    MOET_TRY(run_rounds(m, RACING_ROUNDS));
    drop_clear(m);
    moet_bench_set_racing(m->bench, false);
    MOET_TRY(run_rounds(m, rounds));
    const entrant *best = find_best(m);
    if (best == NULL || !is_live(m, &m->entrants[0])) {
        keep_failure(m);
        return MOET_OK;
    }
    moet_config_format(&best->config, m->regret->best);
    return compare_best(m, (int32_t)(best - m->entrants), rounds);
}

static moet_status add_rivals(measuring *m, const moet_rivals *rivals, const moet_config *without, bool device_counts)
{
    for (int32_t i = 0; i < rivals->count; i++) {
        const moet_config *config = &rivals->configs[i];
        if (moet_config_equal(config, &m->entrants[0].config)) {
            continue;
        }
        entrant *e = &m->entrants[m->count++];
        *e = (entrant){*config, -1, without != NULL && moet_config_equal(config, without)};
        const moet_status status = moet_bench_add_config(m->bench, config, device_counts, &e->subject);
        if (status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND) {
            continue; /* counted as failed */
        }
        MOET_TRY(status);
    }
    return MOET_OK;
}

moet_status moet_regret_measure(moet_bench *bench, moet_handle *handle, const moet_problem *problem,
                                const moet_workload *workload, const moet_rivals *rivals,
                                const moet_device_info *device, bool device_counts, int32_t rounds, moet_regret *regret)
{
    moet_regret measured = {0};
    moet_planned planned = {0};
    moet_config without;
    measuring *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for %d configurations", rivals->count);
    }
    *m = (measuring){.bench = bench, .regret = &measured, .count = 1};
    moet_status status = moet_bench_set_workload(bench, problem, workload->counts, workload->tokens);
    if (status == MOET_OK)
        status =
            moet_planned_add(bench, handle, problem, workload->counts, device_counts, "the table's choice", &planned);
    if (status != MOET_OK) goto done;
    measured.choice = planned.choice;
    const bool has_default = moet_default_config(problem, workload->rows, device_counts, device, &without) == MOET_OK;
    m->entrants[0].subject = planned.subject;
    status = moet_config_parse(planned.choice.config, &m->entrants[0].config);
    m->entrants[0].is_default = has_default && moet_config_equal(&m->entrants[0].config, &without);
    if (status == MOET_OK) status = add_rivals(m, rivals, has_default ? &without : NULL, device_counts);
    if (status == MOET_OK) status = run(m, rounds);
    for (int32_t i = 0; i < m->count; i++) {
        if (m->entrants[i].subject >= 0) moet_bench_retire(bench, m->entrants[i].subject);
    }
    if (status == MOET_OK) {
        *regret = measured;
    }
done:
    moet_planned_release(&planned);
    free(m);
    return status;
}

moet_regret_sum moet_regret_summarize(double *values, int32_t count)
{
    double sum = 0;
    qsort(values, (size_t)count, sizeof *values, compare_reals);
    for (int32_t i = 0; i < count; i++) sum += values[i];
    const int32_t rank = (int32_t)(((int64_t)count * 95 + 99) / 100); /* from 1 on */
    return (moet_regret_sum){count, sum / count, values[rank - 1], values[count - 1]};
}
