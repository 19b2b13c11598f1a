/* draw.c: see draw.h. */
#include "draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "random.h"

/* Numbers from 0 to count - 1 in a random order, again and again. */
typedef struct deck {
    int32_t count, at;
    int32_t *cards;
} deck;

static moet_status deck_make(deck *d, int32_t count)
{
    d->cards = malloc(((size_t)count + 1) * sizeof *d->cards);
    if (d->cards == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory to draw from %d", count);
    }
    for (int32_t i = 0; i < count; i++) d->cards[i] = i;
    d->count = d->at = count;
    return MOET_OK;
}

static int32_t deck_take(deck *d, uint64_t *random)
{
    if (d->at == d->count) {
        for (int32_t i = d->count - 1; i > 0; i--) {
            const int32_t j = (int32_t)moet_random_below(random, (uint64_t)i + 1);
            const int32_t swapped = d->cards[i];
            d->cards[i] = d->cards[j];
            d->cards[j] = swapped;
        }
        d->at = 0;
    }
    return d->cards[d->at++];
}

static bool fits(const moet_model *model, int64_t ranks)
{
    return model->experts % ranks == 0 && model->experts / ranks <= MOET_MAX_EXPERTS;
}

static moet_status find_models(const moet_draw_options *options, moet_model *models, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        bool any = false;
        MOET_TRY(options->models.count > 0 ? moet_model_find(options->models.texts[i], &models[i])
                                           : moet_model_at(i, &models[i]));
        for (int32_t j = 0; j < options->ep.count; j++) any = any || fits(&models[i], options->ep.values[j]);
        if (!any) {
            return moet_fail(MOET_INVALID, "--ep: none of the numbers divides the %d experts of %s", models[i].experts,
                             models[i].name);
        }
    }
    return MOET_OK;
}

static bool is_power_of_two(int64_t rows) { return (rows & (rows - 1)) == 0; }

/* Of three numbers in a row one is none. */
static moet_status check_rows(const moet_draw_options *options)
{
    for (int64_t rows = options->min_rows; rows <= options->max_rows && rows < options->min_rows + 3; rows++) {
        if (!is_power_of_two(rows)) {
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "--rows: no number from %lld to %lld is not a power of two",
                     (long long)options->min_rows, (long long)options->max_rows);
}

/* Of integers with a density of 1 / x, without rounding: x is uniform, and kept with the chance min / x. */
static int64_t draw_rows(const moet_draw_options *options, uint64_t *random)
{
    for (;;) {
        const uint64_t range = (uint64_t)(options->max_rows - options->min_rows) + 1;
        const int64_t rows = options->min_rows + (int64_t)moet_random_below(random, range);
        if (!is_power_of_two(rows) && (int64_t)moet_random_below(random, (uint64_t)rows) < options->min_rows) {
            return rows;
        }
    }
}

static int64_t draw_ranks(const moet_draw_options *options, const moet_model *model, uint64_t *random)
{
    for (;;) {
        const int64_t ranks = options->ep.values[moet_random_below(random, (uint64_t)options->ep.count)];
        if (fits(model, ranks)) {
            return ranks;
        }
    }
}

static moet_status draw_one(const moet_draw_options *options, const moet_model *model, const char *skew,
                            uint64_t *random, moet_workload *workload)
{
    const int64_t ranks = draw_ranks(options, model, random);
    moet_workload w = {.experts = (int32_t)(model->experts / ranks),
                       .hidden = model->hidden,
                       .inter = model->inter,
                       .rows = draw_rows(options, random),
                       .seed = options->seed};
    snprintf(w.name, sizeof w.name, "%s/ep%lld", model->name, (long long)ranks);
    snprintf(w.skew, sizeof w.skew, "%s", skew);
    w.counts = malloc((size_t)w.experts * sizeof *w.counts);
    if (w.counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload of %d experts", w.experts);
    }
    const moet_status status = moet_skew_draw(skew, w.experts, w.rows, w.seed, w.counts);
    if (status != MOET_OK) {
        moet_workload_release(&w);
        return status;
    }
    *workload = w;
    return MOET_OK;
}

/* Shapes together, as their weights are then kept from one workload to the next. */
static int compare_workloads(const void *a, const void *b)
{
    const moet_workload *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order != 0           ? order
           : x->rows != y->rows ? (x->rows > y->rows) - (x->rows < y->rows)
                                : strcmp(x->skew, y->skew);
}

moet_status moet_workloads_draw(const moet_draw_options *options, moet_workloads *list)
{
    const int32_t model_count = options->models.count > 0 ? options->models.count : moet_model_count();
    moet_model *models = calloc((size_t)model_count + 1, sizeof *models);
    moet_workloads drawn = {0};
    deck by_model = {0}, by_skew = {0};
    uint64_t random = options->seed;
    moet_status status = models != NULL ? MOET_OK : moet_fail(MOET_NO_MEMORY, "no memory for %d models", model_count);
    if (status == MOET_OK) status = check_rows(options);
    if (status == MOET_OK) status = find_models(options, models, model_count);
    if (status == MOET_OK) status = deck_make(&by_model, model_count);
    if (status == MOET_OK) status = deck_make(&by_skew, options->skews.count);
    for (int64_t i = 0; i < options->count && status == MOET_OK; i++) {
        moet_workload workload = {0};
        const moet_model *model = &models[deck_take(&by_model, &random)];
        const char *skew = options->skews.texts[deck_take(&by_skew, &random)];
        status = draw_one(options, model, skew, &random, &workload);
        if (status == MOET_OK) status = moet_workloads_add(&drawn, &workload);
        moet_workload_release(&workload);
    }
    if (status == MOET_OK) qsort(drawn.items, (size_t)drawn.count, sizeof *drawn.items, compare_workloads);
    if (status == MOET_OK) {
        *list = drawn;
    } else {
        moet_workloads_release(&drawn);
    }
    free(by_model.cards);
    free(by_skew.cards);
    free(models);
    return status;
}
