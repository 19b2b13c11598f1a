/* seeds: what won on other routings of a problem, nearest first: a good guess for the next. */
#ifndef MOET_SEEDS_H
#define MOET_SEEDS_H

#include "store.h"

#define MOET_SEEDS_MOST 3 /* for one workload */

typedef struct moet_seed {
    int64_t rows;
    double max_over_mean;
    moet_config config;
} moet_seed;

/* Of one problem on one device. Zero: of none. */
typedef struct moet_seeds {
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    int32_t count, capacity;
    moet_seed *items;
} moet_seeds;

/* The winners that the store has of a problem (its key without tokens), whatever their tokens; nothing where these are
 * its seeds already. */
moet_status moet_seeds_load(moet_seeds *seeds, moet_store *store, const char *device_key, const char *problem_key);
moet_status moet_seeds_add(moet_seeds *seeds, const moet_routing *routing, const moet_config *config);
/* Different configs that won on the routings nearest in (ln rows, ln max/mean), within a factor of 8 of both, at most
 * `most`, into configs[MOET_SEEDS_MOST]; their number. The routing itself counts: what won on it with other libraries,
 * say. */
int32_t moet_seeds_nearest(const moet_seeds *seeds, const moet_routing *routing, int32_t most,
                           moet_config configs[MOET_SEEDS_MOST]);
void moet_seeds_release(moet_seeds *seeds);

#endif
