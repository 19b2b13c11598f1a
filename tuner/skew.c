/* skew.c: rows per expert drawn from a named distribution.
 *
 *   balanced      rows / E each, the remainder one each to the first experts
 *   uniform       multinomial, equal popularities
 *   lognormal:S   multinomial, popularity exp(S z)
 *   zipf:S        multinomial, popularity 1 / rank^S
 *   powerlaw:A    multinomial, popularity of density x^-A on [1, 0.8 T], T = rows / 8: the tokens of a top-8 router
 *                 (aiconfigurator's sampler)
 *   hot:F         one expert gets F of the rows, the others share the rest evenly
 *   idle:F        F of the experts get nothing, the others share the rows evenly
 *
 * Popularities are the distribution's quantiles at (i + 1/2) / E, dealt to the experts in a seeded order: a workload
 * then stands for its distribution and not for the luck of E draws, and a seed changes who is busy, not how much. Rows
 * are drawn one by one, as tokens choose: at few rows per expert the counts scatter as real ones do.
 *
 * Counts are equal on every machine: the generator is of integers, and exp and log are built here of operations that
 * IEEE 754 rounds exactly, as libm's differ between versions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "parse.h"
#include "random.h"
#include "workload.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* gcc contracts nothing under -std=c11 */
#endif

#define SKEW_FORMS "balanced, uniform, lognormal:S, zipf:S, powerlaw:A, hot:F, idle:F"

/* ---- deterministic arithmetic ---- */

#define LN2 0.69314718055994530942

/* Within a few ulp for |x| < 700. */
static double exact_exp(double x)
{
    int32_t halvings = (int32_t)(x / LN2 + (x < 0 ? -0.5 : 0.5));
    double r = x - halvings * LN2, sum = 1, term = 1;
    for (int32_t i = 1; i < 20; i++) {
        term = term * r / i;
        sum += term;
    }
    for (; halvings > 0; halvings--) sum *= 2;
    for (; halvings < 0; halvings++) sum *= 0.5;
    return sum;
}

/* x > 0: x = m 2^e with m in [3/4, 3/2), log m = 2 artanh((m - 1) / (m + 1)). */
static double exact_log(double x)
{
    int32_t exponent = 0;
    for (; x >= 1.5; exponent++) x *= 0.5;
    for (; x < 0.75; exponent--) x *= 2;
    double t = (x - 1) / (x + 1), power = t, sum = 0;
    for (int32_t i = 1; i < 40; i += 2) {
        sum += power / i;
        power *= t * t;
    }
    return 2 * sum + exponent * LN2;
}

/* Newton's iteration, x > 0. */
static double exact_sqrt(double x)
{
    double root = x > 1 ? x : 1;
    for (int32_t i = 0; i < 60; i++) root = 0.5 * (root + x / root);
    return root;
}

/* Quantile of the normal distribution, 0 < p < 1: Abramowitz and Stegun 26.2.23, error below 4.5e-4. */
static double normal_quantile(double p)
{
    bool lower = p < 0.5;
    double t = exact_sqrt(-2 * exact_log(lower ? p : 1 - p));
    double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    return lower ? -z : z;
}

/* ---- popularities ---- */

/* Popularity at quantile q = (rank + 1/2) / E of the distribution; not normalised. */
typedef double (*popularity)(double parameter, int32_t rank, double q, int64_t rows);

static double uniform_popularity(double parameter, int32_t rank, double q, int64_t rows)
{
    (void)parameter, (void)rank, (void)q, (void)rows;
    return 1;
}

static double lognormal_popularity(double sigma, int32_t rank, double q, int64_t rows)
{
    (void)rank, (void)rows;
    return exact_exp(sigma * normal_quantile(q));
}

static double zipf_popularity(double s, int32_t rank, double q, int64_t rows)
{
    (void)q, (void)rows;
    return exact_exp(-s * exact_log(rank + 1));
}

static double powerlaw_popularity(double alpha, int32_t rank, double q, int64_t rows)
{
    (void)rank;
    double top = 0.8 * (double)rows / 8;
    double log_top = top > 2 ? exact_log(top) : LN2; /* few rows: at least a factor of 2 */
    double power = 1 - alpha;
    if (power < 1e-6 && power > -1e-6) {
        return exact_exp(q * log_top); /* the limit: log-uniform */
    }
    return exact_exp(exact_log(1 + q * (exact_exp(power * log_top) - 1)) / power);
}

/* ---- the draws ---- */

typedef struct draw {
    double parameter;
    int32_t experts;
    int64_t rows;
    popularity weight; /* of multinomial skews */
    uint64_t random;   /* generator state */
    int32_t *order;    /* [experts], a seeded permutation */
    int32_t *counts;
} draw;

/* rows shared evenly by order[first .. first + experts), the remainder to the first of them. */
static void share_evenly(const draw *d, int32_t first, int32_t experts, int64_t rows)
{
    for (int32_t i = 0; i < experts; i++) {
        d->counts[d->order[first + i]] = (int32_t)(rows / experts + (i < rows % experts));
    }
}

static moet_status draw_balanced(draw *d)
{
    for (int32_t i = 0; i < d->experts; i++) d->order[i] = i;
    share_evenly(d, 0, d->experts, d->rows);
    return MOET_OK;
}

static moet_status draw_multinomial(draw *d)
{
    /* Cumulative popularities as integers: the busiest has 2^40, so that the sum of 1024 stays below 2^51. */
    uint64_t *below = malloc((size_t)d->experts * sizeof *below);
    if (below == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for the popularities of %d experts", d->experts);
    }
    double most = 0;
    for (int32_t i = 0; i < d->experts; i++) {
        double weight = d->weight(d->parameter, i, (i + 0.5) / d->experts, d->rows);
        most = weight > most ? weight : most;
    }
    uint64_t sum = 0;
    for (int32_t i = 0; i < d->experts; i++) {
        double weight = d->weight(d->parameter, i, (i + 0.5) / d->experts, d->rows);
        sum += (uint64_t)(weight / most * 1099511627776.0) + 1;
        below[i] = sum;
    }
    memset(d->counts, 0, (size_t)d->experts * sizeof *d->counts);
    for (int64_t row = 0; row < d->rows; row++) {
        uint64_t value = moet_random_below(&d->random, sum);
        int32_t low = 0, high = d->experts - 1; /* the first rank with value < below[rank] */
        while (low < high) {
            int32_t middle = (low + high) / 2;
            if (value < below[middle]) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        d->counts[d->order[low]]++;
    }
    free(below);
    return MOET_OK;
}

static moet_status draw_hot(draw *d)
{
    int64_t hot = d->experts == 1 ? d->rows : (int64_t)(d->parameter * (double)d->rows + 0.5);
    d->counts[d->order[0]] = (int32_t)hot;
    if (d->experts > 1) {
        share_evenly(d, 1, d->experts - 1, d->rows - hot);
    }
    return MOET_OK;
}

static moet_status draw_idle(draw *d)
{
    int32_t idle = (int32_t)(d->parameter * d->experts + 0.5);
    idle = idle < d->experts ? idle : d->experts - 1; /* somebody has to work */
    for (int32_t i = 0; i < idle; i++) d->counts[d->order[i]] = 0;
    share_evenly(d, idle, d->experts - idle, d->rows);
    return MOET_OK;
}

static const struct {
    const char *name;
    bool has_parameter;
    double min, max;
    moet_status (*draw)(draw *d);
    popularity weight;
} skews[] = {
    {"balanced", false, 0, 0, draw_balanced, NULL},
    {"uniform", false, 0, 0, draw_multinomial, uniform_popularity},
    {"lognormal", true, 0, 4, draw_multinomial, lognormal_popularity},
    {"zipf", true, 0, 8, draw_multinomial, zipf_popularity},
    {"powerlaw", true, 0, 4, draw_multinomial, powerlaw_popularity},
    {"hot", true, 0, 1, draw_hot, NULL},
    {"idle", true, 0, 1, draw_idle, NULL},
};

/* Row of skews[] and parameter of a skew's text. */
static moet_status parse_skew(const char *text, int32_t *kind, double *parameter)
{
    size_t name_length = strcspn(text, ":");
    for (int32_t i = 0; i < MOET_COUNT_OF(skews); i++) {
        if (strlen(skews[i].name) != name_length || strncmp(skews[i].name, text, name_length) != 0) {
            continue;
        }
        if (skews[i].has_parameter != (text[name_length] == ':')) {
            break;
        }
        if (skews[i].has_parameter) {
            char what[64];
            snprintf(what, sizeof what, "skew '%.40s'", text);
            MOET_TRY(moet_parse_decimal(text + name_length + 1, what, skews[i].min, skews[i].max, parameter));
        }
        *kind = i;
        return MOET_OK;
    }
    return moet_fail(MOET_INVALID, "no skew '%.40s'; the forms are " SKEW_FORMS, text);
}

moet_status moet_skew_draw(const char *skew, int32_t experts, int64_t rows, uint64_t seed, int32_t *counts)
{
    int32_t kind = 0;
    double parameter = 0;
    MOET_TRY(parse_skew(skew, &kind, &parameter));
    if (strlen(skew) >= MOET_SKEW_SIZE) {
        return moet_fail(MOET_INVALID, "skew '%.40s...' is longer than %d bytes", skew, MOET_SKEW_SIZE - 1);
    }
    if (experts < 1 || experts > MOET_MAX_EXPERTS) {
        return moet_fail(MOET_INVALID, "%d experts: not between 1 and %d", experts, MOET_MAX_EXPERTS);
    }
    if (rows < 0 || rows > MOET_MAX_ROWS) {
        return moet_fail(MOET_INVALID, "%lld rows: not between 0 and %d", (long long)rows, MOET_MAX_ROWS);
    }
    draw d = {.parameter = parameter, .experts = experts, .rows = rows, .weight = skews[kind].weight};
    d.order = malloc((size_t)experts * sizeof *d.order);
    d.counts = malloc((size_t)experts * sizeof *d.counts);
    if (d.order == NULL || d.counts == NULL) {
        free(d.order);
        free(d.counts);
        return moet_fail(MOET_NO_MEMORY, "no memory for the counts of %d experts", experts);
    }
    /* Who is busy depends on the seed and E alone: the same experts at every number of rows. */
    d.random = seed + (uint64_t)experts * 0x632be59bd9b4e019u;
    for (int32_t i = 0; i < experts; i++) {
        int32_t j = (int32_t)moet_random_below(&d.random, (uint64_t)i + 1);
        d.order[i] = d.order[j];
        d.order[j] = i;
    }
    moet_status status = skews[kind].draw(&d);
    if (status == MOET_OK) {
        memcpy(counts, d.counts, (size_t)experts * sizeof *counts);
    }
    free(d.order);
    free(d.counts);
    return status;
}
