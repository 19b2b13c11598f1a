/* What runs between tuned points: how far from the best it is on a device whose times are known everywhere, what it
 * does with what was not measured, and what it costs the host. */
#include "table_text.h"
#include "test.h"

#include <math.h>
#include <time.h>

#include "../kernels/tile_cost.h"
#include "../src/plan.h"
#include "../tuner/candidates.h"
#include "../tuner/cost_fit.h"
#include "../tuner/cover.h"
#include "../tuner/workload.h"

/* Times of code that was not optimized, or is watched, say nothing. */
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
#define IS_SLOWED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IS_SLOWED 1
#endif
#endif
#ifndef IS_SLOWED
#define IS_SLOWED 0
#endif

/* ---- a device that is not there: its times are those of families' estimates ---- */

static moet_device h100 = {.info = {.backend = "cuda",
                                    .name = "any",
                                    .cc_major = 9,
                                    .sm_count = 132,
                                    .smem_per_block_optin_bytes = 232448,
                                    .smem_per_sm_bytes = 233472,
                                    .regs_per_sm = 65536,
                                    .l2_bytes = 52428800},
                           .key = "backend=cuda,name=any"};

enum { MOST_CONFIGS = 320, MOST_POINTS = 32, MOST_EXPERTS = 128, MEASURED = 12 };

static moet_device_rates guessed(void)
{
    return moet_cost_guess(&h100.info, &(moet_ceilings){.dense_flops_per_s = 780e12, .read_bytes_per_s = 2.9e12});
}

/* What the device does, which is not what a table says of it. */
static moet_device_rates actual(void)
{
    static const double off[MOET_RATE_COUNT] = {[MOET_RATE_TENSOR] = 0.9,
                                                [MOET_RATE_L2] = 0.8,
                                                [MOET_RATE_HBM] = 0.95,
                                                [MOET_RATE_STORE] = 1.3,
                                                [MOET_RATE_LAUNCH] = 1};
    moet_device_rates rates = guessed();
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) rates.rate[i] *= off[i];
    return rates;
}

/* A problem's configurations. */
typedef struct space {
    moet_problem problem;
    moet_device_rates rates;
    int32_t count;
    moet_config configs[MOST_CONFIGS];
    char texts[MOST_CONFIGS][MOET_CONFIG_SIZE];
} space;

static double time_of(const space *s, int32_t config, const int32_t *counts)
{
    const moet_config *c = &s->configs[config];
    return c->family->estimate_ns(&s->problem, counts, 0, c, &h100.info, &s->rates);
}

static void make_space(space *s, moet_op op, int32_t experts, int32_t hidden, int32_t inter)
{
    moet_text_list families = {0};
    moet_candidates list = {0};
    s->count = 0;
    s->rates = actual();
    moet_problem_init(&s->problem, op, experts, hidden, inter);
    TEST_OK(moet_parse_texts("wgmma_gemm,mma_gemm", "--families", &families));
    TEST_OK(moet_candidates_list(&s->problem, 8192, &h100.info, &families, NULL, &list));
    for (int32_t i = 0; i < list.count; i++) {
        const moet_config *config = &list.items[i].config;
        bool is_new = list.items[i].applicable && config->family->estimate_ns;
        for (int32_t k = 0; k < s->count && is_new; k++) is_new = !moet_config_equal(&s->configs[k], config);
        if (!is_new) continue;
        assert_in_range(s->count, 0, MOST_CONFIGS - 1);
        s->configs[s->count] = *config;
        moet_config_format(config, s->texts[s->count++]);
    }
    moet_candidates_release(&list);
    moet_text_list_release(&families);
    assert_in_range(s->count, 20, MOST_CONFIGS);
}

/* A table of the space, with a plan made of it. Of each point the fastest MEASURED configurations were measured. */
typedef struct tuned {
    int32_t point_count;
    int32_t counts[MOST_POINTS][MOST_EXPERTS];
    double times[MOST_POINTS][MOST_CONFIGS];
    int32_t chosen[MOST_POINTS]; /* index into the space */
    int32_t from[MOST_CONFIGS];  /* of what is prepared: index into the space */
    moet_table *table;
    moet_handle handle;
    moet_prepared prepared[MOST_CONFIGS];
    int32_t point_prepared[MOST_POINTS];
    moet_plan plan;
} tuned;

static void choose(const space *s, tuned *t)
{
    static double cost[MOST_POINTS * MOST_CONFIGS];
    double allowed[MOST_POINTS];
    for (int32_t p = 0; p < t->point_count; p++) {
        double best = INFINITY;
        for (int32_t c = 0; c < s->count; c++) {
            t->times[p][c] = time_of(s, c, t->counts[p]);
            best = fmin(best, t->times[p][c]);
        }
        allowed[p] = 1.01;
        for (int32_t c = 0; c < s->count; c++) {
            int32_t faster = 0;
            for (int32_t d = 0; d < s->count; d++) faster += t->times[p][d] < t->times[p][c];
            cost[p * s->count + c] = faster < MEASURED ? t->times[p][c] / best : 0;
        }
        for (int32_t c = 0; c < s->count; c++) t->times[p][c] = cost[p * s->count + c] * best;
    }
    TEST_OK(moet_cover(t->point_count, s->count, cost, allowed, -1, t->chosen));
}

static void make_table(const space *s, tuned *t, const bool *used)
{
    static text_point points[MOST_POINTS];
    static text_other others[MOST_POINTS][MOST_CONFIGS];
    static char validators[MOST_POINTS][64], texts[MOST_POINTS][MOET_CONFIG_SIZE];
    for (int32_t p = 0; p < t->point_count; p++) {
        const int32_t own = t->chosen[p];
        points[p] = (text_point){.counts = t->counts[p]};
        points[p].any = text_winner_of(&s->configs[own], texts[p], validators[p], llround(t->times[p][own]));
        points[p].any.others = others[p];
        for (int32_t c = 0; c < s->count; c++) {
            if (used[c] && c != own && t->times[p][c] > 0)
                others[p][points[p].any.other_count++] = (text_other){s->texts[c], llround(t->times[p][c])};
        }
    }
    char *text = text_table(&h100, &s->problem, points, t->point_count, NULL, 0);
    TEST_OK(moet_table_parse(text, strlen(text), NULL, true, &h100, &t->table));
    free(text);
    assert_int_equal(t->table->entry_count, t->point_count);
    t->table->has_rates = true;
    t->table->rates = guessed();
}

static int32_t tune(const space *s, tuned *t)
{
    static const char *const skews[] = {"balanced", "lognormal:0.43", "zipf:1"};
    bool used[MOST_CONFIGS] = {false};
    static int some_state;
    *t = (tuned){.point_count = 0};
    for (int32_t rows = 256; rows <= 65536; rows *= 2) {
        for (int32_t k = 0; k < MOET_COUNT_OF(skews); k++)
            TEST_OK(moet_skew_draw(skews[k], s->problem.experts, rows, 1, t->counts[t->point_count++]));
    }
    choose(s, t);
    for (int32_t p = 0; p < t->point_count; p++) used[t->chosen[p]] = true;
    make_table(s, t, used);
    t->handle = (moet_handle){.device = &h100, .table = t->table};
    t->plan = (moet_plan){.handle = &t->handle,
                          .problem = s->problem,
                          .options = {.max_rows = MOET_MAX_ROWS},
                          .tuned = t->table->problems,
                          .point_prepared = t->point_prepared,
                          .prepared = t->prepared};
    for (int32_t c = 0; c < s->count; c++) {
        if (!used[c]) continue;
        for (int32_t p = 0; p < t->point_count; p++) {
            if (t->chosen[p] == c) t->point_prepared[p] = t->plan.prepared_count;
        }
        t->from[t->plan.prepared_count] = c;
        t->prepared[t->plan.prepared_count++] = (moet_prepared){.config = s->configs[c], .state = &some_state};
    }
    const int32_t configs = t->plan.prepared_count;
    t->plan.fallback = t->plan.prepared_count; /* a default that was not measured */
    t->prepared[t->plan.prepared_count++] = (moet_prepared){.config = s->configs[0], .state = &some_state};
    TEST_OK(moet_lookup_create(&t->plan, &t->plan.lookup));
    return configs;
}

static void forget(tuned *t)
{
    moet_lookup_destroy(t->plan.lookup);
    moet_table_close(t->table);
}

/* Rows log-uniform in 256 to 65536. */
static void draw(uint64_t *random, int32_t nth, int32_t experts, int32_t *counts)
{
    static const char *const skews[] = {"balanced",      "uniform",  "lognormal:0.2", "lognormal:0.43",
                                        "lognormal:0.7", "zipf:0.5", "zipf:1",        "powerlaw:1.01",
                                        "powerlaw:1.2",  "hot:0.3",  "idle:0.5"};
    const double part = (double)test_between(random, 0, 1000000) / 1e6;
    TEST_OK(moet_skew_draw(skews[nth % MOET_COUNT_OF(skews)], experts, llround(256 * pow(256, part)),
                           (uint64_t)(1000 + nth), counts));
}

static const struct {
    moet_op op;
    int32_t experts, hidden, inter;
} shapes[] = {
    {MOET_OP_UP, 8, 7168, 2048},   {MOET_OP_DOWN, 8, 7168, 2048},  {MOET_OP_UP, 16, 2048, 768},
    {MOET_OP_DOWN, 16, 2048, 768}, {MOET_OP_UP, 16, 2880, 2880},   {MOET_OP_DOWN, 32, 4096, 1536},
    {MOET_OP_UP, 64, 4096, 1536},  {MOET_OP_DOWN, 128, 2048, 768}, {MOET_OP_FFN, 16, 2048, 768},
    {MOET_OP_FFN, 64, 4096, 1536},
};
static const char *const op_texts[] = {
#define MOET_X(name, text) text,
    MOET_OP_TABLE(MOET_X)
#undef MOET_X
};

static space all;
static tuned from;

/* The quick form says what the slow one says. */
static void test_quick_estimates(void **state)
{
    (void)state;
    if (!moet_family_find("wgmma_gemm")) skip(); /* a build without CUDA */
    uint64_t random = 3;
    double least = 1, most = 1;
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) {
        if (shapes[i].op == MOET_OP_FFN) continue; /* a path's tilings are without its passes */
        make_space(&all, shapes[i].op, shapes[i].experts, shapes[i].hidden, shapes[i].inter);
        for (int32_t c = 0; c < all.count; c++) {
            const moet_config *config = &all.configs[c];
            moet_tiling tiling;
            assert_int_equal(config->family->tile(&all.problem, config, &h100.info, &all.rates, &tiling), 1);
            for (int32_t nth = 0; nth < 11; nth++) {
                int32_t counts[MOST_EXPERTS];
                draw(&random, nth, shapes[i].experts, counts);
                const double quick = 1e9 * moet_tiling_seconds(&tiling, counts, shapes[i].experts);
                const double ratio = quick / time_of(&all, c, counts);
                if (ratio < 0.98 || ratio > 1.02) test_fail("%s: %g times the slow estimate", all.texts[c], ratio);
                least = fmin(least, ratio);
                most = fmax(most, ratio);
            }
        }
        int32_t nothing[MOST_EXPERTS] = {0};
        moet_tiling tiling;
        all.configs[0].family->tile(&all.problem, &all.configs[0], &h100.info, &all.rates, &tiling);
        assert_true(fabs(1e9 * moet_tiling_seconds(&tiling, nothing, shapes[i].experts) / time_of(&all, 0, nothing) -
                         1) < 1e-9);
    }
    print_message("quick estimates are %.4f to %.4f of the slow ones\n", least, most);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct summary {
    double mean, p95, most;
} summary;

static summary summarize(double *regrets, int32_t count)
{
    summary sum = {0};
    qsort(regrets, (size_t)count, sizeof *regrets, compare_doubles);
    for (int32_t i = 0; i < count; i++) sum.mean += regrets[i] / count;
    sum.p95 = regrets[(95 * count + 99) / 100 - 1];
    sum.most = regrets[count - 1];
    return sum;
}

/* On workloads that were not tuned, of other rows and skews: near the best of all configurations, and much nearer than
 * what is best at the nearest point. */
static void test_regret(void **state)
{
    (void)state;
    enum { ROUTINGS = 110 };
    static double regrets[2][ROUTINGS * MOET_COUNT_OF(shapes)];
    if (!moet_family_find("wgmma_gemm")) skip();
    uint64_t random = 7;
    int32_t count = 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) {
        make_space(&all, shapes[i].op, shapes[i].experts, shapes[i].hidden, shapes[i].inter);
        const int32_t configs = tune(&all, &from);
        const int32_t first = count;
        for (int32_t nth = 0; nth < ROUTINGS; nth++) {
            int32_t counts[MOST_EXPERTS];
            moet_routing routing;
            moet_table_neighbor near[MOET_TABLE_NEIGHBORS];
            draw(&random, nth, shapes[i].experts, counts);
            TEST_OK(moet_routing_summarize(counts, shapes[i].experts, &routing));
            const moet_decision d = moet_lookup_decide(from.plan.lookup, counts, &routing);
            if (d.hit == MOET_HIT_DEFAULT) continue; /* a skew far from all */
            assert_true(d.hit == MOET_HIT_NEAREST || routing.rows % 256 == 0);
            assert_true(moet_table_nearest(from.table->problems, NULL, routing.rows, routing.max_over_mean, near) > 0);
            assert_ptr_equal(d.point, &from.table->problems->points[near[0].point]);
            double best = INFINITY;
            for (int32_t c = 0; c < all.count; c++) best = fmin(best, time_of(&all, c, counts));
            regrets[0][count] = time_of(&all, from.from[d.prepared - from.prepared], counts) / best - 1;
            regrets[1][count++] = time_of(&all, from.chosen[near[0].point], counts) / best - 1;
        }
        double of_shape[ROUTINGS];
        memcpy(of_shape, regrets[0] + first, (size_t)(count - first) * sizeof *of_shape);
        const summary own = summarize(of_shape, count - first);
        print_message("E %d, H %d, I %d, %s: %d of %d configurations, regret %.2f %%, p95 %.2f %%, at most %.2f %%\n",
                      shapes[i].experts, shapes[i].hidden, shapes[i].inter, op_texts[shapes[i].op], configs, all.count,
                      100 * own.mean, 100 * own.p95, 100 * own.most);
        forget(&from);
    }
    const summary own = summarize(regrets[0], count), nearest = summarize(regrets[1], count);
    print_message("all: %.2f %%, p95 %.2f %%, at most %.2f %%; the nearest point's own: %.2f %%, %.2f %%, %.2f %%\n",
                  100 * own.mean, 100 * own.p95, 100 * own.most, 100 * nearest.mean, 100 * nearest.p95,
                  100 * nearest.most);
    assert_true(count > 500);
    assert_true(own.mean < 0.0100 && own.p95 < 0.04 && own.most < 0.25);
    assert_true(own.mean < 0.5 * nearest.mean && own.p95 < 0.6 * nearest.p95);
}

/* The default is taken within 1 % of the best, where it was measured. */
static void test_default_wins_ties(void **state)
{
    if (!moet_family_find("wgmma_gemm")) skip();
    const int32_t experts = *state ? 128 : 16; /* by the points alone, by estimates too */
    make_space(&all, MOET_OP_UP, experts, 2048, 768);
    tune(&all, &from);
    int32_t counts[MOST_EXPERTS], other = -1;
    moet_routing routing;
    TEST_OK(moet_skew_draw("lognormal:0.43", experts, 3000, 9, counts));
    TEST_OK(moet_routing_summarize(counts, experts, &routing));
    const moet_decision before = moet_lookup_decide(from.plan.lookup, counts, &routing);
    const int32_t best = (int32_t)(before.prepared - from.prepared);
    for (int32_t k = 0; k < from.plan.prepared_count - 1; k++) other = k != best ? k : other;
    assert_true(other >= 0);
    /* Alike in tiles too; every time of one is the other's, and a bit more or less. */
    static const double ratios[] = {0.97, 1.005, 1.03};
    moet_table_problem *p = from.table->problems;
    from.prepared[other].config = from.prepared[best].config;
    from.prepared[other].config.value[moet_family_param(from.prepared[best].config.family, "group")] ^= 1;
    for (int32_t i = 0; i < MOET_COUNT_OF(ratios); i++) {
        for (int32_t j = 0; j < p->point_count; j++) {
            moet_table_winner *winner = &p->points[j].winner[MOET_TABLE_ANY];
            free(winner->others);
            winner->others = malloc(sizeof *winner->others);
            assert_non_null(winner->others);
            winner->others[0] =
                (moet_table_other){from.prepared[other].config, (int64_t)((double)winner->time_ns * ratios[i])};
            winner->other_count = 1;
            winner->config = from.prepared[best].config;
            from.point_prepared[j] = best;
        }
        for (int32_t default_is = 0; default_is < 2; default_is++) {
            moet_lookup *lookup;
            from.plan.fallback = default_is ? other : from.plan.prepared_count - 1;
            TEST_OK(moet_lookup_create(&from.plan, &lookup));
            const moet_decision d = moet_lookup_decide(lookup, counts, &routing);
            const bool takes_other = ratios[i] < 1 || (default_is && ratios[i] < 1.01);
            assert_int_equal(d.prepared - from.prepared, takes_other ? other : best);
            const int64_t winner_ns = d.point->winner[MOET_TABLE_ANY].time_ns;
            assert_int_equal(d.tuned_ns, takes_other ? (int64_t)((double)winner_ns * ratios[i]) : winner_ns);
            moet_lookup_destroy(lookup);
        }
    }
    forget(&from);
}

/* ---- what a lookup costs ---- */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* The least of many short runs, as others use this machine too. */
enum { ROUTINGS = 64, RUNS = 200 };
static double time_lookups(const int32_t (*counts)[MOST_EXPERTS], int32_t *answers)
{
    double least = INFINITY;
    for (int32_t run = 0; run < RUNS; run++) {
        const double begin = now_ns();
        for (int32_t nth = 0; nth < ROUTINGS; nth++) {
            moet_routing routing;
            moet_decision d;
            TEST_OK(moet_plan_decide(&from.plan, counts[nth], &routing, &d));
            answers[d.hit]++;
        }
        least = fmin(least, (now_ns() - begin) / ROUTINGS);
    }
    return least;
}

/* Of an expert's share of a GEMM, of the configuration that takes longest. */
static double time_shares(const int32_t (*counts)[MOST_EXPERTS])
{
    const int32_t experts = all.problem.experts;
    double most = 0;
    for (int32_t k = 0; k < from.plan.prepared_count; k++) {
        const moet_config *config = &from.prepared[k].config;
        moet_tiling tilings[MOET_MAX_GEMMS];
        const int32_t gemms = config->family->tile(&all.problem, config, &h100.info, &from.table->rates, tilings);
        double least = INFINITY, sum = 0;
        for (int32_t run = 0; run < RUNS; run++) {
            const double begin = now_ns();
            for (int32_t nth = 0; nth < ROUTINGS; nth++) {
                for (int32_t g = 0; g < gemms; g++) sum += moet_tiling_seconds(&tilings[g], counts[nth], experts);
            }
            least = fmin(least, (now_ns() - begin) / (ROUTINGS * gemms * experts));
        }
        assert_true(sum > 0);
        most = fmax(most, least);
    }
    return most;
}

/* Of counts that were never seen. */
static void test_nanoseconds(void **state)
{
    (void)state;
    enum { LIMIT_NS = 2000, POINTS_NS = 300, SHARES = 112, TRIES = 20 };
    static const struct {
        moet_op op;
        int32_t experts;
    } cases[] = {{MOET_OP_UP, 8},   {MOET_OP_UP, 32},  {MOET_OP_UP, 80},  {MOET_OP_UP, 128},
                 {MOET_OP_FFN, 20}, {MOET_OP_FFN, 40}, {MOET_OP_FFN, 80}, {MOET_OP_FFN, 128}};
    static int32_t counts[ROUTINGS][MOST_EXPERTS];
    if (!moet_family_find("wgmma_gemm")) skip();
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        const int32_t experts = cases[i].experts;
        uint64_t random = 11;
        int32_t answers[MOET_HIT_COUNT];
        double least = INFINITY, share = INFINITY;
        bool is_cheap = false;
        make_space(&all, cases[i].op, experts, 2048, 768);
        const int32_t configs = tune(&all, &from);
        for (int32_t nth = 0; nth < ROUTINGS; nth++) draw(&random, nth, experts, counts[nth]);
        for (int32_t nth = 0; nth < TRIES && !is_cheap; nth++) { /* other work comes in bursts */
            memset(answers, 0, sizeof answers);
            least = fmin(least, time_lookups(counts, answers));
            share = fmin(share, time_shares(counts));
            /* No more shares than are promised, on a machine of any speed; each is a bit dearer among other work. And
             * no more than twice the time that is promised, for machines that are not quiet. */
            is_cheap = IS_SLOWED || (least <= 1.3 * (POINTS_NS + SHARES * share) && least <= 2 * LIMIT_NS);
        }
        print_message(
            "%s, %d experts, %d points, %d configurations: %.0f ns a lookup (%d %% of them nearest), %.1f ns a "
            "share\n",
            op_texts[cases[i].op], experts, from.point_count, configs, least,
            100 * answers[MOET_HIT_NEAREST] / (RUNS * ROUTINGS), share);
        forget(&from);
        assert_true(answers[MOET_HIT_NEAREST] > RUNS * ROUTINGS / 2);
        if (!is_cheap)
            test_fail("a lookup takes %.0f ns, not %d and %d shares of %.1f ns", least, LIMIT_NS, SHARES, share);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quick_estimates),   cmocka_unit_test(test_regret),
        cmocka_unit_test(test_default_wins_ties), cmocka_unit_test_prestate(test_default_wins_ties, &all),
        cmocka_unit_test(test_nanoseconds),
    };
    return cmocka_run_group_tests_name("lookup", tests, NULL, NULL);
}
