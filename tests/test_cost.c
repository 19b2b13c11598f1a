/* The cost model of tiles and its fit: how estimates move, that planted rates come back, and where the committed
 * results' winners stand in the order of estimates. */
#include "test.h"

#include <math.h>

#include "../kernels/ffn_path.h"
#include "../kernels/tile_cost.h"
#include "../tuner/candidates.h"
#include "../tuner/cost_fit.h"

static const moet_device_info h100 = {.backend = "cuda",
                                      .name = "any",
                                      .cc_major = 9,
                                      .sm_count = 132,
                                      .smem_per_block_optin_bytes = 232448,
                                      .smem_per_sm_bytes = 233472,
                                      .regs_per_sm = 65536,
                                      .l2_bytes = 52428800};
static const char *winners_path; /* results/h100/winners_wide.csv */

static const char *const rate_names[] = {
#define MOET_X(name, text) text,
    MOET_RATE_TABLE(MOET_X)
#undef MOET_X
};

static moet_device_rates guessed(void)
{
    return moet_cost_guess(&h100, &(moet_ceilings){.dense_flops_per_s = 780e12, .read_bytes_per_s = 2.9e12});
}

/* ---- one estimate ---- */

static const moet_tile_shape plain_tile = {.rows = 128,
                                           .cols = 128,
                                           .row_step = 64,
                                           .ctas_per_sm = 1,
                                           .x_shared = 1,
                                           .w_shared = 1,
                                           .group = 16,
                                           .element_bytes = 2,
                                           .store_factor = 1,
                                           .tensor_fraction = 1};

static double cost(const moet_tile_shape *shape, const moet_device_rates *rates, const int32_t counts[8])
{
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, 8, 4096, 2048);
    return moet_tile_cost_ns(&problem, counts, shape, &h100, rates);
}

static void test_moves(void **state)
{
    (void)state;
    const moet_device_rates rates = guessed();
    int32_t counts[8] = {0};
    /* No rows: a launch. */
    assert_true(fabs(cost(&plain_tile, &rates, counts) - 1e9 / rates.rate[MOET_RATE_LAUNCH]) < 1);
    /* What follows in the same launch fills the end; a dearer store is one. */
    int32_t tile[8] = {130};
    moet_tile_shape changed = plain_tile;
    changed.is_followed = true;
    assert_true(cost(&changed, &rates, tile) < 0.8 * cost(&plain_tile, &rates, tile));
    changed = plain_tile;
    changed.store_factor = 5;
    assert_true(cost(&changed, &rates, tile) > 1.01 * cost(&plain_tile, &rates, tile));
    /* More rows never take less, by one expert or by all. */
    double before = 0;
    for (int32_t rows = 1; rows < 5000; rows += 37) {
        for (int32_t e = 0; e < 8; e++) counts[e] = rows;
        const double now = cost(&plain_tile, &rates, counts);
        if (now < before * 0.999) test_fail("%d rows an expert take %.0f ns, fewer took %.0f", rows, now, before);
        before = now;
    }
    /* Slower rates never take less; the device's floor holds. */
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) {
        moet_device_rates slower = rates;
        slower.rate[i] *= 0.5;
        assert_true(cost(&plain_tile, &slower, counts) >= cost(&plain_tile, &rates, counts));
    }
    double rows = 0;
    for (int32_t e = 0; e < 8; e++) rows += counts[e];
    assert_true(cost(&plain_tile, &rates, counts) > 1e9 * 2 * rows * 4096 * 4096 / rates.rate[MOET_RATE_TENSOR]);
    /* What is shared or hidden is not paid. */
    moet_tile_shape better = plain_tile;
    better.hides_store = true;
    assert_true(cost(&better, &rates, counts) < cost(&plain_tile, &rates, counts));
    moet_device_rates narrow = rates;
    narrow.rate[MOET_RATE_L2] /= 4;
    better = plain_tile;
    better.w_shared = 2;
    assert_true(cost(&better, &narrow, counts) < cost(&plain_tile, &narrow, counts));
    /* One row of a tile costs a step of rows, of a tile of one step the whole tile. */
    int32_t few[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    moet_device_rates wide = rates;
    wide.rate[MOET_RATE_HBM] = wide.rate[MOET_RATE_L2] = 1e18;
    moet_tile_shape whole = plain_tile;
    whole.row_step = 128;
    assert_true(cost(&plain_tile, &wide, few) < 0.7 * cost(&whole, &wide, few));
}

/* Where HBM is what takes long: weights that several row tiles read cross between the halves of an H100's L2. Where L2
 * is: many copies of few rows take longer than few of many. */
static void test_copies(void **state)
{
    (void)state;
    moet_device_rates rates = guessed();
    rates.rate[MOET_RATE_TENSOR] = rates.rate[MOET_RATE_STORE] = rates.rate[MOET_RATE_LAUNCH] = 1e18;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, 8, 4096, 2048);
    const int32_t few[8] = {64, 64, 64, 64, 64, 64, 64, 64};
    int32_t many[8];
    for (int32_t e = 0; e < 8; e++) many[e] = 4096;
    moet_device_rates slow_hbm = rates, slow_l2 = rates;
    slow_hbm.rate[MOET_RATE_L2] = slow_l2.rate[MOET_RATE_HBM] = 1e18;
    moet_device_info other = h100;
    other.cc_major = 8;
    moet_tile_shape low = plain_tile;
    low.rows = low.row_step = 16;
    for (int32_t i = 0; i < 2; i++) {
        const moet_device_info *device = i == 0 ? &h100 : &other;
        const double one = moet_tile_cost_ns(&problem, few, &plain_tile, device, &slow_hbm);
        const double four = moet_tile_cost_ns(&problem, few, &low, device, &slow_hbm);
        if (i == 0 ? four < 1.1 * one || four > 1.3 * one : fabs(four / one - 1) > 1e-3)
            test_fail("%g times as long on cc %d", four / one, device->cc_major);
    }
    double times[3];
    for (int32_t i = 0; i < 3; i++) {
        moet_tile_shape boxed = plain_tile;
        boxed.x_box = i == 0 ? 0 : i == 1 ? 64 : 16;
        times[i] = moet_tile_cost_ns(&problem, many, &boxed, &h100, &slow_l2);
    }
    assert_true(times[0] < times[1] && 1.1 * times[1] < times[2]);
}

/* 133 equal tiles take two waves on 132 SMs, with halves one and a half. */
static void test_waves(void **state)
{
    (void)state;
    moet_device_rates rates = guessed();
    rates.rate[MOET_RATE_HBM] = rates.rate[MOET_RATE_L2] = rates.rate[MOET_RATE_STORE] = 1e18;
    rates.rate[MOET_RATE_LAUNCH] = 1e12;
    moet_problem problem;
    double times[3];
    for (int32_t i = 0; i < 3; i++) {
        const int32_t counts[1] = {i == 0 ? 132 * 128 : 133 * 128};
        moet_tile_shape shape = plain_tile;
        shape.splits_last = i == 2;
        moet_problem_init(&problem, MOET_OP_DOWN, 1, 128, 4096); /* one column tile */
        times[i] = moet_tile_cost_ns(&problem, counts, &shape, &h100, &rates);
    }
    if (fabs(times[1] / times[0] - 2) > 0.02 || fabs(times[2] / times[0] - 1.5) > 0.02)
        test_fail("132 tiles take %.0f ns, 133 %.0f, with halves %.0f", times[0], times[1], times[2]);
}

/* ---- the fit ---- */

typedef struct cost_points {
    int32_t count, capacity;
    moet_cost_point *items;
} cost_points;

static moet_cost_point *add_point(cost_points *points)
{
    if (points->count == points->capacity) {
        points->capacity = points->capacity ? 2 * points->capacity : 64;
        points->items = realloc(points->items, (size_t)points->capacity * sizeof *points->items);
        assert_non_null(points->items);
    }
    moet_cost_point *added = &points->items[points->count++];
    *added = (moet_cost_point){0};
    return added;
}

static void release_points(cost_points *points)
{
    for (int32_t i = 0; i < points->count; i++) free(points->items[i].counts);
    free(points->items);
    *points = (cost_points){0};
}

static double estimate(const moet_cost_point *p, const moet_device_rates *rates)
{
    return p->config.family->estimate_ns(&p->problem, p->counts, p->tokens, &p->config, &h100, rates);
}

/* Times of a model device, two in a hundred off, give its rates back, from a guess that is off by up to a half. */
static void test_planted(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("wgmma_gemm");
    if (!family) skip(); /* a build without CUDA */
    const moet_device_rates guess = guessed();
    moet_device_rates planted = guess, fitted;
    static const double factors[MOET_RATE_COUNT] = {0.8, 1.3, 1.2, 0.6, 1.5};
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) planted.rate[i] *= factors[i];
    uint64_t random = 5;
    cost_points points = {0};
    while (points.count < 600) {
        moet_cost_point *p = add_point(&points);
        char why[MOET_REASON_SIZE];
        moet_problem_init(&p->problem, points.count % 2 ? MOET_OP_UP : MOET_OP_DOWN, 8, 2048, 768);
        p->counts = test_allocate(8 * sizeof *p->counts);
        const int64_t most = (int64_t)1 << test_between(&random, 0, 12);
        for (int32_t e = 0; e < 8; e++) p->counts[e] = (int32_t)test_between(&random, 0, most);
        p->counts[0]++;
        do {
            p->config = (moet_config){.family = family};
            for (int32_t i = 0; i < family->param_count; i++) {
                int32_t values = 0;
                while (family->params[i].values[values]) values++;
                p->config.value[i] = (int16_t)test_between(&random, 0, values - 1);
            }
        } while (!family->applicable(&p->problem, &p->config, &h100, why));
        p->time_ns = estimate(p, &planted) * (1 + 0.02 * (double)test_normal(&random));
    }
    double error = 0;
    TEST_OK(moet_cost_fit(&h100, points.items, points.count, &guess, &fitted, &error));
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) {
        print_message("rate %d: planted %.4g, fitted %.4g\n", i, planted.rate[i], fitted.rate[i]);
        assert_true(fabs(fitted.rate[i] / planted.rate[i] - 1) < 0.1);
    }
    assert_true(error < 0.03);
    /* What points do not tell stays as guessed. */
    moet_cost_point *one = points.items;
    one->time_ns = estimate(one, &guess);
    TEST_OK(moet_cost_fit(&h100, one, 1, &guess, &fitted, NULL));
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) assert_true(fabs(fitted.rate[i] / guess.rate[i] - 1) < 1e-3);
    TEST_FAILS(MOET_INVALID, "no measured times", moet_cost_fit(&h100, one, 0, &guess, &fitted, NULL));
    release_points(&points);
}

/* ---- the committed winners ---- */

enum { FIELDS = 18 };

/* Cuts a line of CSV in place; fields may be quoted. */
static void cut(char *line, char *fields[FIELDS])
{
    for (int32_t i = 0; i < FIELDS; i++) {
        const bool quoted = *line == '"';
        fields[i] = line += quoted;
        line += strcspn(line, quoted ? "\"" : ",\n");
        if (quoted && *line) *line++ = '\0';
        if (*line) *line++ = '\0';
    }
}

static void add_time(cost_points *points, const char *problem, const char *counts, const char *config, double time_us)
{
    moet_config parsed;
    if (moet_config_parse(config, &parsed) != MOET_OK || !parsed.family->estimate_ns) return;
    moet_cost_point *p = add_point(points);
    TEST_OK(moet_problem_parse(problem, &p->problem));
    p->config = parsed;
    p->time_ns = time_us * 1e3;
    p->counts = test_allocate((size_t)p->problem.experts * sizeof *p->counts);
    char *at = (char *)counts;
    for (int32_t e = 0; e < p->problem.experts; e++) {
        p->counts[e] = (int32_t)strtol(at, &at, 10);
        p->tokens += p->counts[e];
    }
}

/* Winners that may take counts from the device, first of each line's points; then runner-up and default. */
static void read_winners(cost_points *winners, cost_points *all)
{
    enum { PROBLEM = 1, COUNTS = 8, KIND, CONFIG, TIME, OVER_RUNNER_UP = 13, OVER_DEFAULT, RUNNER_UP = 16, DEFAULT };
    char line[8192], *fields[FIELDS];
    FILE *file = fopen(winners_path, "r");
    if (!file) test_fail("no %s", winners_path);
    assert_non_null(fgets(line, sizeof line, file));
    TEST_CONTAINS(line, "problem,workload,rows,skew,experts,max_over_mean,gini,counts,kind,config,time_us");
    while (fgets(line, sizeof line, file)) {
        cut(line, fields);
        if (strcmp(fields[KIND], "device_counts") != 0) continue;
        const double time_us = atof(fields[TIME]);
        add_time(winners, fields[PROBLEM], fields[COUNTS], fields[CONFIG], time_us);
        add_time(all, fields[PROBLEM], fields[COUNTS], fields[CONFIG], time_us);
        add_time(all, fields[PROBLEM], fields[COUNTS], fields[RUNNER_UP],
                 time_us * (1 + atof(fields[OVER_RUNNER_UP]) / 100));
        add_time(all, fields[PROBLEM], fields[COUNTS], fields[DEFAULT],
                 time_us * (1 + atof(fields[OVER_DEFAULT]) / 100));
    }
    fclose(file);
}

static int32_t rank_of(const moet_cost_point *winner, const moet_device_rates *rates, int32_t *listed)
{
    const moet_text_list families = {.count = 1, .texts = (char *[]){(char *)winner->config.family->name}};
    moet_candidates list = {0};
    moet_config first = winner->config;
    for (int32_t i = 0; i < first.family->param_count; i++)
        if (first.family->params[i].search != MOET_SEARCH_FIRST) first.value[i] = 0;
    TEST_OK(moet_candidates_list(&winner->problem, winner->tokens, &h100, &families, NULL, &list));
    moet_cost_point of_first = *winner;
    of_first.config = first;
    const double own = estimate(&of_first, rates);
    int32_t better = 0;
    *listed = 0;
    for (int32_t i = 0; i < list.count; i++) {
        const moet_candidate *c = &list.items[i];
        if (c->config.family != first.family || !c->applicable) continue;
        moet_cost_point other = *winner;
        other.config = c->config;
        better += !moet_config_equal(&c->config, &first) && estimate(&other, rates) < own;
        ++*listed;
    }
    moet_candidates_release(&list);
    return better;
}

enum { BOUNDS = 4 };
static const int32_t bounds[BOUNDS] = {4, 12, 24, 48};

/* How many winners of GEMMs stand among the best `bounds` estimates of all that a sweep lists first; how many there
 * are. Every second one only, from `first` on, if `step` is 2. */
static int32_t rank_winners(const cost_points *winners, const moet_device_rates *rates, int32_t first, int32_t step,
                            int32_t within[BOUNDS], int32_t *listed)
{
    int32_t ranked = 0;
    memset(within, 0, BOUNDS * sizeof within[0]);
    for (int32_t i = first; i < winners->count; i += step) {
        const moet_cost_point *w = &winners->items[i];
        if (w->problem.op == MOET_OP_FFN) continue;
        const int32_t rank = rank_of(w, rates, listed);
        for (int32_t j = 0; j < BOUNDS; j++) within[j] += rank < bounds[j];
        ranked++;
    }
    return ranked;
}

static void test_known_winners(void **state)
{
    (void)state;
    if (!moet_family_find("wgmma_gemm") || !winners_path) skip();
    cost_points winners = {0}, all = {0}, gemms = {0}, half = {0};
    read_winners(&winners, &all);
    for (int32_t i = 0; i < all.count; i++) {
        if (all.items[i].problem.op == MOET_OP_FFN) continue;
        *add_point(&gemms) = all.items[i];
        if (i / 3 % 2 == 0) *add_point(&half) = all.items[i]; /* three times a winner */
    }
    const struct {
        const char *name;
        const cost_points *points; /* NULL: not fitted */
        int32_t first, step;
    } cases[] = {{"the guess", NULL, 0, 1}, {"fitted", &gemms, 0, 1}, {"fitted to the others", &half, 1, 2}};
    const moet_device_rates guess = guessed();
    for (int32_t c = 0; c < MOET_COUNT_OF(cases); c++) {
        moet_device_rates rates = guess;
        double error = 0;
        int32_t within[BOUNDS], listed = 0;
        if (cases[c].points)
            TEST_OK(moet_cost_fit(&h100, cases[c].points->items, cases[c].points->count, &guess, &rates, &error));
        const int32_t ranked = rank_winners(&winners, &rates, cases[c].first, cases[c].step, within, &listed);
        print_message(
            "%s: off by %.1f %% (rms); %d winners of %d candidates: %d in the best 4, %d in 12, %d in 24, %d in "
            "48\n",
            cases[c].name, 100 * error, ranked, listed, within[0], within[1], within[2], within[3]);
        for (int32_t i = 0; cases[c].points && i < MOET_RATE_COUNT; i++)
            print_message("  %s %.4g, guessed %.4g\n", rate_names[i], rates.rate[i], guess.rate[i]);
        /* What docs/tuning.md says. */
        assert_true(error < 0.035 && ranked >= 72);
        if (cases[c].points) assert_true(within[1] * 4 >= 3 * ranked && within[2] * 10 >= 9 * ranked);
    }
    free(gemms.items);
    free(half.items);
    release_points(&winners);
    release_points(&all);
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--winners", .text = &winners_path}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moves), cmocka_unit_test(test_copies),
                                       cmocka_unit_test(test_waves), cmocka_unit_test(test_planted),
                                       cmocka_unit_test(test_known_winners)};
    return cmocka_run_group_tests_name("cost", tests, NULL, NULL);
}
