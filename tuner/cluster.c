/* cluster.c: a few workloads that stand for many; see import.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "import.h"
#include "random.h"

#define COORDINATES 4
#define MAX_TURNS 100 /* of Lloyd's rounds, which mostly end far earlier */

typedef struct cluster_point {
    const moet_workload *workload; /* the first of its equals */
    double weight;                 /* of all its equals */
    double at[COORDINATES];        /* ln rows, ln max_over_mean, gini, ln tokens */
    int32_t cluster;
    double square; /* of the distance to its cluster */
} cluster_point;

typedef struct cluster_centre {
    double at[COORDINATES], sum[COORDINATES], weight;
} cluster_centre;

static void place(const moet_workload *w, double *at)
{
    int32_t most = 0;
    for (int32_t e = 0; e < w->experts; e++) {
        most = w->counts[e] > most ? w->counts[e] : most;
    }
    at[0] = log((double)w->rows);
    at[1] = log((double)most * w->experts / (double)w->rows);
    at[2] = moet_routing_gini(w->counts, w->experts);
    at[3] = w->tokens > 0 ? log((double)w->tokens) : 0;
}

static double square_between(const double *a, const double *b)
{
    double sum = 0;
    for (int32_t i = 0; i < COORDINATES; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return sum;
}

double moet_workload_distance(const moet_workload *a, const moet_workload *b)
{
    double x[COORDINATES], y[COORDINATES];
    place(a, x);
    place(b, y);
    if (a->tokens == 0 || b->tokens == 0) {
        x[3] = y[3] = 0;
    }
    return sqrt(square_between(x, y));
}

/* ---- equals and shapes ---- */

static int compare(int64_t a, int64_t b) { return (a > b) - (a < b); }

/* Shapes, apart by whether they say tokens. */
static int by_shape(const moet_workload *a, const moet_workload *b)
{
    int order = compare(a->experts, b->experts);
    if (order == 0) order = compare(a->hidden, b->hidden);
    if (order == 0) order = compare(a->inter, b->inter);
    if (order == 0) order = compare(a->tokens > 0, b->tokens > 0);
    return order;
}

static int by_content(const moet_workload *a, const moet_workload *b)
{
    int order = by_shape(a, b);
    if (order == 0) order = compare(a->rows, b->rows);
    if (order == 0) order = compare(a->tokens, b->tokens);
    for (int32_t e = 0; e < a->experts && order == 0; e++) {
        order = compare(a->counts[e], b->counts[e]);
    }
    return order;
}

static int by_content_and_place(const void *a, const void *b)
{
    const moet_workload *x = ((const cluster_point *)a)->workload, *y = ((const cluster_point *)b)->workload;
    const int order = by_content(x, y);
    return order != 0 ? order : (x > y) - (x < y);
}

/* The list's workloads in the order of by_content, equals as one. Allocated. */
static moet_status make_points(const moet_workloads *list, cluster_point **points, int32_t *count)
{
    cluster_point *made = calloc(list->count > 0 ? (size_t)list->count : 1, sizeof *made);
    int32_t different = 0;
    if (made == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory to cluster %d workloads", list->count);
    }
    for (int32_t i = 0; i < list->count; i++) {
        made[i].workload = &list->items[i];
        made[i].weight = moet_workload_weight(&list->items[i]);
    }
    qsort(made, (size_t)list->count, sizeof *made, by_content_and_place);
    for (int32_t i = 0; i < list->count; i++) {
        if (different > 0 && by_content(made[different - 1].workload, made[i].workload) == 0) {
            made[different - 1].weight += made[i].weight;
        } else {
            made[different++] = made[i];
        }
    }
    for (int32_t i = 0; i < different; i++) {
        place(made[i].workload, made[i].at);
        made[i].cluster = -1;
    }
    *points = made;
    *count = different;
    return MOET_OK;
}

/* ---- clusters of one shape ---- */

/* Each point to the nearest centre, of equally near ones the first; whether one changed. */
static bool assign(cluster_point *points, int32_t count, const cluster_centre *centres, int32_t centre_count)
{
    bool changed = false;
    for (int32_t i = 0; i < count; i++) {
        int32_t best = 0;
        double least = INFINITY;
        for (int32_t c = 0; c < centre_count; c++) {
            const double square = square_between(points[i].at, centres[c].at);
            best = square < least ? c : best;
            least = square < least ? square : least;
        }
        changed = changed || points[i].cluster != best;
        points[i].cluster = best;
        points[i].square = least;
    }
    return changed;
}

/* k-means++: each centre is a point, drawn by weight times squared distance to the centres before it. Returns how many
 * there are: fewer than `clusters` where fewer places differ. */
static int32_t draw_centres(cluster_point *points, int32_t count, int32_t clusters, uint64_t seed,
                            cluster_centre *centres)
{
    uint64_t random = seed;
    int32_t drawn = 0;
    for (int32_t i = 0; i < count; i++) {
        points[i].square = 1;
    }
    while (drawn < clusters) {
        double total = 0, passed = 0;
        for (int32_t i = 0; i < count; i++) {
            total += points[i].weight * points[i].square;
        }
        if (!(total > 0)) {
            break;
        }
        const double wanted = total * ((double)(moet_random_next(&random) >> 11) * 0x1p-53);
        int32_t chosen = -1;
        for (int32_t i = 0; i < count && (chosen < 0 || passed <= wanted); i++) {
            const double share = points[i].weight * points[i].square;
            chosen = share > 0 ? i : chosen;
            passed += share;
        }
        memcpy(centres[drawn].at, points[chosen].at, sizeof centres[drawn].at);
        for (int32_t i = 0; i < count; i++) {
            const double square = square_between(points[i].at, centres[drawn].at);
            points[i].square = drawn == 0 || square < points[i].square ? square : points[i].square;
        }
        drawn++;
    }
    return drawn;
}

/* Each centre to the weighted mean of its points; one without points stays. */
static void move_centres(const cluster_point *points, int32_t count, cluster_centre *centres, int32_t centre_count)
{
    for (int32_t c = 0; c < centre_count; c++) {
        centres[c].weight = 0;
        memset(centres[c].sum, 0, sizeof centres[c].sum);
    }
    for (int32_t i = 0; i < count; i++) {
        cluster_centre *c = &centres[points[i].cluster];
        c->weight += points[i].weight;
        for (int32_t j = 0; j < COORDINATES; j++) {
            c->sum[j] += points[i].weight * points[i].at[j];
        }
    }
    for (int32_t c = 0; c < centre_count; c++) {
        for (int32_t j = 0; j < COORDINATES && centres[c].weight > 0; j++) {
            centres[c].at[j] = centres[c].sum[j] / centres[c].weight;
        }
    }
}

/* Puts the point nearest to each centre in its place, and its index into medoids; returns how many there are. */
static int32_t choose_medoids(const cluster_point *points, int32_t count, cluster_centre *centres, int32_t centre_count,
                              int32_t *medoids)
{
    int32_t chosen = 0;
    for (int32_t c = 0; c < centre_count; c++) {
        int32_t best = -1;
        for (int32_t i = 0; i < count; i++) {
            const bool is_nearer = best < 0 || points[i].square < points[best].square;
            best = points[i].cluster == c && is_nearer ? i : best;
        }
        if (best >= 0) medoids[chosen++] = best;
    }
    for (int32_t c = 0; c < chosen; c++) {
        memcpy(centres[c].at, points[medoids[c]].at, sizeof centres[c].at);
    }
    return chosen;
}

static moet_status add_chosen(const cluster_point *point, double weight, moet_workloads *chosen)
{
    moet_workload copy = {0};
    MOET_TRY(moet_workload_copy(point->workload, &copy));
    copy.weight = weight;
    const moet_status status = moet_workloads_add(chosen, &copy);
    moet_workload_release(&copy);
    return status;
}

/* Points of one shape; total is the weight of all shapes. */
static moet_status cluster_shape(cluster_point *points, int32_t count, int32_t clusters, uint64_t seed, double total,
                                 moet_workloads *chosen, double *distance)
{
    moet_status status = MOET_OK;
    if (clusters <= 0 || clusters >= count) {
        for (int32_t i = 0; i < count && status == MOET_OK; i++) {
            status = add_chosen(&points[i], points[i].weight / total, chosen);
        }
        return status;
    }
    cluster_centre *centres = calloc((size_t)clusters, sizeof *centres);
    int32_t *medoids = calloc((size_t)clusters, sizeof *medoids);
    if (centres == NULL || medoids == NULL) {
        status = moet_fail(MOET_NO_MEMORY, "no memory for %d clusters", clusters);
        goto done;
    }
    int32_t made = draw_centres(points, count, clusters, seed, centres);
    for (int32_t turn = 0; assign(points, count, centres, made) && turn < MAX_TURNS; turn++) {
        move_centres(points, count, centres, made);
    }
    made = choose_medoids(points, count, centres, made, medoids);
    assign(points, count, centres, made);
    move_centres(points, count, centres, made); /* for the weights */
    for (int32_t i = 0; i < count; i++) {
        *distance = fmax(*distance, sqrt(points[i].square));
    }
    for (int32_t c = 0; c < made && status == MOET_OK; c++) {
        status = add_chosen(&points[medoids[c]], centres[c].weight / total, chosen);
    }
done:
    free(centres);
    free(medoids);
    return status;
}

static int by_weight(const void *a, const void *b)
{
    const moet_workload *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight) : by_content(x, y);
}

moet_status moet_workloads_cluster(const moet_workloads *list, int32_t clusters, uint64_t seed, moet_workloads *chosen,
                                   moet_cluster_summary *summary)
{
    cluster_point *points = NULL;
    moet_workloads made = {0};
    moet_cluster_summary sum = {0};
    double total = 0;
    int32_t count = 0;
    MOET_TRY(make_points(list, &points, &count));
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < count; i++) {
        total += points[i].weight;
    }
    for (int32_t begin = 0, end = 0; begin < count && status == MOET_OK; begin = end) {
        while (end < count && by_shape(points[begin].workload, points[end].workload) == 0) {
            end++;
        }
        status = cluster_shape(points + begin, end - begin, clusters, seed, total, &made, &sum.distance);
    }
    free(points);
    if (status != MOET_OK) {
        moet_workloads_release(&made);
        return status;
    }
    if (made.count > 0) qsort(made.items, (size_t)made.count, sizeof *made.items, by_weight);
    sum.different = count;
    *chosen = made;
    *summary = sum;
    return MOET_OK;
}
