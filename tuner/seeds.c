/* seeds.c: see seeds.h. */
#include "seeds.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_APART 8.0 /* factor */

void moet_seeds_release(moet_seeds *seeds)
{
    free(seeds->items);
    *seeds = (moet_seeds){0};
}

static moet_status add(moet_seeds *seeds, int64_t rows, double max_over_mean, const moet_config *config)
{
    if (rows <= 0 || !(max_over_mean > 0)) return MOET_OK;
    if (seeds->count == seeds->capacity) {
        const int32_t capacity = seeds->capacity == 0 ? 64 : 2 * seeds->capacity;
        moet_seed *grown = realloc(seeds->items, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return moet_fail(MOET_NO_MEMORY, "no memory for %d winners", capacity);
        seeds->items = grown;
        seeds->capacity = capacity;
    }
    seeds->items[seeds->count++] = (moet_seed){rows, max_over_mean, *config};
    return MOET_OK;
}

moet_status moet_seeds_add(moet_seeds *seeds, const moet_routing *routing, const moet_config *config)
{
    return add(seeds, routing->rows, routing->max_over_mean, config);
}

static moet_status visit(void *context, const moet_store_winner_row *row)
{
    moet_config config;
    /* A config of another build's family is no seed. */
    if (moet_config_parse(row->trial.config, &config) != MOET_OK) return MOET_OK;
    return add(context, row->trial.rows, row->trial.max_over_mean, &config);
}

moet_status moet_seeds_load(moet_seeds *seeds, moet_store *store, const char *device_key, const char *problem_key)
{
    if (strcmp(seeds->problem_key, problem_key) == 0) return MOET_OK;
    moet_seeds loaded = {0};
    const moet_store_filter filter = {.device_key = device_key, .problem_key = problem_key, .any_tokens = true};
    const moet_status status = moet_store_each_winner(store, &filter, visit, &loaded);
    if (status != MOET_OK) {
        moet_seeds_release(&loaded);
        return status;
    }
    snprintf(loaded.problem_key, sizeof loaded.problem_key, "%s", problem_key);
    moet_seeds_release(seeds);
    *seeds = loaded;
    return MOET_OK;
}

/* Infinite where too far. */
static double distance(const moet_seed *seed, const moet_routing *routing)
{
    const double rows = log((double)seed->rows / (double)routing->rows);
    const double skew = log(seed->max_over_mean / routing->max_over_mean);
    return fabs(rows) <= log(MOST_APART) && fabs(skew) <= log(MOST_APART) ? rows * rows + skew * skew
                                                                          : (double)INFINITY;
}

static bool is_among(const moet_config *config, const moet_config *configs, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (moet_config_equal(config, &configs[i])) return true;
    return false;
}

int32_t moet_seeds_nearest(const moet_seeds *seeds, const moet_routing *routing, int32_t most,
                           moet_config configs[MOET_SEEDS_MOST])
{
    int32_t found = 0;
    while (routing->rows > 0 && found < most && found < MOET_SEEDS_MOST) {
        const moet_seed *nearest = NULL;
        double least = (double)INFINITY;
        for (int32_t i = 0; i < seeds->count; i++) {
            const double apart = distance(&seeds->items[i], routing);
            if (apart < least && !is_among(&seeds->items[i].config, configs, found)) {
                nearest = &seeds->items[i];
                least = apart;
            }
        }
        if (nearest == NULL) break;
        configs[found++] = nearest->config;
    }
    return found;
}
