/* cover: greedy set cover, then what is left over is taken out again. */
#include "cover.h"

#include <stdlib.h>
#include <string.h>

typedef struct cover {
    int32_t points, configs;
    const double *cost, *allowed;
    bool *taken;     /* [configs] */
    int32_t *served; /* [points]: by how many that are taken */
} cover;

static bool serves(const cover *c, int32_t point, int32_t config)
{
    const double cost = c->cost[(int64_t)point * c->configs + config];
    return cost > 0 && cost <= c->allowed[point];
}

static void take(cover *c, int32_t config, bool in)
{
    c->taken[config] = in;
    for (int32_t p = 0; p < c->points; p++) {
        if (serves(c, p, config)) c->served[p] += in ? 1 : -1;
    }
}

/* Takes the configuration that serves most points that none serves yet. false: every point is served. */
static bool take_best(cover *c)
{
    int32_t best = -1, best_count = 0;
    double best_sum = 0;
    for (int32_t k = 0; k < c->configs; k++) {
        int32_t count = 0;
        double sum = 0;
        for (int32_t p = 0; p < c->points; p++) {
            if (c->served[p] > 0 || !serves(c, p, k)) continue;
            count++;
            sum += c->cost[(int64_t)p * c->configs + k];
        }
        if (count < best_count || count == 0 || (count == best_count && sum >= best_sum)) continue;
        best = k, best_count = count, best_sum = sum;
    }
    if (best >= 0) take(c, best, true);
    return best >= 0;
}

/* Takes out what the others serve, the one that serves fewest points first. */
static void drop_spare(cover *c)
{
    for (;;) {
        int32_t spare = -1, spare_count = 0;
        for (int32_t k = 0; k < c->configs; k++) {
            if (!c->taken[k]) continue;
            int32_t count = 0;
            bool needed = false;
            for (int32_t p = 0; p < c->points && !needed; p++) {
                if (!serves(c, p, k)) continue;
                count++;
                needed = c->served[p] == 1;
            }
            if (needed || (spare >= 0 && count >= spare_count)) continue;
            spare = k, spare_count = count;
        }
        if (spare < 0) return;
        take(c, spare, false);
    }
}

moet_status moet_cover(int32_t points, int32_t configs, const double *cost, const double *allowed, int32_t preferred,
                       int32_t *chosen)
{
    cover c = {points, configs, cost, allowed, calloc((size_t)configs + 1, sizeof *c.taken),
               calloc((size_t)points + 1, sizeof *c.served)};
    moet_status status = MOET_OK;
    if (!c.taken || !c.served) {
        status = MOET_NO_MEMORY;
        goto done;
    }
    while (take_best(&c))
        ;
    drop_spare(&c);
    for (int32_t p = 0; p < points; p++) {
        int32_t best = -1;
        for (int32_t k = 0; k < configs; k++) {
            if (!c.taken[k] || !serves(&c, p, k)) continue;
            const int64_t row = (int64_t)p * configs;
            if (best < 0 || k == preferred || (best != preferred && cost[row + k] < cost[row + best])) best = k;
        }
        chosen[p] = best;
    }
done:
    free(c.taken);
    free(c.served);
    return status;
}
