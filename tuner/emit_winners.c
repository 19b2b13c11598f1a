/* Two walks over the store, whose rows come sorted by device and problem: winners make the groups, with their points and
 * configurations; trials fill in what each of these took at each of those. */
#include "emit_winners.h"

#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "cover.h"

/* What a configuration took at a point. */
typedef struct cell {
    int64_t trial_id, time_ns, noise_ns; /* time 0: not measured */
} cell;

/* A tuned workload of a group, of one kind. */
typedef struct point {
    int64_t workload_id;
    moet_table_kind kind;
    cell winner;
    int32_t winner_config;
    int64_t default_ns;
    int32_t default_config; /* -1: not among the winners' */
    cell fastest;           /* of those that may win */
    cell *cells;            /* [configs] */
} point;

/* A device's problem. */
typedef struct group {
    char *device_key, *problem_key;
    point *points;
    int32_t point_count, point_room;
    char **configs; /* that won somewhere, each once */
    int32_t config_count, config_room;
} group;

typedef struct finder {
    const moet_text_list *skews;
    group *groups;
    int32_t group_count, group_room;
    int32_t at; /* of the walk over trials */
} finder;

static moet_status out_of_memory(void) { return moet_fail(MOET_NO_MEMORY, "emit: out of memory"); }

/* Room for one more of items[count]. */
static bool grow(void **items, int32_t count, int32_t *room, size_t size)
{
    if (count < *room) return true;
    const int32_t wanted = *room ? 2 * *room : 64;
    void *grown = realloc(*items, (size_t)wanted * size);
    if (!grown) return false;
    *items = grown;
    *room = wanted;
    return true;
}

static void release(finder *f)
{
    for (int32_t i = 0; i < f->group_count; i++) {
        group *g = &f->groups[i];
        for (int32_t p = 0; p < g->point_count; p++) free(g->points[p].cells);
        for (int32_t c = 0; c < g->config_count; c++) free(g->configs[c]);
        free(g->points);
        free(g->configs);
        free(g->device_key);
        free(g->problem_key);
    }
    free(f->groups);
}

static bool is_wanted(const moet_text_list *skews, const char *skew)
{
    for (int32_t i = 0; i < skews->count; i++) {
        const size_t length = strlen(skews->texts[i]);
        if (strncmp(skew, skews->texts[i], length) == 0 && (skew[length] == '\0' || skew[length] == ':')) return true;
    }
    return skews->count == 0;
}

static bool is_of(const group *g, const moet_store_trial_row *row)
{
    return strcmp(g->device_key, row->device_key) == 0 && strcmp(g->problem_key, row->problem_key) == 0;
}

static int32_t find_config(const group *g, const char *config)
{
    for (int32_t c = 0; c < g->config_count; c++) {
        if (strcmp(g->configs[c], config) == 0) return c;
    }
    return -1;
}

static moet_status visit_winner(void *context, const moet_store_winner_row *row)
{
    finder *f = context;
    const moet_store_trial_row *t = &row->trial;
    if (!is_wanted(f->skews, t->skew)) return MOET_OK;
    if (f->group_count == 0 || !is_of(&f->groups[f->group_count - 1], t)) {
        if (!grow((void **)&f->groups, f->group_count, &f->group_room, sizeof *f->groups)) return out_of_memory();
        group *g = &f->groups[f->group_count++];
        *g = (group){.device_key = strdup(t->device_key), .problem_key = strdup(t->problem_key)};
        if (!g->device_key || !g->problem_key) return out_of_memory();
    }
    group *g = &f->groups[f->group_count - 1];
    if (!grow((void **)&g->points, g->point_count, &g->point_room, sizeof *g->points) ||
        !grow((void **)&g->configs, g->config_count, &g->config_room, sizeof *g->configs))
        return out_of_memory();
    int32_t config = find_config(g, t->config);
    if (config < 0) {
        config = g->config_count;
        if (!(g->configs[config] = strdup(t->config))) return out_of_memory();
        g->config_count++;
    }
    g->points[g->point_count++] = (point){.workload_id = t->workload_id,
                                          .kind = row->kind,
                                          .winner = {t->trial_id, t->median_ns, t->noise_ns},
                                          .winner_config = config,
                                          .default_ns = row->default_trial.config ? row->default_trial.median_ns : 0,
                                          .default_config = -1};
    return MOET_OK;
}

static moet_status make_cells(finder *f)
{
    for (int32_t i = 0; i < f->group_count; i++) {
        const group *g = &f->groups[i];
        for (int32_t p = 0; p < g->point_count; p++) {
            if (!(g->points[p].cells = calloc((size_t)g->config_count, sizeof(cell)))) return out_of_memory();
        }
    }
    return MOET_OK;
}

static void keep_faster(cell *best, const cell *other)
{
    if (best->time_ns == 0 || other->time_ns < best->time_ns) *best = *other;
}

static moet_status visit_trial(void *context, const moet_store_trial_row *t)
{
    finder *f = context;
    if (!t->is_current || t->status != MOET_TRIAL_OK || t->median_ns <= 0) return MOET_OK;
    int32_t at = f->at;
    while (at < f->group_count && !is_of(&f->groups[at], t)) at++;
    if (at == f->group_count) return MOET_OK; /* its problem has no winner */
    f->at = at;
    const group *g = &f->groups[at];
    const int32_t config = find_config(g, t->config);
    for (int32_t p = 0; p < g->point_count; p++) {
        point *own = &g->points[p];
        if (own->workload_id != t->workload_id || (own->kind == MOET_TABLE_DEVICE_COUNTS && !t->device_counts))
            continue;
        const cell found = {t->trial_id, t->median_ns, t->noise_ns};
        if (t->final_rounds) keep_faster(&own->fastest, &found);
        if (config < 0) continue;
        keep_faster(&own->cells[config], &found);
        if (t->is_default && t->device_counts == (own->kind == MOET_TABLE_DEVICE_COUNTS))
            own->default_config = config;
    }
    return MOET_OK;
}

/* A point's winner is as good as can be, whatever else the store holds of it. */
static void put_winner(point *p)
{
    p->cells[p->winner_config] = p->winner;
    if (p->fastest.time_ns == 0 || p->winner.time_ns < p->fastest.time_ns) p->fastest = p->winner;
}

/* Costs of a kind's points and what is allowed of them; the number of points. */
static int32_t fill_costs(const group *g, moet_table_kind kind, double *cost, double *allowed)
{
    int32_t count = 0;
    for (int32_t p = 0; p < g->point_count; p++) {
        const point *own = &g->points[p];
        if (own->kind != kind) continue;
        const double fastest = (double)own->fastest.time_ns;
        allowed[count] = (double)own->winner.time_ns / fastest;
        for (int32_t c = 0; c < g->config_count; c++) {
            const cell *took = &own->cells[c];
            const int64_t noise = took->noise_ns > own->fastest.noise_ns ? took->noise_ns : own->fastest.noise_ns;
            double tie = 1 + (double)noise / fastest;
            if (tie < 1.01) tie = 1.01;
            const double ratio = (double)took->time_ns / fastest;
            /* One that is a tie costs what it costs, the others more than is allowed. */
            cost[(int64_t)count * g->config_count + c] = ratio == 0 || ratio <= tie ? ratio : ratio + 1e9;
            if (ratio > 0 && ratio <= tie && ratio > allowed[count]) allowed[count] = ratio;
        }
        count++;
    }
    return count;
}

static moet_status choose(const group *g, moet_table_kind kind, bool all, int32_t *chosen)
{
    if (all) {
        int32_t count = 0;
        for (int32_t p = 0; p < g->point_count; p++) {
            if (g->points[p].kind == kind) chosen[count++] = g->points[p].winner_config;
        }
        return MOET_OK;
    }
    double *cost = malloc((size_t)g->point_count * (size_t)g->config_count * sizeof *cost);
    double *allowed = malloc((size_t)g->point_count * sizeof *allowed);
    moet_status status = MOET_NO_MEMORY;
    if (cost && allowed) {
        /* The default that most points have. */
        int32_t preferred = -1, most = 0;
        for (int32_t c = 0; c < g->config_count; c++) {
            int32_t count = 0;
            for (int32_t p = 0; p < g->point_count; p++) count += g->points[p].default_config == c;
            if (count > most) preferred = c, most = count;
        }
        const int32_t points = fill_costs(g, kind, cost, allowed);
        status = moet_cover(points, g->config_count, cost, allowed, preferred, chosen);
    }
    free(cost);
    free(allowed);
    return status == MOET_NO_MEMORY ? out_of_memory() : status;
}

static int compare_choices(const void *a, const void *b)
{
    const moet_emit_choice *x = a, *y = b;
    if (x->trial_id != y->trial_id) return x->trial_id < y->trial_id ? -1 : 1;
    return (x->kind > y->kind) - (x->kind < y->kind);
}

/* Adds what a group gives. winners->items has room. */
static moet_status add_group(const group *g, bool all, double *regret_sum, moet_emit_winners *winners)
{
    int32_t *chosen = malloc((size_t)g->point_count * sizeof *chosen);
    bool *used = calloc((size_t)g->config_count, sizeof *used);
    moet_status status = chosen && used ? MOET_OK : out_of_memory();
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT && status == MOET_OK; kind++) {
        if ((status = choose(g, kind, all, chosen)) != MOET_OK) break;
        for (int32_t p = 0, of_kind = 0; p < g->point_count; p++) {
            const point *own = &g->points[p];
            if (own->kind != kind) continue;
            const int32_t config = chosen[of_kind++];
            const cell *took = &own->cells[config];
            const double regret = (double)took->time_ns / (double)own->winner.time_ns - 1;
            used[config] = true;
            *regret_sum += regret;
            if (regret > winners->most_regret) winners->most_regret = regret;
            winners->items[winners->count++] = (moet_emit_choice){took->trial_id, kind, own->default_ns};
        }
    }
    for (int32_t c = 0; status == MOET_OK && c < g->config_count; c++) winners->configs += used[c];
    winners->winner_configs += g->config_count;
    free(chosen);
    free(used);
    return status;
}

moet_status moet_emit_winners_find(moet_store *store, const char *device, const moet_text_list *skews, bool all,
                                   moet_emit_winners *winners)
{
    finder f = {.skews = skews};
    moet_emit_winners found = {0};
    const moet_store_filter filter = {.device_key = device, .ok_only = true};
    double regret_sum = 0;
    int64_t points = 0;
    moet_status status = moet_store_each_winner(store, &filter, visit_winner, &f);
    if (status == MOET_OK) status = make_cells(&f);
    if (status == MOET_OK) status = moet_store_each_trial(store, &filter, visit_trial, &f);
    if (status != MOET_OK) goto done;
    for (int32_t i = 0; i < f.group_count; i++) {
        for (int32_t p = 0; p < f.groups[i].point_count; p++) put_winner(&f.groups[i].points[p]);
        points += f.groups[i].point_count;
    }
    if (!(found.items = malloc(((size_t)points + 1) * sizeof *found.items))) {
        status = out_of_memory();
        goto done;
    }
    for (int32_t i = 0; i < f.group_count && status == MOET_OK; i++)
        status = add_group(&f.groups[i], all, &regret_sum, &found);
    if (status != MOET_OK) goto done;
    if (points > 0) found.mean_regret = regret_sum / (double)points;
    qsort(found.items, (size_t)found.count, sizeof *found.items, compare_choices);
    *winners = found;
    found.items = NULL;
done:
    free(found.items);
    release(&f);
    return status;
}

void moet_emit_winners_release(moet_emit_winners *winners)
{
    free(winners->items);
    *winners = (moet_emit_winners){0};
}

const moet_emit_choice *moet_emit_winners_get(const moet_emit_winners *winners, int64_t trial_id, moet_table_kind kind)
{
    const moet_emit_choice wanted = {.trial_id = trial_id, .kind = kind};
    return winners->count == 0 ? NULL
                               : bsearch(&wanted, winners->items, (size_t)winners->count, sizeof *winners->items,
                                         compare_choices);
}
