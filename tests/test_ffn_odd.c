/* What callers of moet_ffn may send besides what is usual, on any device: NaN, infinities, -0 and denormals in every
 * tensor; ids of no expert and repeated ones, with and without rows beyond max_rows.
 *
 *   test_ffn_odd [--device SPEC] [--configs N] [--part I --parts N]
 *
 * Parts, which may run beside each other, are every Nth draw: a GPU's kernels take seconds each to compile. How much of
 * what matters was met is checked of the whole only. */
#include "ffn_run.h"

#include <float.h>
#include <math.h>

static const char *spec = "host";
static int64_t config_count = 3;
static int64_t part = 1, parts = 1;
static moet_handle *handle;
static moet_device *device; /* the handle's */

static bool is_host(void) { return strcmp(device->info.backend, "host") == 0; }

/* ---- numbers ---- */

/* Experts by what is odd of theirs: the others' tokens have their own oddities alone. */
enum { ODD_UP, ODD_UP_BIAS, BIAS_ALONE, ODD_DOWN, ODD_EXPERTS };

static const uint16_t not_finite[] = {0x7fc0, 0xffc1, 0x7f80, 0xff80};
/* -0, denormals of either sign, the least normal, the greatest, 1, -20, 100: sums of these are finite. */
static const uint16_t odd_finite[] = {0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x7f7f, 0x3f80, 0xc1a0, 0x42c8, 0x0000};

/* x by tokens: usual, NaN, inf and -inf, zeros and -0, denormals. */
static void odd_x(uint64_t *random, ffn_path *p)
{
    const int64_t H = p->problem.hidden;
    for (int64_t t = 0; t < p->given.tokens; t++) {
        uint16_t *x = p->x + t * H;
        const int64_t kind = t % 8, at = test_between(random, 0, H - 1);
        if (kind < 4) x[at] = not_finite[kind];
        for (int64_t h = 0; h < H && kind == 4; h++) x[h] = h % 2 ? 0x8000 : 0;
        for (int64_t h = 0; h < H && kind == 5; h++) x[h] = (uint16_t)test_between(random, 0, 0x80);
    }
}

/* A column of an expert's weights, whatever the layout. */
static uint16_t *weight(const moet_problem *p, uint16_t *w, int64_t columns, int64_t depth, int32_t expert, int64_t n,
                        int64_t k)
{
    return w + expert * columns * depth + (p->layout == MOET_LAYOUT_NK ? n * depth + k : k * columns + n);
}

static void odd_weights(uint64_t *random, ffn_path *p)
{
    const moet_problem *s = &p->problem;
    const int64_t H = s->hidden, I = s->inter;
    *weight(s, p->up, 2 * I, H, ODD_UP, test_between(random, 0, 2 * I - 1), test_between(random, 0, H - 1)) = 0xff80;
    p->up_bias[ODD_UP_BIAS * 2 * I + test_between(random, 0, 2 * I - 1)] = not_finite[test_between(random, 0, 3)];
    for (int64_t h = 0; h < H; h++) {
        if (h % 3 == 0) *weight(s, p->down, H, I, ODD_DOWN, h, test_between(random, 0, I - 1)) = not_finite[h / 3 % 4];
        p->down_bias[ODD_DOWN * H + h] = h % 5 == 0 ? not_finite[h / 5 % 4] : odd_finite[h % 10];
    }
    /* Gates and ups are what the biases say, and out is one of the activations times a power of two. */
    for (int64_t i = 0; i < 2 * I * H; i++) p->up[BIAS_ALONE * 2 * I * H + i] = 0;
    for (int64_t i = 0; i < H * I; i++) p->down[BIAS_ALONE * H * I + i] = 0;
    for (int64_t i = 0; i < I; i++) {
        const uint16_t gate = odd_finite[test_between(random, 0, 9)];
        p->up_bias[BIAS_ALONE * 2 * I + i] = gate;
        p->up_bias[BIAS_ALONE * 2 * I + I + i] = gate == 0x7f7f ? 0xbf80 : odd_finite[test_between(random, 0, 9)];
        if (p->up_bias[BIAS_ALONE * 2 * I + I + i] == 0x7f7f && gate != 0x3f80)
            p->up_bias[BIAS_ALONE * 2 * I + I + i] = 0x4000;
    }
    for (int64_t h = 0; h < H; h++) {
        *weight(s, p->down, H, I, BIAS_ALONE, h, h % I) = h % 2 ? 0x3f80 : 0xbe80; /* 1, -0.25: denormals become -0 */
        p->down_bias[BIAS_ALONE * H + h] = 0x8000;
    }
}

static void odd_router_weights(uint64_t *random, ffn_path *p)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, -0.0f, 0.0f, 1e-40f, -1e-40f, FLT_MAX, -1.0f, FLT_MIN};
    for (int64_t i = 0; i < p->given.tokens * p->choices; i++)
        if (test_between(random, 0, 3) == 0) p->weights[i] = odd[test_between(random, 0, 9)];
}

/* Some usual tokens with BIAS_ALONE alone: its odd results are not added to others. */
static void odd_choices(ffn_path *p)
{
    for (int64_t t = 0; t < p->given.tokens; t++)
        for (int32_t c = 0; c < p->choices && t % 8 >= 6; c++) p->ids[t * p->choices + c] = c == 0 ? BIAS_ALONE : -1;
}

static void draw_odd(uint64_t *random, int64_t nth, ffn_path *path)
{
    ffn_draw(random, nth, path);
    moet_problem problem = path->problem;
    const int32_t choices = path->choices;
    ffn_path_free(path);
    problem.experts = ODD_EXPERTS + (int32_t)test_between(random, 0, 3);
    problem.bias = problem.down_bias = nth % 4 != 3;
    ffn_path_make(path, 120, choices, problem);
    ffn_path_fill(random, path);
    odd_choices(path);
    odd_x(random, path);
    odd_weights(random, path);
    odd_router_weights(random, path);
}

/* The family's first config, or the next, that fuses nothing. */
static bool find_passes(const moet_family *family, const moet_problem *problem, moet_config *config)
{
    char why[MOET_REASON_SIZE];
    *config = (moet_config){.family = family};
    family->default_config(problem, 1024, &device->info, config);
    moet_config_set(config, "act", "pass");
    moet_config_set(config, "gather", "pass");
    moet_config_set(config, "combine", "pass");
    return family->applicable(problem, config, &device->info, why);
}

static void run_config(const ffn_placed *d, const moet_plan_options *options, const moet_config *config, bool on_device,
                       uint16_t *bits)
{
    ffn_prepared p;
    ffn_prepare(device, d->path, options, config, on_device, &p);
    ffn_poison_out(d);
    TEST_OK(ffn_prepared_launch(&p, &d->args, d->rows, NULL));
    ffn_read_out(d, d->args.tokens, bits);
    ffn_prepared_release(&p);
}

/* Every family: its configs, what they fuse included, give what it gives in passes. */
static int32_t check_configs(uint64_t *random, const ffn_placed *d, const moet_plan_options *options)
{
    const ffn_path *path = d->path;
    uint16_t *want = test_allocate((size_t)path->elements * 2), *got = test_allocate((size_t)path->elements * 2);
    int32_t checked = 0;
    for (int32_t f = 0; moet_families[f]; f++) {
        const moet_family *family = moet_families[f];
        moet_config config;
        if (!family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
        if (!find_passes(family, &path->problem, &config)) continue;
        run_config(d, options, &config, true, want);
        for (int64_t i = 0; i < config_count && ffn_draw_config(random, family, &path->problem, &device->info, &config);
             i++) {
            char text[MOET_CONFIG_SIZE];
            moet_config_format(&config, text);
            run_config(d, options, &config, i & 1, got);
            ffn_assert_same(path, got, want, path->elements, text);
            checked++;
        }
    }
    free(want);
    free(got);
    return checked;
}

/* The default, the same in pieces, on the host in the C reference's stages, and configs: the same bits, NaN for NaN. */
static void test_odd_numbers(void **state)
{
    (void)state;
    int64_t met[TEST_CLASS_COUNT] = {0};
    int32_t configs = 0;
    for (int64_t i = part - 1; i < 18; i += parts) { /* each activation with each place of the router weight, twice */
        uint64_t random = 41 + 1000 * (uint64_t)i;
        ffn_path path;
        ffn_placed d;
        draw_odd(&random, i, &path);
        uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
        ffn_place(device, &path, i & 1, &d);
        for (int32_t on_device = 1; on_device >= 0; on_device--) {
            const moet_plan_options options = ffn_options(&path, on_device);
            ffn_guarded_plan g;
            ffn_plan_create(handle, &path, &options, &g);
            if (on_device) {
                ffn_run_pieces(&g, &d, i & 1, want);
                configs += check_configs(&random, &d, &g.plan->options);
            }
            ffn_run(&g, &d, &d.args, d.args.tokens, got);
            ffn_assert_same(&path, got, want, path.elements, on_device ? "odd numbers" : "odd numbers, host counts");
            ffn_plan_free(&g);
        }
        if (is_host()) {
            ffn_run_reference(handle, &d, want);
            ffn_assert_same(&path, got, want, path.elements, "odd numbers by the reference");
        }
        test_classes_count(got, path.elements, met);
        free(want);
        free(got);
        ffn_placed_free(&d);
        ffn_path_free(&path);
    }
    assert_true(configs > 0);
    if (parts > 1) return;
    if (!is_host()) met[TEST_NEGATIVE_ZERO] += 50, met[TEST_DENORMAL] += 50; /* if its GEMMs leave any */
    test_classes_check(met, 50);
}

/* ---- ids ---- */

/* What was tried and what happened, over all paths. */
typedef struct id_tally {
    int64_t strangers, repeats, lost_rows, left_alone, left_none; /* the last two: tokens that had more */
} id_tally;

/* The path's ids with something in place of most of the -1 that must be taken for it: ids of no expert, and experts
 * that the token has named before. Where ffn_place put them. */
static void dirty_ids(uint64_t *random, const ffn_placed *d, id_tally *tally)
{
    const ffn_path *p = d->path;
    const int64_t E = p->problem.experts, k = p->choices, stride = d->args.ids_stride ? d->args.ids_stride : k;
    const bool wide = d->args.ids_int64;
    /* The last ones in 64 bits only; cut to 32, two of them are experts. */
    const int64_t strangers[] = {E, E + 1, -2, INT32_MIN, INT32_MAX, INT64_MIN, INT64_MAX, 1LL << 32, -(1LL << 32)};
    int64_t *ids = test_allocate((size_t)(p->given.tokens * stride) * sizeof *ids);
    int32_t *narrow = test_allocate((size_t)(p->given.tokens * stride) * sizeof *narrow);
    for (int64_t t = 0; t < p->given.tokens; t++) {
        int64_t named = -1;
        for (int64_t c = 0; c < k; c++) {
            int64_t id = p->ids[t * k + c];
            if (id >= 0) named = id;
            const int64_t kind = id >= 0 ? 0 : test_between(random, 0, 4);
            if (kind > 0 && kind < 4) {
                id = strangers[test_between(random, 0, wide ? MOET_COUNT_OF(strangers) - 1 : 4)];
                tally->strangers++;
            } else if (kind == 4 && named >= 0) {
                id = named;
                tally->repeats++;
            }
            ids[t * stride + c] = id;
            narrow[t * stride + c] = wide ? 0 : (int32_t)id;
        }
    }
    const size_t count = (size_t)(p->given.tokens * stride);
    TEST_OK(device->backend->upload(device, test_buffer_inside(&d->ids), wide ? (const void *)ids : narrow,
                                    count * (wide ? sizeof *ids : sizeof *narrow)));
    free(ids);
    free(narrow);
}

/* Takes the choices out of the path whose rows come after max_rows. */
static void trim(ffn_path *p, int64_t max_rows, id_tally *tally)
{
    const int64_t E = p->problem.experts, k = p->choices;
    moet_ffn_permutation *permutation;
    TEST_OK(moet_ffn_permutation_create(&p->problem, p->choices, &p->given, &permutation));
    for (int64_t t = 0; t < p->given.tokens; t++) {
        int64_t had = 0, left = 0;
        for (int64_t c = 0; c < k; c++) {
            int32_t *id = &p->ids[t * k + c];
            if (*id < 0) continue;
            had++;
            left += permutation->rowmap[t * E + *id] < max_rows;
            if (permutation->rowmap[t * E + *id] >= max_rows) *id = -1;
        }
        tally->lost_rows += had - left;
        tally->left_alone += had > 1 && left == 1;
        tally->left_none += had > 0 && left == 0;
    }
    moet_ffn_permutation_destroy(permutation);
}

/* What the path gives with clean ids and all the rows that it has. */
static void run_clean(const ffn_path *path, uint16_t *bits, int64_t *rows)
{
    ffn_placed d;
    ffn_guarded_plan g;
    const moet_plan_options options = ffn_options(path, true);
    ffn_place(device, path, false, &d);
    ffn_plan_create(handle, path, &options, &g);
    ffn_run(&g, &d, &d.args, d.args.tokens, bits);
    *rows = d.rows;
    ffn_plan_free(&g);
    ffn_placed_free(&d);
}

/* Counts of more rows than the plan has are refused, and nothing is written. */
static void check_refused(const ffn_path *path, const ffn_placed *d, int64_t max_rows)
{
    moet_plan_options options = ffn_options(path, false);
    ffn_guarded_plan g;
    options.max_rows = max_rows;
    ffn_plan_create(handle, path, &options, &g);
    ffn_poison_out(d);
    TEST_FAILS(MOET_INVALID, "counts sum to", moet_ffn(g.plan, &d->args));
    ffn_read_out(d, 0, NULL);
    ffn_plan_free(&g);
}

/* Of every family, what it fuses by chance. */
static void check_dirty_configs(uint64_t *random, const ffn_placed *d, const moet_plan_options *options,
                                const uint16_t *want)
{
    const ffn_path *path = d->path;
    uint16_t *got = test_allocate((size_t)path->elements * 2);
    for (int32_t f = 0; moet_families[f]; f++) {
        const moet_family *family = moet_families[f];
        moet_config config;
        if (!family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
        if (!ffn_draw_config(random, family, &path->problem, &device->info, &config)) continue;
        char text[MOET_CONFIG_SIZE];
        moet_config_format(&config, text);
        run_config(d, options, &config, true, got);
        ffn_assert_same(path, got, want, path->elements, text);
    }
    free(got);
}

static void test_bad_ids_and_max_rows(void **state)
{
    (void)state;
    id_tally tally = {0};
    for (int64_t i = part - 1; i < 27; i += parts) {
        uint64_t random = 42 + 1000 * (uint64_t)i;
        ffn_path path;
        ffn_placed d;
        ffn_guarded_plan g;
        moet_plan_options options;
        int64_t rows, left;
        ffn_draw(&random, i, &path);
        for (int64_t j = 0; j < path.given.tokens * path.choices; j++) /* that nobody may look at */
            if (path.ids[j] < 0) path.weights[j] = NAN;
        uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
        run_clean(&path, want, &rows);
        ffn_place(device, &path, i & 1, &d);
        dirty_ids(&random, &d, &tally);
        for (int32_t on_device = 0; on_device < 2; on_device++) {
            options = ffn_options(&path, on_device);
            ffn_plan_create(handle, &path, &options, &g);
            ffn_run(&g, &d, &d.args, d.args.tokens, got);
            ffn_assert_same(&path, got, want, path.elements, on_device ? "bad ids" : "bad ids, host counts");
            ffn_plan_free(&g);
        }
        if (rows > 1) { /* now with rows beyond the plan's */
            options = ffn_options(&path, true);
            options.max_rows = test_between(&random, 1, rows - 1);
            check_refused(&path, &d, options.max_rows);
            trim(&path, options.max_rows, &tally);
            run_clean(&path, want, &left);
            assert_int_equal(left, options.max_rows);
            ffn_plan_create(handle, &path, &options, &g);
            ffn_run(&g, &d, &d.args, d.args.tokens, got);
            ffn_assert_same(&path, got, want, path.elements, "bad ids and rows beyond max_rows");
            ffn_run_pieces(&g, &d, i & 1, got);
            ffn_assert_same(&path, got, want, path.elements, "the same in pieces");
            check_dirty_configs(&random, &d, &options, want);
            ffn_plan_free(&g);
        }
        free(want);
        free(got);
        ffn_placed_free(&d);
        ffn_path_free(&path);
    }
    print_message("%lld ids of no expert, %lld repeated; %lld rows lost, %lld tokens left with one, %lld with none\n",
                  (long long)tally.strangers, (long long)tally.repeats, (long long)tally.lost_rows,
                  (long long)tally.left_alone, (long long)tally.left_none);
    if (parts > 1) return;
    assert_true(tally.strangers > 100 && tally.repeats > 100 && tally.lost_rows > 100);
    assert_true(tally.left_alone > 20 && tally.left_none > 20);
}

int main(int argc, char **argv)
{
    const test_option options[] = {{"--device", .text = &spec},
                                   {"--configs", .number = &config_count},
                                   {"--part", .number = &part},
                                   {"--parts", .number = &parts}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (parts < 1 || part < 1 || part > parts || parts > 18) {
        fprintf(stderr, "--part is 1 to --parts, these at most 18\n");
        return 1;
    }
    if (moet_open(NULL, spec, &handle) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    device = handle->device;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_odd_numbers), cmocka_unit_test(test_bad_ids_and_max_rows)};
    int failed = cmocka_run_group_tests_name("ffn_odd", tests, NULL, NULL);
    moet_close(handle);
    return failed;
}
