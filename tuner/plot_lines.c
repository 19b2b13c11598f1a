/* plot_lines.c: data of the pictures that are drawn from JSON lines: of benches beside each other, and of regret. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "peers.h"
#include "plot.h"

#define WORST 5
#define MAX_LINES_BYTES (256 << 20)

/* ---- peers ---- */

/* place_pct ratio, a block a peer; the worst points of the last one, the best of all, in settings. */
moet_status moet_plot_write_peers(const moet_plot_sources *sources, FILE *data, FILE *settings)
{
    moet_peers peers;
    MOET_TRY(moet_peers_read(sources->bench, sources->peers, sources->peers_count, &peers));
    fputs("device = \"", settings);
    moet_plot_put_text(settings, peers.ours.device);
    fputs("\"\npeers = \"", settings);
    for (int32_t i = 0; i < peers.count; i++) {
        const moet_peer *p = &peers.items[i];
        fputs(i > 0 ? " '" : "'", settings);
        moet_plot_put_text(settings, p->name);
        fprintf(settings, ": geomean %.3f of %d'", p->geomean, p->count);
        for (int32_t k = 0; k < p->count; k++) {
            fprintf(data, "%.6g %.6g\n", 100 * (k + 0.5) / p->count, p->ratios[k].ratio);
        }
        fputs("\n\n", data); /* gnuplot's index */
    }
    const moet_peer *best = &peers.items[peers.count - 1];
    fprintf(settings, "\"\npoints = %d\nworst = \"", best->count);
    for (int32_t k = 0; k < WORST && k < best->count; k++) {
        const moet_bench_point *p = best->ratios[k].point;
        fprintf(settings, "%s%.3f  ", k > 0 ? "\\n" : "", best->ratios[k].ratio);
        moet_plot_put_text(settings, p->name);
        fprintf(settings, " %lld ", (long long)p->rows);
        moet_plot_put_text(settings, p->skew);
        fputc(' ', settings);
        moet_plot_put_text(settings, p->op);
    }
    fputs("\"\n", settings);
    moet_peers_release(&peers);
    return MOET_OK;
}

/* ---- regret ---- */

static double member_number(const cJSON *object, const char *name)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(member) ? member->valuedouble : NAN;
}

static const char *member_text(const cJSON *object, const char *name)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(member) ? member->valuestring : NULL;
}

typedef struct regret_row {
    double regret_pct, default_pct;
    char hit[16], name[MOET_WORKLOAD_NAME_SIZE + MOET_SKEW_SIZE + 40];
} regret_row;

static int by_regret(const void *a, const void *b)
{
    const double x = ((const regret_row *)a)->regret_pct, y = ((const regret_row *)b)->regret_pct;
    return (x < y) - (x > y);
}

static bool is_hit(const char *text)
{
    for (moet_hit hit = 0; hit < MOET_HIT_COUNT; hit++) {
        if (strcmp(text, moet_hit_name(hit)) == 0) return true;
    }
    return false;
}

static moet_status parse_regret(const char *line, const char *path, int32_t number, regret_row *row)
{
    cJSON *object = cJSON_Parse(line);
    const char *hit = member_text(object, "hit"), *name = member_text(object, "name");
    const char *skew = member_text(object, "skew"), *op = member_text(object, "op");
    moet_status status = MOET_OK;
    *row = (regret_row){.regret_pct = member_number(object, "regret_pct"),
                        .default_pct = member_number(object, "default_pct")};
    if (hit == NULL || !is_hit(hit) || name == NULL || isnan(row->regret_pct)) {
        status = moet_fail(MOET_MALFORMED, "%s:%d: no line of `moe-tune regret --format json`", path, number);
    } else {
        snprintf(row->hit, sizeof row->hit, "%s", hit);
        snprintf(row->name, sizeof row->name, "%.95s %.0f %.47s %.8s", name, member_number(object, "rows"),
                 skew != NULL ? skew : "", op != NULL ? op : "");
    }
    cJSON_Delete(object);
    return status;
}

static int by_default(const void *a, const void *b)
{
    const double x = ((const regret_row *)a)->default_pct, y = ((const regret_row *)b)->default_pct;
    return (x < y) - (x > y);
}

static double mean_of(const regret_row *rows, int32_t count)
{
    double sum = 0;
    for (int32_t i = 0; i < count; i++) sum += rows[i].regret_pct;
    return sum / count;
}

/* Of rows that fall: the least value that 95 % of them do not exceed, as `regret` has it. */
static double p95_of(const regret_row *rows, int32_t count) { return rows[count / 20].regret_pct; }

/* What a table costs, sorted: place_pct regret_pct hit. */
static void write_rows(regret_row *rows, int32_t count, FILE *data)
{
    qsort(rows, (size_t)count, sizeof *rows, by_regret);
    for (int32_t i = 0; i < count; i++) {
        fprintf(data, "%.6g %.6g %s\n", 100 * (i + 0.5) / count, rows[i].regret_pct, rows[i].hit);
    }
    fputs("\n\n", data);
}

/* What no table costs, sorted by itself: place_pct default_pct; the most of it in settings. Moves rows. */
static void write_defaults(regret_row *rows, int32_t count, FILE *data, FILE *settings)
{
    int32_t known = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!isnan(rows[i].default_pct)) {
            rows[known++] = rows[i];
        }
    }
    qsort(rows, (size_t)known, sizeof *rows, by_default);
    for (int32_t i = 0; i < known; i++) {
        fprintf(data, "%.6g %.6g\n", 100 * (i + 0.5) / known, rows[i].default_pct);
    }
    if (known == 0) {
        fputs("0 NaN\n", data);
    }
    fprintf(settings, "default_most = %.6g\n", known > 0 ? rows[0].default_pct : 0);
}

/* title<n> = "FILE: mean 1.0 %, ..."; the file's name without its folder. */
static void write_title(int32_t number, const char *path, const regret_row *rows, int32_t count, FILE *settings)
{
    const char *slash = strrchr(path, '/');
    fprintf(settings, "title%d = \"", number);
    moet_plot_put_text(settings, slash != NULL ? slash + 1 : path);
    fprintf(settings, ": mean %.1f %%, p95 %.1f %%, most %.1f %%, n %d\"\n", mean_of(rows, count), p95_of(rows, count),
            rows[0].regret_pct, count);
}

static void write_worst(const regret_row *rows, int32_t count, FILE *settings)
{
    fputs("worst = \"", settings);
    for (int32_t i = 0; i < WORST && i < count; i++) {
        fprintf(settings, "%s%.1f %%  ", i > 0 ? "\\n" : "", rows[i].regret_pct);
        moet_plot_put_text(settings, rows[i].name);
    }
    fputs("\"\n", settings);
}

/* *rows is malloc'd. */
static moet_status read_rows(const char *path, regret_row **read, int32_t *read_count)
{
    char *text = NULL;
    regret_row *rows = NULL;
    size_t size = 0;
    int32_t count = 0, number = 0;
    moet_status status = moet_file_read_any(path, MAX_LINES_BYTES, &text, &size);
    for (char *rest = text, *line; status == MOET_OK && rest != NULL && (line = strsep(&rest, "\n")) != NULL;) {
        number++;
        if (line[strspn(line, " \t\r")] == '\0') {
            continue;
        }
        regret_row *grown = realloc(rows, ((size_t)count + 1) * sizeof *rows);
        if (grown == NULL) {
            status = moet_fail(MOET_NO_MEMORY, "no memory for a picture");
            break;
        }
        rows = grown;
        status = parse_regret(line, path, number, &rows[count]);
        /* An exact hit was tuned: what it costs is no regret. */
        count += status == MOET_OK && strcmp(rows[count].hit, moet_hit_name(MOET_HIT_EXACT)) != 0;
    }
    if (status == MOET_OK && count == 0) {
        status =
            moet_fail(MOET_NOT_FOUND, "%s: no workload that was not tuned; `moe-tune workloads draw` makes some", path);
    }
    free(text);
    if (status != MOET_OK) {
        free(rows);
        return status;
    }
    *read = rows;
    *read_count = count;
    return MOET_OK;
}

moet_status moet_plot_write_regret(const moet_plot_sources *sources, FILE *data, FILE *settings)
{
    regret_row *rows[MOET_PLOT_MAX_FILES] = {NULL};
    int32_t counts[MOET_PLOT_MAX_FILES] = {0};
    moet_status status = MOET_OK;
    double most = 0, least = 0;
    for (int32_t f = 0; f < sources->regret_count && status == MOET_OK; f++) {
        status = read_rows(sources->regrets[f], &rows[f], &counts[f]);
        if (status != MOET_OK) break;
        write_rows(rows[f], counts[f], data);
        write_title(f + 1, sources->regrets[f], rows[f], counts[f], settings);
        most = f == 0 || rows[f][0].regret_pct > most ? rows[f][0].regret_pct : most;
        least = f == 0 || rows[f][counts[f] - 1].regret_pct < least ? rows[f][counts[f] - 1].regret_pct : least;
    }
    if (status == MOET_OK) {
        fprintf(settings, "files = %d\npoints = %d\nmean = %.6g\np95 = %.6g\nmost = %.6g\nleast = %.6g\n",
                sources->regret_count, counts[0], mean_of(rows[0], counts[0]), p95_of(rows[0], counts[0]), most, least);
        write_worst(rows[0], counts[0], settings);
        write_defaults(rows[0], counts[0], data, settings);
    }
    for (int32_t f = 0; f < sources->regret_count; f++) free(rows[f]);
    return status;
}
