/* Two walks over the store, whose rows come sorted by device and problem: winners make the groups, with their points
 * and configurations; trials fill in what each of these took at each of those. */
#include "emit_winners.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "cover.h"

/* What a configuration took at a point. */
typedef struct cell {
    int64_t trial_id, time_ns, noise_ns; /* time 0: not measured */
    bool is_final;                       /* of final rounds */
} cell;

/* Times of a race's first rounds are taken on a device that has worked less, and are 1 to 2 % shorter than those of final
 * rounds at the power limit: they count this much more. */
#define RACING_FACTOR 1.02

static double comparable_ns(const cell *took) { return (double)took->time_ns * (took->is_final ? 1 : RACING_FACTOR); }

/* Of a bit class at a point: what may take the winner's place. */
typedef struct rival {
    cell took;
    int32_t config;
    bool final_rounds;
} rival;

/* A tuned workload of a group, of one kind. */
typedef struct point {
    int64_t workload_id;
    moet_table_kind kind;
    cell winner;
    int32_t winner_config;
    char *default_text; /* NULL: none was measured that may be chosen */
    int64_t default_ns;
    bool is_default_suspect;
    int32_t default_config; /* -1: not among the winners' */
    char *runner_up;        /* NULL: none */
    cell fastest;           /* of those that may win */
    rival best, standard;   /* with bits, of the class: the fastest, the default */
    int64_t free_ns;        /* with bits: the winner of all */
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
    const moet_emit_bits *bits; /* NULL: all */
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
        for (int32_t p = 0; p < g->point_count; p++) {
            free(g->points[p].cells);
            free(g->points[p].default_text);
            free(g->points[p].runner_up);
        }
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

/* Adds it if need be. */
static moet_status put_config(group *g, const char *text, int32_t *config)
{
    if ((*config = find_config(g, text)) >= 0) return MOET_OK;
    if (!grow((void **)&g->configs, g->config_count, &g->config_room, sizeof *g->configs)) return out_of_memory();
    if (!(g->configs[g->config_count] = strdup(text))) return out_of_memory();
    *config = g->config_count++;
    return MOET_OK;
}

static bool is_allowed(const finder *f, int64_t trial_id) { return !f->bits || moet_emit_bits_has(f->bits, trial_id); }

static bool may_win(const finder *f, const moet_store_trial_row *t)
{
    return t->is_current && !t->is_suspect && t->status == MOET_TRIAL_OK && t->median_ns > 0 &&
           is_allowed(f, t->trial_id);
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
    if (!grow((void **)&g->points, g->point_count, &g->point_room, sizeof *g->points)) return out_of_memory();
    int32_t config = -1;
    if (is_allowed(f, t->trial_id)) MOET_TRY(put_config(g, t->config, &config));
    /* Of another class than the table's it must not be taken, nor where it was wrong beside. */
    const moet_store_rival *fallback = &row->default_trial;
    const bool has_default = fallback->config && !f->bits && !fallback->is_suspect;
    char *default_text = has_default ? strdup(fallback->config) : NULL;
    if (has_default && !default_text) return out_of_memory();
    /* With bits, the fastest of all may be of another class. */
    const bool has_runner_up = row->runner_up.config && !f->bits;
    char *runner_up = has_runner_up ? strdup(row->runner_up.config) : NULL;
    if (has_runner_up && !runner_up) {
        free(default_text);
        return out_of_memory();
    }
    g->points[g->point_count++] = (point){.workload_id = t->workload_id,
                                          .kind = row->kind,
                                          .winner = {t->trial_id, t->median_ns, t->noise_ns, t->final_rounds},
                                          .winner_config = config,
                                          .default_text = default_text,
                                          .default_ns = fallback->config ? fallback->median_ns : 0,
                                          .is_default_suspect = fallback->is_suspect,
                                          .free_ns = t->median_ns,
                                          .default_config = -1,
                                          .runner_up = runner_up};
    return MOET_OK;
}

/* The group of a row, whose turn it is or comes; NULL: its problem has no winner. */
static group *find_group(finder *f, const moet_store_trial_row *t)
{
    int32_t at = f->at;
    while (at < f->group_count && !is_of(&f->groups[at], t)) at++;
    if (at == f->group_count) return NULL;
    f->at = at;
    return &f->groups[at];
}

static bool is_of_point(const point *p, const moet_store_trial_row *t)
{
    return p->workload_id == t->workload_id && (p->kind != MOET_TABLE_DEVICE_COUNTS || t->device_counts);
}

static bool is_default_of(const point *p, const moet_store_trial_row *t)
{
    return t->is_default && t->device_counts == (p->kind == MOET_TABLE_DEVICE_COUNTS);
}

/* Trials of a workload come by time: the first of final rounds is the fastest of these. */
static moet_status visit_rival(void *context, const moet_store_trial_row *t)
{
    finder *f = context;
    if (!may_win(f, t)) return MOET_OK;
    group *g = find_group(f, t);
    for (int32_t p = 0; g && p < g->point_count; p++) {
        point *own = &g->points[p];
        if (own->winner_config >= 0 || !is_of_point(own, t)) continue;
        rival found = {{t->trial_id, t->median_ns, t->noise_ns, t->final_rounds}, -1, t->final_rounds};
        const bool is_best = own->best.took.time_ns == 0 || (t->final_rounds && !own->best.final_rounds);
        if (!is_best && !is_default_of(own, t)) continue;
        MOET_TRY(put_config(g, t->config, &found.config));
        if (is_best) own->best = found;
        if (is_default_of(own, t)) own->standard = found;
    }
    return MOET_OK;
}

/* How far behind a time may be to be as good: max(1 %, both noises). */
static double tie_of(const cell *a, const cell *fastest)
{
    const int64_t noise = a->noise_ns > fastest->noise_ns ? a->noise_ns : fastest->noise_ns;
    const double tie = 1 + (double)noise / (double)fastest->time_ns;
    return tie < 1.01 ? 1.01 : tie;
}

/* Puts the class's best where the winner is of another; a tie is the default's. Points without one go. */
static void put_rivals(finder *f, moet_bits_cost *cost)
{
    double log_sum = 0;
    for (int32_t i = 0; i < f->group_count; i++) {
        group *g = &f->groups[i];
        int32_t kept = 0;
        for (int32_t p = 0; p < g->point_count; p++) {
            point own = g->points[p];
            if (own.winner_config < 0 && own.best.took.time_ns == 0) {
                cost->left_out++; /* it has no runner-up: with bits none is taken */
                continue;
            }
            if (own.winner_config < 0) {
                const cell *standard = &own.standard.took, *best = &own.best.took;
                const bool is_tie = standard->time_ns > 0 &&
                                    (double)standard->time_ns <= tie_of(standard, best) * (double)best->time_ns;
                own.winner = is_tie ? *standard : *best;
                own.winner_config = is_tie ? own.standard.config : own.best.config;
                cost->other++;
            }
            const double ratio = (double)own.winner.time_ns / (double)own.free_ns;
            if (ratio > cost->worst) cost->worst = ratio;
            log_sum += log(ratio);
            cost->points++;
            g->points[kept++] = own;
        }
        g->point_count = kept;
    }
    if (cost->points > 0) cost->geomean = exp(log_sum / cost->points);
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
    if (best->time_ns == 0 || comparable_ns(other) < comparable_ns(best)) *best = *other;
}

static moet_status visit_trial(void *context, const moet_store_trial_row *t)
{
    finder *f = context;
    if (!may_win(f, t)) return MOET_OK;
    const group *g = find_group(f, t);
    if (!g) return MOET_OK;
    const int32_t config = find_config(g, t->config);
    for (int32_t p = 0; p < g->point_count; p++) {
        point *own = &g->points[p];
        if (!is_of_point(own, t)) continue;
        const cell found = {t->trial_id, t->median_ns, t->noise_ns, t->final_rounds};
        if (t->final_rounds) keep_faster(&own->fastest, &found);
        if (config < 0) continue;
        keep_faster(&own->cells[config], &found);
        if (is_default_of(own, t)) own->default_config = config;
    }
    return MOET_OK;
}

/* A point's winner is as good as can be, whatever else the store holds of it. */
static void put_winner(point *p)
{
    p->cells[p->winner_config] = p->winner;
    if (p->fastest.time_ns == 0 || comparable_ns(&p->winner) < comparable_ns(&p->fastest)) p->fastest = p->winner;
}

/* Costs of a kind's points and what is allowed of them; the number of points. */
static int32_t fill_costs(const group *g, moet_table_kind kind, double *cost, double *allowed)
{
    int32_t count = 0;
    for (int32_t p = 0; p < g->point_count; p++) {
        const point *own = &g->points[p];
        if (own->kind != kind) continue;
        const double fastest = comparable_ns(&own->fastest);
        allowed[count] = comparable_ns(&own->winner) / fastest;
        for (int32_t c = 0; c < g->config_count; c++) {
            const cell *took = &own->cells[c];
            const double tie = tie_of(took, &own->fastest);
            const double ratio = comparable_ns(took) / fastest;
            const bool is_slower = own->default_ns > 0 && !own->is_default_suspect && took->time_ns > own->default_ns;
            /* The store judged the winner, in integers: what its ratio is rounded to must not overrule that. */
            const bool is_good = c == own->winner_config || (ratio <= tie && !is_slower);
            /* One that is a tie costs what it costs, the others more than is allowed. */
            cost[(int64_t)count * g->config_count + c] = ratio == 0 || is_good ? ratio : ratio + 1e9;
            if (ratio > 0 && is_good && ratio > allowed[count]) allowed[count] = ratio;
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

static int compare_others(const void *a, const void *b)
{
    const moet_emit_other *x = a, *y = b;
    return strcmp(x->config, y->config);
}

/* choice->others has room. */
static bool add_other(moet_emit_choice *choice, const char *config, int64_t time_ns)
{
    char *copy = strdup(config);
    if (copy) choice->others[choice->other_count++] = (moet_emit_other){copy, time_ns};
    return copy;
}

/* What the configurations that were chosen anywhere, and the default, took at a point beside its own. */
static moet_status find_others(const group *g, const point *own, int32_t config, const bool *chosen,
                               moet_emit_choice *choice)
{
    if (!(choice->others = malloc(((size_t)g->config_count + 1) * sizeof *choice->others))) return out_of_memory();
    bool has_default = !own->default_text || strcmp(own->default_text, g->configs[config]) == 0;
    for (int32_t c = 0; c < g->config_count; c++) {
        const cell *took = &own->cells[c];
        if (c == config || !(chosen[c] || c == own->default_config) || took->time_ns == 0) continue;
        if (!add_other(choice, g->configs[c], (int64_t)comparable_ns(took))) return out_of_memory();
        has_default |= own->default_text && strcmp(own->default_text, g->configs[c]) == 0;
    }
    if (!has_default && !add_other(choice, own->default_text, own->default_ns)) return out_of_memory();
    qsort(choice->others, (size_t)choice->other_count, sizeof *choice->others, compare_others);
    return MOET_OK;
}

/* Adds a kind's choices. winners->items has room. */
static moet_status add_kind(const group *g, moet_table_kind kind, const int32_t *chosen, const bool *of_kind,
                            double *regret_sum, moet_emit_winners *winners)
{
    for (int32_t p = 0, nth = 0; p < g->point_count; p++) {
        const point *own = &g->points[p];
        if (own->kind != kind) continue;
        const int32_t config = chosen[nth++];
        const cell *took = &own->cells[config];
        const double regret = comparable_ns(took) / comparable_ns(&own->winner) - 1;
        *regret_sum += regret;
        if (regret > winners->most_regret) winners->most_regret = regret;
        moet_emit_choice *choice = &winners->items[winners->count++];
        winners->suspect_defaults += own->is_default_suspect;
        *choice = (moet_emit_choice){.trial_id = took->trial_id, .kind = kind, .default_ns = own->default_ns};
        MOET_TRY(find_others(g, own, config, of_kind, choice));
        /* Where another than the winner was chosen, the winner is the one to beat. */
        const char *beaten = config == own->winner_config ? own->runner_up : g->configs[own->winner_config];
        if (beaten && !(choice->runner_up = strdup(beaten))) return out_of_memory();
    }
    return MOET_OK;
}

static moet_status add_group(const group *g, bool all, double *regret_sum, moet_emit_winners *winners)
{
    const size_t points = (size_t)g->point_count + 1, configs = (size_t)g->config_count + 1;
    int32_t *chosen = malloc(points * sizeof *chosen);
    bool *used = calloc(configs, sizeof *used), *of_kind = malloc(configs * sizeof *of_kind);
    bool *won = calloc(configs, sizeof *won);
    moet_status status = chosen && used && of_kind && won ? MOET_OK : out_of_memory();
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT && status == MOET_OK; kind++) {
        if ((status = choose(g, kind, all, chosen)) != MOET_OK) break;
        memset(of_kind, 0, configs * sizeof *of_kind);
        for (int32_t p = 0, nth = 0; p < g->point_count; p++) {
            if (g->points[p].kind != kind) continue;
            used[chosen[nth]] = of_kind[chosen[nth]] = won[g->points[p].winner_config] = true;
            nth++;
        }
        status = add_kind(g, kind, chosen, of_kind, regret_sum, winners);
    }
    for (int32_t c = 0; status == MOET_OK && c < g->config_count; c++) {
        winners->configs += used[c];
        winners->winner_configs += won[c];
    }
    free(chosen);
    free(used);
    free(of_kind);
    free(won);
    return status;
}

/* Groups with their points, and what each configuration that won took at each point. */
static moet_status load(finder *f, moet_store *store, const moet_store_filter *filter, moet_bits_cost *cost)
{
    MOET_TRY(moet_store_each_winner(store, filter, visit_winner, f));
    if (f->bits) {
        MOET_TRY(moet_store_each_trial(store, filter, visit_rival, f));
        f->at = 0;
        put_rivals(f, cost);
    }
    MOET_TRY(make_cells(f));
    MOET_TRY(moet_store_each_trial(store, filter, visit_trial, f));
    for (int32_t i = 0; i < f->group_count; i++) {
        for (int32_t p = 0; p < f->groups[i].point_count; p++) put_winner(&f->groups[i].points[p]);
    }
    return MOET_OK;
}

moet_status moet_emit_winners_find(moet_store *store, const char *device, const moet_text_list *skews,
                                   const moet_emit_bits *bits, bool all, moet_emit_winners *winners)
{
    finder f = {.skews = skews, .bits = bits};
    moet_emit_winners found = {0};
    const moet_store_filter filter = {.device_key = device, .ok_only = true};
    double regret_sum = 0;
    int64_t points = 0;
    moet_status status = load(&f, store, &filter, &found.bits_cost);
    if (status != MOET_OK) goto done;
    for (int32_t i = 0; i < f.group_count; i++) points += f.groups[i].point_count;
    if (!(found.items = calloc((size_t)points + 1, sizeof *found.items))) {
        status = out_of_memory();
        goto done;
    }
    for (int32_t i = 0; i < f.group_count && status == MOET_OK; i++)
        status = add_group(&f.groups[i], all, &regret_sum, &found);
    if (status != MOET_OK) goto done;
    if (points > 0) found.mean_regret = regret_sum / (double)points;
    qsort(found.items, (size_t)found.count, sizeof *found.items, compare_choices);
    *winners = found;
    found = (moet_emit_winners){0};
done:
    moet_emit_winners_release(&found);
    release(&f);
    return status;
}

/* Hands the texts of those that were chosen at any point of a group to the visitor, each once. */
static moet_status visit_chosen(const group *g, moet_emit_visit visit, void *context)
{
    int32_t *chosen = malloc(((size_t)g->point_count + 1) * sizeof *chosen);
    bool *used = calloc((size_t)g->config_count + 1, sizeof *used);
    moet_status status = chosen && used ? MOET_OK : out_of_memory();
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT && status == MOET_OK; kind++) {
        status = choose(g, kind, false, chosen);
        for (int32_t p = 0, nth = 0; p < g->point_count && status == MOET_OK; p++) {
            if (g->points[p].kind == kind) used[chosen[nth++]] = true;
        }
    }
    for (int32_t c = 0; c < g->config_count && status == MOET_OK; c++) {
        if (used[c]) status = visit(context, g->configs[c]);
    }
    free(chosen);
    free(used);
    return status;
}

moet_status moet_emit_winners_each_config(moet_store *store, const char *device_key, const char *problem_key,
                                          moet_emit_visit visit, void *context)
{
    const moet_text_list any = {0};
    finder f = {.skews = &any};
    const moet_store_filter filter = {.device_key = device_key, .problem_key = problem_key, .ok_only = true};
    moet_bits_cost none;
    moet_status status = load(&f, store, &filter, &none);
    for (int32_t i = 0; i < f.group_count && status == MOET_OK; i++)
        status = visit_chosen(&f.groups[i], visit, context);
    release(&f);
    return status;
}

void moet_emit_winners_release(moet_emit_winners *winners)
{
    for (int32_t i = 0; i < winners->count; i++) {
        for (int32_t j = 0; j < winners->items[i].other_count; j++) free(winners->items[i].others[j].config);
        free(winners->items[i].others);
        free(winners->items[i].runner_up);
    }
    free(winners->items);
    *winners = (moet_emit_winners){0};
}

const moet_emit_choice *moet_emit_winners_get(const moet_emit_winners *winners, int64_t trial_id, moet_table_kind kind)
{
    const moet_emit_choice wanted = {.trial_id = trial_id, .kind = kind};
    return winners->count == 0
               ? NULL
               : bsearch(&wanted, winners->items, (size_t)winners->count, sizeof *winners->items, compare_choices);
}
