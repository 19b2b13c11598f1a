/* select.c: which of the listed candidates an effort tries, and in which order. See candidates.h. */
#include <stdlib.h>

#include "../kernels/ffn_path.h"
#include "candidates.h"

/* In the order in which they are tried. */
typedef enum place { PLACE_DEFAULT, PLACE_SEED, PLACE_UNKNOWN, PLACE_ESTIMATED, PLACE_INAPPLICABLE } place;

static place place_of(const moet_candidate *c)
{
    if (c->family_default) return PLACE_DEFAULT;
    if (!c->applicable) return PLACE_INAPPLICABLE;
    if (c->is_seed) return PLACE_SEED;
    return c->estimate_ns > 0 ? PLACE_ESTIMATED : PLACE_UNKNOWN;
}

typedef struct placed {
    moet_candidate candidate;
    int32_t listed; /* where it stood */
} placed;

static int by_place(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    const place x_place = place_of(&x->candidate), y_place = place_of(&y->candidate);
    if (x_place != y_place) return x_place < y_place ? -1 : 1;
    if (x_place == PLACE_ESTIMATED && x->candidate.estimate_ns != y->candidate.estimate_ns)
        return x->candidate.estimate_ns < y->candidate.estimate_ns ? -1 : 1;
    return x->listed < y->listed ? -1 : 1;
}

static const moet_config *default_of(const moet_candidates *list, const moet_family *family)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (list->items[i].family_default && list->items[i].config.family == family) return &list->items[i].config;
    }
    return NULL;
}

static int32_t differing(const moet_config *a, const moet_config *b, int32_t first, int32_t count)
{
    int32_t differ = 0;
    for (int32_t i = first; i < first + count; i++) differ += a->value[i] != b->value[i];
    return differ;
}

/* Of whose best estimates a candidate is one: GEMMs, paths with another up half, paths with another down half, paths
 * whose GEMMs are one launch. */
enum { OF_GEMMS, OF_UPS, OF_DOWNS, OF_CHAINS, GROUPS };

static int32_t group_of(const moet_candidates *list, const moet_config *config)
{
    if (config->family->gemm == NULL) return OF_GEMMS;
    if (moet_ffn_path_is_chained(config)) return OF_CHAINS;
    const moet_config *other = default_of(list, config->family);
    const int32_t count = config->family->gemm->param_count;
    const bool up = other == NULL || differing(config, other, MOET_PATH_PARAMS, count) > 0 ||
                    config->value[MOET_PATH_ACT] != other->value[MOET_PATH_ACT] ||
                    config->value[MOET_PATH_GATHER] != other->value[MOET_PATH_GATHER];
    return up ? OF_UPS : OF_DOWNS;
}

/* How many of each group's estimates are tried, of `most`: of paths half of them chained, if there are so many. */
static void share_out(const moet_candidates *list, int32_t most, int32_t shares[GROUPS])
{
    int32_t chains = 0;
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        chains += place_of(c) == PLACE_ESTIMATED && moet_ffn_path_is_chained(&c->config);
    }
    shares[OF_GEMMS] = most;
    shares[OF_CHAINS] = chains < most / 2 ? chains : most / 2;
    shares[OF_UPS] = shares[OF_DOWNS] = (most - shares[OF_CHAINS] + 1) / 2;
}

static bool is_tried(const moet_candidates *list, const moet_candidate *c, moet_effort effort,
                     const int32_t shares[GROUPS], int32_t before[GROUPS])
{
    if (moet_effort_rule_of(effort)->estimated == 0) return true;
    switch (place_of(c)) {
    case PLACE_ESTIMATED: {
        const int32_t group = group_of(list, &c->config);
        return before[group]++ < shares[group];
    }
    case PLACE_UNKNOWN: {
        const moet_config *other = default_of(list, c->config.family);
        return effort > MOET_EFFORT_QUICK && other != NULL &&
               differing(&c->config, other, 0, c->config.family->param_count) <= 1;
    }
    case PLACE_INAPPLICABLE:
        return false;
    default:
        return true;
    }
}

moet_status moet_candidates_select(moet_candidates *list, const moet_problem *problem, const int32_t *counts,
                                   int64_t tokens, const moet_device_info *device, const moet_device_rates *rates,
                                   moet_effort effort)
{
    placed *order = malloc((size_t)(list->count > 0 ? list->count : 1) * sizeof *order);
    if (order == NULL) return moet_fail(MOET_NO_MEMORY, "no memory for the order of %d candidates", list->count);
    for (int32_t i = 0; i < list->count; i++) {
        moet_candidate *c = &list->items[i];
        const moet_family *family = c->config.family;
        if (c->applicable && family->estimate_ns != NULL)
            c->estimate_ns = family->estimate_ns(problem, counts, tokens, &c->config, device, rates);
        order[i] = (placed){*c, i};
    }
    qsort(order, (size_t)list->count, sizeof *order, by_place);
    for (int32_t i = 0; i < list->count; i++) list->items[i] = order[i].candidate;
    free(order);
    int32_t before[GROUPS] = {0}, shares[GROUPS], kept = 0;
    share_out(list, moet_effort_rule_of(effort)->estimated, shares);
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate c = list->items[i];
        if (is_tried(list, &c, effort, shares, before)) list->items[kept++] = c;
    }
    list->count = kept;
    return MOET_OK;
}

int32_t moet_candidates_least(const moet_candidates *list)
{
    int32_t before[GROUPS] = {0}, shares[GROUPS], least = 0;
    share_out(list, moet_effort_rule_of(MOET_EFFORT_QUICK)->estimated, shares);
    for (int32_t i = 0; i < list->count; i++) {
        if (is_tried(list, &list->items[i], MOET_EFFORT_QUICK, shares, before)) least = i + 1;
    }
    return least;
}
