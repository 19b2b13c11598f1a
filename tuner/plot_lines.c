/* plot_lines.c: data of the pictures that are drawn from JSON lines: of benches beside each other, and of regret. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "bench_file.h"
#include "plot.h"

#define OURS "moe-tune"
#define BEST "best of them"
#define MOST_PEERS 12
#define WORST 5
#define MAX_LINES_BYTES (256 << 20)

/* ---- peers ---- */

typedef struct ratio {
    double ratio; /* time of the peer / time of ours */
    const moet_bench_point *point;
} ratio;

typedef struct peer {
    char name[64];
    int32_t count;
    ratio *ratios; /* [points of ours] */
} peer;

typedef struct peers {
    int32_t count;
    peer items[MOST_PEERS];
} peers;

static int by_ratio(const void *a, const void *b)
{
    const double x = ((const ratio *)a)->ratio, y = ((const ratio *)b)->ratio;
    return (x > y) - (x < y);
}

/* The peer of a name, added where it is new; NULL without memory or for one too many. */
static peer *find_peer(peers *all, const char *name, int32_t points)
{
    for (int32_t i = 0; i < all->count; i++) {
        if (strcmp(all->items[i].name, name) == 0) {
            return &all->items[i];
        }
    }
    peer *added = all->count < MOST_PEERS ? &all->items[all->count] : NULL;
    if (added != NULL) {
        *added = (peer){.ratios = calloc((size_t)points, sizeof *added->ratios)};
        snprintf(added->name, sizeof added->name, "%s", name);
        all->count++;
    }
    return added == NULL || added->ratios == NULL ? NULL : added;
}

/* Every point of ours against those of the same workload in a file; best[i] stays the least of point i. */
static moet_status match(const moet_bench_file *ours, const moet_bench_file *theirs, peers *all, ratio *best)
{
    for (int32_t i = 0; i < ours->count; i++) {
        const moet_bench_point *own = &ours->points[i];
        if (strcmp(own->peer, OURS) != 0) {
            continue;
        }
        for (int32_t k = 0; k < theirs->count; k++) {
            const moet_bench_point *other = &theirs->points[k];
            if (strcmp(other->peer, OURS) == 0 || !moet_bench_point_matches(own, other)) {
                continue;
            }
            peer *p = find_peer(all, other->peer, ours->count);
            if (p == NULL) {
                return moet_fail(MOET_INVALID, "more than %d peers, or no memory for them", MOST_PEERS);
            }
            const double value = other->time_us / own->time_us;
            if (p->count < ours->count) {
                p->ratios[p->count++] = (ratio){value, own};
            }
            /* Ours without a table is not what it has to beat. */
            if (strncmp(other->peer, OURS, strlen(OURS)) != 0 && (best[i].point == NULL || value < best[i].ratio)) {
                best[i] = (ratio){value, own};
            }
        }
    }
    return MOET_OK;
}

static double geomean(const peer *p)
{
    double sum = 0;
    for (int32_t i = 0; i < p->count; i++) {
        sum += log(p->ratios[i].ratio);
    }
    return exp(sum / p->count);
}

/* place_pct ratio peer; the worst points of the last one, the best of all, in settings. */
static moet_status write_curves(peers *all, const char *device, FILE *data, FILE *settings)
{
    fprintf(settings, "device = \"%s\"\npeers = \"", device);
    for (int32_t i = 0; i < all->count; i++) {
        peer *p = &all->items[i];
        qsort(p->ratios, (size_t)p->count, sizeof *p->ratios, by_ratio);
        fprintf(settings, "%s'%s: geomean %.3f of %d'", i > 0 ? " " : "", p->name, geomean(p), p->count);
        for (int32_t k = 0; k < p->count; k++) {
            fprintf(data, "%.6g %.6g %d\n", 100 * (k + 0.5) / p->count, p->ratios[k].ratio, i + 1);
        }
        fputs("\n\n", data); /* gnuplot's index */
    }
    fputs("\"\n", settings);
    const peer *best = &all->items[all->count - 1];
    fprintf(settings, "points = %d\nworst = \"", best->count);
    for (int32_t k = 0; k < WORST && k < best->count; k++) {
        const moet_bench_point *p = best->ratios[k].point;
        fprintf(settings, "%s%.3f  %s %lld %s %s", k > 0 ? "\\n" : "", best->ratios[k].ratio, p->name,
                (long long)p->rows, p->skew, p->op);
    }
    fputs("\"\n", settings);
    return MOET_OK;
}

static moet_status add_best(peers *all, const ratio *best, int32_t points)
{
    peer *p = find_peer(all, BEST, points);
    for (int32_t i = 0; i < points && p != NULL; i++) {
        if (best[i].point != NULL) {
            p->ratios[p->count++] = best[i];
        }
    }
    if (p == NULL || p->count == 0) {
        return moet_fail(MOET_NOT_FOUND, "no point of a peer is one of moe-tune's: give benches of the same workloads");
    }
    return MOET_OK;
}

moet_status moet_plot_write_peers(const moet_plot_sources *sources, FILE *data, FILE *settings)
{
    moet_bench_file ours = {0}, theirs[MOET_PLOT_MAX_FILES] = {{.count = 0}};
    peers all = {0};
    ratio *best = NULL;
    moet_status status = moet_bench_file_read(sources->bench, &ours);
    if (status == MOET_OK) {
        best = calloc((size_t)ours.count + 1, sizeof *best);
        status = best != NULL ? match(&ours, &ours, &all, best) : moet_fail(MOET_NO_MEMORY, "no memory for a picture");
    }
    for (int32_t f = 0; f < sources->peers_count && status == MOET_OK; f++) {
        status = moet_bench_file_read(sources->peers[f], &theirs[f]);
        if (status == MOET_OK) status = match(&ours, &theirs[f], &all, best);
    }
    if (status == MOET_OK) status = add_best(&all, best, ours.count);
    if (status == MOET_OK) status = write_curves(&all, ours.device, data, settings);
    for (int32_t i = 0; i < all.count; i++) {
        free(all.items[i].ratios);
    }
    free(best);
    for (int32_t f = 0; f < sources->peers_count; f++) {
        moet_bench_file_release(&theirs[f]);
    }
    moet_bench_file_release(&ours);
    return status;
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
