/* plot_db.c: data of the pictures that are drawn from databases. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"
#include "plot.h"

moet_status moet_plot_open(const char *db, const char *part, moet_store **store, char key[MOET_DEVICE_KEY_SIZE])
{
    moet_store *opened = NULL;
    moet_store_keys keys = {0};
    MOET_TRY(moet_store_open(db, MOET_STORE_READ, &opened));
    moet_status status = moet_store_device_keys(opened, &keys);
    int32_t found = -1;
    for (int32_t i = 0; i < keys.count && status == MOET_OK; i++) {
        if (part != NULL && strstr(keys.texts[i], part) == NULL) {
            continue;
        }
        if (found >= 0) {
            status = moet_fail(MOET_INVALID, "%s: several devices%s%s: --device TEXT names one by a part of its key",
                               db, part != NULL ? " match " : "", part != NULL ? part : "");
        }
        found = i;
    }
    if (status == MOET_OK && found < 0) {
        status = moet_fail(MOET_NOT_FOUND, "%s: no device%s%s: sweep first", db, part != NULL ? " matches " : "",
                           part != NULL ? part : "");
    }
    if (status == MOET_OK) {
        snprintf(key, MOET_DEVICE_KEY_SIZE, "%s", keys.texts[found]);
        *store = opened;
    } else {
        moet_store_close(opened);
    }
    moet_store_keys_release(&keys);
    return status;
}

/* ---- trials one by one ---- */

#define MOST_SERIES 16
#define SERIES_SIZE 48

/* Words that become the key of a picture, in the order in which they were met. */
typedef struct series {
    int32_t count;
    char names[MOST_SERIES][SERIES_SIZE];
} series;

/* Whether it was there; one too many is not kept. */
static bool series_add(series *s, const char *name)
{
    for (int32_t i = 0; i < s->count; i++) {
        if (strcmp(s->names[i], name) == 0) {
            return true;
        }
    }
    if (s->count < MOST_SERIES) {
        snprintf(s->names[s->count++], SERIES_SIZE, "%s", name);
    }
    return false;
}

/* <name><of> = "word word" */
static void series_write(const series *s, const char *name, const char *of, FILE *settings)
{
    fprintf(settings, "%s%s = \"", name, of);
    for (int32_t i = 0; i < s->count; i++) {
        fprintf(settings, "%s%s", i > 0 ? " " : "", s->names[i]);
    }
    fputs("\"\n", settings);
}

typedef struct writer {
    FILE *data;
    int32_t rows, op_rows[MOET_OP_COUNT];
    series families, details; /* met so far, and of each op */
    series op_families[MOET_OP_COUNT], op_details[MOET_OP_COUNT];
    series of_point; /* EFFICIENCY: families that the workload at hand has had */
    char point[MOET_STORE_PROBLEM_SIZE + 32];
    double best; /* efficiency */
} writer;

static moet_status parse_point(const moet_store_trial_row *row, moet_problem *problem, moet_routing *routing)
{
    char key[MOET_STORE_PROBLEM_SIZE];
    snprintf(key, sizeof key, "%.*s", (int)moet_store_problem_length(row->problem_key), row->problem_key);
    MOET_TRY(moet_problem_parse(key, problem));
    MOET_TRY(moet_routing_summarize(row->counts, row->experts, routing));
    const int64_t tokens = moet_store_problem_tokens(row->problem_key);
    routing->tokens = tokens > 0 ? tokens : routing->rows;
    return MOET_OK;
}

/* The family, and that with its first main parameter, which tells winners of one family apart. */
static void name_config(const char *text, char family[SERIES_SIZE], char detail[SERIES_SIZE])
{
    moet_config config;
    snprintf(family, SERIES_SIZE, "%.*s", (int)strcspn(text, ":"), text);
    /* A word for gnuplot, whatever program wrote the database. */
    for (char *c = family; *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c)) *c = '_';
    }
    snprintf(detail, SERIES_SIZE, "%s", family);
    if (moet_config_parse(text, &config) != MOET_OK) {
        return; /* of an older version */
    }
    for (int32_t i = 0; i < config.family->param_count; i++) {
        if (config.family->params[i].search == MOET_SEARCH_FIRST) {
            snprintf(detail, SERIES_SIZE, "%.16s:%.12s=%.16s", family, config.family->params[i].name,
                     moet_config_text(&config, i));
            return;
        }
    }
}

/* op rows_an_expert max_over_mean efficiency_pct family detail flops_per_byte tflops */
static moet_status write_row(writer *w, const moet_store_trial_row *row)
{
    moet_problem problem;
    moet_routing routing;
    char family[SERIES_SIZE], detail[SERIES_SIZE];
    MOET_TRY(parse_point(row, &problem, &routing));
    const double flops = moet_problem_flops(&problem, &routing), bytes = moet_problem_bytes(&problem, &routing);
    if (row->status != MOET_TRIAL_OK || row->median_ns <= 0 || !isfinite(row->efficiency) || bytes <= 0) {
        return MOET_OK;
    }
    name_config(row->config, family, detail);
    series_add(&w->families, family);
    series_add(&w->details, detail);
    series_add(&w->op_families[problem.op], family);
    series_add(&w->op_details[problem.op], detail);
    fprintf(w->data, "%s %.6g %.6g %.6g %s %s %.6g %.6g\n", moet_op_text(problem.op), (double)row->rows / row->experts,
            row->max_over_mean, 100 * row->efficiency, family, detail, flops / bytes,
            flops / (double)row->median_ns * 1e-3);
    w->best = fmax(w->best, row->efficiency);
    w->rows++;
    w->op_rows[problem.op]++;
    return MOET_OK;
}

static moet_status visit_winner(void *context, const moet_store_trial_row *row)
{
    return row->is_winner[MOET_TABLE_ANY] ? write_row(context, row) : MOET_OK;
}

/* Trials of a workload come by time: the first of each family is its best. */
static moet_status visit_best(void *context, const moet_store_trial_row *row)
{
    writer *w = context;
    char point[sizeof w->point], family[SERIES_SIZE], detail[SERIES_SIZE];
    if (row->status != MOET_TRIAL_OK || !row->is_current || row->is_suspect) {
        return MOET_OK;
    }
    snprintf(point, sizeof point, "%lld %s", (long long)row->workload_id, row->problem_key);
    if (strcmp(point, w->point) != 0) {
        memcpy(w->point, point, sizeof point);
        w->of_point.count = 0;
    }
    name_config(row->config, family, detail);
    return series_add(&w->of_point, family) ? MOET_OK : write_row(w, row);
}

static moet_status write_trials(moet_plot_kind kind, const moet_plot_sources *sources, FILE *data, FILE *settings,
                                double *best)
{
    writer w = {.data = data};
    moet_store *store = NULL;
    moet_device_info info;
    moet_ceilings ceilings;
    char key[MOET_DEVICE_KEY_SIZE];
    MOET_TRY(moet_plot_open(sources->dbs[0], sources->device, &store, key));
    const moet_store_filter filter = {.device_key = key, .winners_only = kind != MOET_PLOT_EFFICIENCY, .ok_only = true};
    moet_status status = moet_store_device_info(store, key, &info, &ceilings);
    if (status == MOET_OK) {
        status = moet_store_each_trial(store, &filter, kind == MOET_PLOT_EFFICIENCY ? visit_best : visit_winner, &w);
    }
    moet_store_close(store);
    if (status == MOET_OK && w.rows == 0) {
        status = moet_fail(MOET_NOT_FOUND, "%s: no winner to draw: sweep first", sources->dbs[0]);
    }
    if (status == MOET_OK) {
        const double hbm = fmax(ceilings.copy_bytes_per_s, ceilings.read_bytes_per_s);
        fputs("device = \"", settings);
        moet_plot_put_text(settings, info.name);
        fprintf(settings, "\"\ndense = %.6g\nhbm = %.6g\ndoubt = \"", ceilings.dense_flops_per_s / 1e12, hbm / 1e12);
        if (moet_plot_is_doubtful(w.best))
            fprintf(settings, "Efficiency up to %.0f %%: " MOET_PLOT_DOUBT, 100 * w.best);
        fputs("\"\n", settings);
        *best = kind != MOET_PLOT_WINNERS ? w.best : 0;
        series_write(&w.families, "families", "", settings);
        series_write(&w.details, "details", "", settings);
        for (int32_t op = 0; op < MOET_OP_COUNT; op++) {
            const char *of = moet_op_text((moet_op)op);
            fprintf(settings, "rows_%s = %d\n", of, w.op_rows[op]);
            series_write(&w.op_families[op], "families_", of, settings);
            series_write(&w.op_details[op], "details_", of, settings);
        }
    }
    return status;
}

/* ---- sweeps beside each other ---- */

/* A winner's time on a workload, in each database; 0: not there. */
typedef struct sweep_point {
    char *key;
    int64_t time_ns[MOET_PLOT_MAX_FILES];
} sweep_point;

typedef struct sweep_points {
    int32_t count, capacity, file;
    sweep_point *items;
} sweep_points;

static void sweep_points_release(sweep_points *points)
{
    for (int32_t i = 0; i < points->count; i++) {
        free(points->items[i].key);
    }
    free(points->items);
}

static char *format_key(const moet_store_trial_row *row)
{
    const size_t size = MOET_STORE_PROBLEM_SIZE + 12 * (size_t)row->experts;
    char *key = malloc(size);
    size_t used = key != NULL ? (size_t)snprintf(key, size, "%s", row->problem_key) : 0;
    for (int32_t e = 0; key != NULL && e < row->experts; e++) {
        used += (size_t)snprintf(key + used, size - used, " %d", row->counts[e]);
    }
    return key;
}

static moet_status visit_sweep(void *context, const moet_store_trial_row *row)
{
    sweep_points *points = context;
    if (!row->is_winner[MOET_TABLE_ANY]) {
        return MOET_OK;
    }
    char *key = format_key(row);
    if (key == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the workloads of a database");
    }
    for (int32_t i = 0; i < points->count; i++) {
        if (strcmp(points->items[i].key, key) == 0) {
            points->items[i].time_ns[points->file] = row->median_ns;
            free(key);
            return MOET_OK;
        }
    }
    if (points->count == points->capacity) {
        const int32_t capacity = points->capacity > 0 ? 2 * points->capacity : 64;
        sweep_point *grown = realloc(points->items, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            free(key);
            return moet_fail(MOET_NO_MEMORY, "no memory for the workloads of a database");
        }
        points->items = grown;
        points->capacity = capacity;
    }
    points->items[points->count] = (sweep_point){.key = key};
    points->items[points->count++].time_ns[points->file] = row->median_ns;
    return MOET_OK;
}

static moet_status visit_run(void *context, const moet_store_run_row *row)
{
    *(double *)context += row->seconds;
    return MOET_OK;
}

/* The best of all databases by a database's own, over the workloads that all of them have, by the time that a sweep
 * took for one of its workloads: sweeps may differ in how many they did. */
static void write_quality(const sweep_points *points, const moet_plot_sources *sources, const double *seconds,
                          FILE *data, FILE *settings, int32_t *common)
{
    double log_sum[MOET_PLOT_MAX_FILES] = {0}, least[MOET_PLOT_MAX_FILES], cost[MOET_PLOT_MAX_FILES];
    int32_t own[MOET_PLOT_MAX_FILES] = {0}, order[MOET_PLOT_MAX_FILES];
    *common = 0;
    for (int32_t f = 0; f < sources->db_count; f++) {
        least[f] = 1;
    }
    for (int32_t i = 0; i < points->count; i++) {
        const int64_t *time_ns = points->items[i].time_ns;
        int64_t best = INT64_MAX;
        for (int32_t f = 0; f < sources->db_count; f++) {
            best = time_ns[f] < best ? time_ns[f] : best; /* 0: one lacks it */
            own[f] += time_ns[f] > 0;
        }
        for (int32_t f = 0; f < sources->db_count && best > 0; f++) {
            const double quality = (double)best / (double)time_ns[f];
            log_sum[f] += log(quality);
            least[f] = quality < least[f] ? quality : least[f];
        }
        *common += best > 0;
    }
    for (int32_t n = 0; n < sources->db_count; n++) { /* the quickest first */
        int32_t at = n;
        cost[n] = own[n] > 0 ? seconds[n] / own[n] : 0;
        for (; at > 0 && cost[order[at - 1]] > cost[n]; at--) order[at] = order[at - 1];
        order[at] = n;
    }
    for (int32_t n = 0; n<sources->db_count && * common> 0; n++) {
        const int32_t f = order[n];
        const char *name = strrchr(sources->dbs[f], '/');
        fprintf(data, "%.6g %.6g %.6g \"", cost[f], 100 * exp(log_sum[f] / *common), 100 * least[f]);
        moet_plot_put_text(data, name != NULL ? name + 1 : sources->dbs[f]);
        fputs("\"\n", data);
    }
    fprintf(settings, "common = %d\n", *common);
}

static moet_status write_sweeps(const moet_plot_sources *sources, FILE *data, FILE *settings)
{
    sweep_points points = {0};
    double seconds[MOET_PLOT_MAX_FILES] = {0};
    char key[MOET_DEVICE_KEY_SIZE] = "";
    int32_t common = 0;
    moet_status status = MOET_OK;
    for (int32_t f = 0; f < sources->db_count && status == MOET_OK; f++) {
        moet_store *store = NULL;
        points.file = f;
        status = moet_plot_open(sources->dbs[f], f == 0 ? sources->device : key, &store, key);
        if (status == MOET_OK) {
            const moet_store_filter filter = {.device_key = key, .winners_only = true, .ok_only = true};
            status = moet_store_each_trial(store, &filter, visit_sweep, &points);
            if (status == MOET_OK) status = moet_store_each_run(store, key, visit_run, &seconds[f]);
            moet_store_close(store);
        }
    }
    if (status == MOET_OK) {
        write_quality(&points, sources, seconds, data, settings, &common);
        if (common == 0) {
            status = moet_fail(MOET_NOT_FOUND, "%s: no workload that all databases have a winner for", sources->dbs[0]);
        }
    }
    sweep_points_release(&points);
    return status;
}

moet_status moet_plot_write_db(moet_plot_kind kind, const moet_plot_sources *sources, FILE *data, FILE *settings,
                               double *best)
{
    return kind == MOET_PLOT_SWEEP ? write_sweeps(sources, data, settings)
                                   : write_trials(kind, sources, data, settings, best);
}
