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
    fprintf(settings, "device = \"%s\"\npeers = \"", peers.ours.device);
    for (int32_t i = 0; i < peers.count; i++) {
        const moet_peer *p = &peers.items[i];
        fprintf(settings, "%s'%s: geomean %.3f of %d'", i > 0 ? " " : "", p->name, p->geomean, p->count);
        for (int32_t k = 0; k < p->count; k++) {
            fprintf(data, "%.6g %.6g\n", 100 * (k + 0.5) / p->count, p->ratios[k].ratio);
        }
        fputs("\n\n", data); /* gnuplot's index */
    }
    const moet_peer *best = &peers.items[peers.count - 1];
    fprintf(settings, "\"\npoints = %d\nworst = \"", best->count);
    for (int32_t k = 0; k < WORST && k < best->count; k++) {
        const moet_bench_point *p = best->ratios[k].point;
        fprintf(settings, "%s%.3f  %s %lld %s %s", k > 0 ? "\\n" : "", best->ratios[k].ratio, p->name,
                (long long)p->rows, p->skew, p->op);
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

static moet_status parse_regret(const char *line, const char *path, int32_t number, regret_row *row)
{
    cJSON *object = cJSON_Parse(line);
    const char *hit = member_text(object, "hit"), *name = member_text(object, "name");
    const char *skew = member_text(object, "skew"), *op = member_text(object, "op");
    moet_status status = MOET_OK;
    *row = (regret_row){.regret_pct = member_number(object, "regret_pct"),
                        .default_pct = member_number(object, "default_pct")};
    if (hit == NULL || name == NULL || isnan(row->regret_pct)) {
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

/* place_pct regret_pct hit; then, sorted by itself, place_pct default_pct. */
static void write_rows(regret_row *rows, int32_t count, FILE *data, FILE *settings)
{
    double sum = 0;
    qsort(rows, (size_t)count, sizeof *rows, by_regret);
    for (int32_t i = 0; i < count; i++) {
        sum += rows[i].regret_pct;
        fprintf(data, "%.6g %.6g %s\n", 100 * (i + 0.5) / count, rows[i].regret_pct, rows[i].hit);
    }
    const int32_t p95 = (int32_t)(0.05 * count);
    fprintf(settings, "points = %d\nmean = %.6g\np95 = %.6g\nmost = %.6g\nleast = %.6g\nworst = \"", count, sum / count,
            rows[p95].regret_pct, rows[0].regret_pct, rows[count - 1].regret_pct);
    for (int32_t i = 0; i < WORST && i < count; i++) {
        fprintf(settings, "%s%.1f %%  %s", i > 0 ? "\\n" : "", rows[i].regret_pct, rows[i].name);
    }
    fputs("\"\n", settings);
    int32_t known = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!isnan(rows[i].default_pct)) {
            rows[known++] = rows[i];
        }
    }
    qsort(rows, (size_t)known, sizeof *rows, by_default);
    fputs("\n\n", data);
    for (int32_t i = 0; i < known; i++) {
        fprintf(data, "%.6g %.6g\n", 100 * (i + 0.5) / known, rows[i].default_pct);
    }
    if (known == 0) {
        fputs("0 NaN\n", data);
    }
}

moet_status moet_plot_write_regret(const moet_plot_sources *sources, FILE *data, FILE *settings)
{
    char *text = NULL;
    regret_row *rows = NULL;
    size_t size = 0;
    int32_t count = 0, number = 0;
    moet_status status = moet_file_read(sources->regret, MAX_LINES_BYTES, &text, &size);
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
        status = parse_regret(line, sources->regret, number, &rows[count]);
        count += status == MOET_OK;
    }
    if (status == MOET_OK && count == 0) {
        status = moet_fail(MOET_NOT_FOUND, "%s: no point to draw", sources->regret);
    }
    if (status == MOET_OK) {
        write_rows(rows, count, data, settings);
    }
    free(rows);
    free(text);
    return status;
}
