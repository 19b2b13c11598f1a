/* What every kernel family must do, over every line of families.def that runs on a device:
 *
 *   test_conformance [--device SPEC] [--family NAME] [--pairs] [--every N] [--shapes N] [--once]
 *   test_conformance --list [--device SPEC]      the families of this device, one a line
 *
 * --pairs: not every config on every shape, but a set in which every pair of parameter values, and every value with
 * every shape and layout, with and without bias, occurs. --every N (or MOET_TEST_EVERY=N): of those that remain every
 * N-th. --shapes N: the first N shapes. --once, for runs under compute-sanitizer: each routing is launched once only,
 * with the counts on the host or on the device and on all SMs or on few in turn.
 *
 * The default is applicable; each refusal has its reason; every applicable config (every N-th on a shape, each on some
 * shapes) is right on edge shapes, bit for bit on inputs whose sums are exact and within the bound on random ones,
 * writes nothing but its rows, gives equal bits when repeated and, where its traits say so, the same bits for a row
 * whatever batch it is in. A config runs on all SMs and on few: on all, no shape with several blocks of K has a second
 * tile for a CTA. */
#include "configs.h"
#include "subject.h"

#include "../kernels/reference.h"

/* ---- the edge shapes ---- */

#define MAX_ROUTINGS 4
typedef struct edge_shape {
    const char *what;
    moet_op op;
    int32_t experts, hidden, inter;
    /* Rows of the first experts of each routing; the rest follows from fill. Ended by a routing of -1. */
    int32_t counts[MAX_ROUTINGS][6];
    int32_t fill; /* modulus: expert e of 6 and more gets (7 e) % fill, every third nothing; 0: all nothing */
} edge_shape;

static const edge_shape shapes[] = {
    /* The first routing has experts below and above 256 rows, and of the one above more than 8 tiles of 64 rows. */
    {"tails in rows, N and K", MOET_OP_UP, 5, 264, 76, {{17, 0, 513, 1, 64}, {0, 0, 129, 0, 0}, {0}, {-1}}, 0},
    {"the smallest, N = K = 8", MOET_OP_DOWN, 4, 8, 8, {{3, 1, 0, 5}, {1}, {0}, {0, 0, 0, 1}}, 0},
    {"64 experts, many empty", MOET_OP_DOWN, 64, 40, 24, {{0, 9, 0, 16, 17, 1}, {-1}}, 20},
    {"one expert", MOET_OP_DOWN, 1, 72, 136, {{130}, {33}, {1}, {0}}, 0},
    {"N = 2880", MOET_OP_DOWN, 2, 2880, 40, {{5, 0}, {0, 34}, {-1}}, 0},
    {"K = 2880", MOET_OP_DOWN, 2, 16, 2880, {{3, 18}, {-1}}, 0},
    {"65 experts", MOET_OP_UP, 65, 24, 16, {{0, 9, 0, 16, 17, 1}, {-1}}, 7},
    {"1024 experts", MOET_OP_DOWN, MOET_MAX_EXPERTS, 8, 16, {{0, 0, 2, 0, 0, 1}, {-1}}, 3},
};

static const char *spec = "host", *only_family;
static int64_t every = 1, shape_limit = MOET_COUNT_OF(shapes);
static bool only_pairs, once;
static moet_device *device;

typedef enum input_kind { EXACT, RANDOM, INPUT_KINDS } input_kind;

/* A shape in one layout, with inputs on the device and what must come out. */
typedef struct problem_case {
    char label[160];
    moet_problem problem;
    int64_t max_rows;
    int32_t routing_count;
    int32_t *counts[MAX_ROUTINGS];
    int64_t rows[MAX_ROUTINGS];
    test_buffer device_counts[MAX_ROUTINGS];
    test_buffer x[INPUT_KINDS], w[INPUT_KINDS], bias[INPUT_KINDS];
    test_output out;
    uint16_t *want[MAX_ROUTINGS];                  /* EXACT: bits */
    float *low[MAX_ROUTINGS], *high[MAX_ROUTINGS]; /* RANDOM: bounds */
    uint16_t *got, *again;                         /* [max_rows * N] */
} problem_case;

/* EXACT: 1 and 2 of either sign, whose sums fp32 holds and BF16 must round once. RANDOM: normal-like. */
static uint16_t draw(uint64_t *random, input_kind kind)
{
    static const uint16_t exact[] = {0x3f80, 0xbf80, 0x4000, 0xc000};
    return kind == EXACT ? exact[test_random(random) & 3] : moet_bf16_from_float(test_normal(random));
}

static void draw_all(uint16_t *to, int64_t count, uint64_t *random, input_kind kind)
{
    for (int64_t i = 0; i < count; i++) to[i] = draw(random, kind);
}

static void expect(problem_case *c, int32_t r, const uint16_t *x, const uint16_t *w, const uint16_t *bias)
{
    int32_t n = moet_problem_n(&c->problem), k = moet_problem_k(&c->problem);
    c->low[r] = test_allocate((size_t)(c->rows[r] * n) * sizeof(float));
    c->high[r] = test_allocate((size_t)(c->rows[r] * n) * sizeof(float));
    int64_t row = 0;
    for (int32_t e = 0; e < c->problem.experts; e++) {
        for (int32_t i = 0; i < c->counts[r][e]; i++, row++) {
            for (int32_t j = 0; j < n; j++) {
                double magnitude, reference = moet_reference_element(&c->problem, x, w, bias, e, row, j, &magnitude);
                double bound = moet_reference_bound(k, reference, magnitude);
                c->low[r][row * n + j] = (float)(reference - bound);
                c->high[r][row * n + j] = (float)(reference + bound);
            }
        }
    }
}

/* Four problems a shape. */
static void problem_init(int32_t i, moet_problem *problem)
{
    const edge_shape *shape = &shapes[i / 4];
    moet_problem_init(problem, shape->op, shape->experts, shape->hidden, shape->inter);
    problem->layout = (moet_layout)(i & 1);
    problem->bias = i & 2;
}

static void case_create(const edge_shape *shape, const moet_problem *problem, problem_case *c)
{
    static const char *const layouts[] = {"nk", "kn"};
    uint64_t random = 77;
    const bool bias = problem->bias;
    *c = (problem_case){.problem = *problem};
    snprintf(c->label, sizeof c->label, "%s, %s%s", shape->what, layouts[problem->layout], bias ? ", bias" : "");
    int32_t experts = shape->experts, n = moet_problem_n(&c->problem), k = moet_problem_k(&c->problem);
    while (c->routing_count < MAX_ROUTINGS && shape->counts[c->routing_count][0] >= 0) {
        int32_t r = c->routing_count++;
        c->counts[r] = test_allocate((size_t)experts * sizeof(int32_t));
        for (int32_t e = 0; e < experts; e++) {
            c->counts[r][e] = e < 6 ? shape->counts[r][e] : shape->fill && e % 3 ? 7 * e % shape->fill : 0;
            c->rows[r] += c->counts[r][e];
        }
        if (c->rows[r] > c->max_rows) c->max_rows = c->rows[r];
        test_buffer_create(device, &c->device_counts[r], c->counts[r], (size_t)experts * sizeof(int32_t));
    }
    size_t x_count = (size_t)(c->max_rows * k), w_count = (size_t)experts * (size_t)n * (size_t)k;
    size_t bias_count = (size_t)experts * (size_t)n;
    /* With counts on the device, x has max_rows rows from wherever a launch starts in it: the rest is NaN. */
    const size_t x_room = 2 * x_count;
    uint16_t *x = test_allocate(2 * x_room), *w = test_allocate(2 * w_count), *b = test_allocate(2 * bias_count);
    memset(x + x_count, TEST_POISON, 2 * (x_room - x_count));
    for (int32_t kind = 0; kind < INPUT_KINDS; kind++) {
        draw_all(x, (int64_t)x_count, &random, (input_kind)kind);
        draw_all(w, (int64_t)w_count, &random, (input_kind)kind);
        draw_all(b, (int64_t)bias_count, &random, (input_kind)kind);
        for (int32_t r = 0; r < c->routing_count; r++) {
            if (kind == EXACT) {
                c->want[r] = test_allocate((size_t)(c->rows[r] * n) * 2);
                moet_reference_gemm(&c->problem, x, w, bias ? b : NULL, c->counts[r], c->want[r]);
            } else {
                expect(c, r, x, w, bias ? b : NULL);
            }
        }
        /* An expert that never has a row has NaN for weights: nobody may notice. */
        for (int32_t e = 0; e < experts; e++) {
            int64_t rows = 0;
            for (int32_t r = 0; r < c->routing_count; r++) rows += c->counts[r][e];
            if (rows == 0) memset(w + (size_t)e * (size_t)n * (size_t)k, 0xff, 2 * (size_t)n * (size_t)k);
        }
        test_buffer_create(device, &c->x[kind], x, 2 * x_room);
        test_buffer_create(device, &c->w[kind], w, 2 * w_count);
        if (bias) test_buffer_create(device, &c->bias[kind], b, 2 * bias_count);
    }
    size_t out_bytes = 2 * (size_t)c->max_rows * (size_t)n;
    test_output_create(device, &c->out, out_bytes);
    c->got = test_allocate(out_bytes);
    c->again = test_allocate(out_bytes);
    free(x);
    free(w);
    free(b);
}

static void case_destroy(problem_case *c)
{
    for (int32_t r = 0; r < c->routing_count; r++) {
        free(c->counts[r]);
        test_buffer_destroy(device, &c->device_counts[r]);
        free(c->want[r]);
        free(c->low[r]);
        free(c->high[r]);
    }
    for (int32_t kind = 0; kind < INPUT_KINDS; kind++) {
        test_buffer_destroy(device, &c->x[kind]);
        test_buffer_destroy(device, &c->w[kind]);
        test_buffer_destroy(device, &c->bias[kind]);
    }
    test_output_destroy(device, &c->out);
    free(c->got);
    free(c->again);
}

/* ---- one config on one case ---- */

typedef struct subject {
    test_subject run;
    problem_case *c;
} subject;

/* With x from `row` on. */
static void launch(const subject *s, input_kind kind, const int32_t *counts, int64_t rows, int64_t row, uint16_t *bits)
{
    problem_case *c = s->c;
    const uint16_t *x = test_buffer_inside(&c->x[kind]);
    test_subject_launch(&s->run, x + row * moet_problem_k(&c->problem), test_buffer_inside(&c->w[kind]),
                        c->problem.bias ? test_buffer_inside(&c->bias[kind]) : NULL, counts, rows, &c->out, bits);
}

static void wrong(const subject *s, int32_t r, int64_t at, const char *what, double got, double low, double high)
{
    int64_t n = moet_problem_n(&s->c->problem);
    test_fail("%s (%s, routing %d of %lld rows, counts on the %s): %s: out[%lld][%lld] is %g, expected %g to %g",
              s->run.config_text, s->c->label, r, (long long)s->c->rows[r], s->run.on_device ? "device" : "host", what,
              (long long)(at / n), (long long)(at % n), got, low, high);
}

static void check_routing(const subject *s, int32_t r)
{
    problem_case *c = s->c;
    int64_t count = c->rows[r] * moet_problem_n(&c->problem);
    const int32_t *counts = s->run.on_device ? test_buffer_inside(&c->device_counts[r]) : c->counts[r];
    launch(s, EXACT, counts, c->rows[r], 0, c->got);
    for (int64_t i = 0; i < count; i++) {
        double want = (double)moet_bf16_to_float(c->want[r][i]);
        if (c->got[i] != c->want[r][i])
            wrong(s, r, i, "exact inputs", (double)moet_bf16_to_float(c->got[i]), want, want);
    }
    if (once) return;
    launch(s, RANDOM, counts, c->rows[r], 0, c->got);
    for (int64_t i = 0; i < count; i++) {
        float value = moet_bf16_to_float(c->got[i]);
        if (!(value >= c->low[r][i] && value <= c->high[r][i]))
            wrong(s, r, i, "random inputs", (double)value, (double)c->low[r][i], (double)c->high[r][i]);
    }
    launch(s, RANDOM, counts, c->rows[r], 0, c->again);
    if (memcmp(c->got, c->again, (size_t)count * 2) != 0)
        test_fail("%s (%s, routing %d): repeated, it gives other bits", s->run.config_text, c->label, r);
}

/* The first, a middle and the last row of the busiest routing, each alone: the same bits as among the others, which
 * check_routing left in got. */
static void check_invariance(const subject *s)
{
    problem_case *c = s->c;
    int64_t n = moet_problem_n(&c->problem), row = 0;
    int32_t *alone = test_allocate((size_t)c->problem.experts * sizeof *alone);
    void *device_alone = NULL;
    TEST_OK(device->backend->alloc(device, (size_t)c->problem.experts * sizeof *alone, &device_alone));
    for (int32_t e = 0, tried = 0; e < c->problem.experts && tried < 4; row += c->counts[0][e], e++) {
        if (c->counts[0][e] == 0) continue;
        tried++;
        int32_t picks[] = {0, c->counts[0][e] / 2, c->counts[0][e] - 1};
        for (int32_t p = 0; p < MOET_COUNT_OF(picks); p++) {
            memset(alone, 0, (size_t)c->problem.experts * sizeof *alone);
            alone[e] = 1;
            TEST_OK(device->backend->upload(device, device_alone, alone, (size_t)c->problem.experts * sizeof *alone));
            launch(s, RANDOM, s->run.on_device ? device_alone : alone, 1, row + picks[p], c->again);
            if (memcmp(c->again, c->got + (row + picks[p]) * n, (size_t)n * 2) != 0)
                test_fail("%s (%s): says batch-invariant, but row %d of expert %d differs alone", s->run.config_text,
                          c->label, picks[p], e);
        }
    }
    device->backend->free(device, device_alone);
    free(alone);
}

/* false: prepare refused it, for a reason that only the library knows. */
static bool check_config(const moet_config *config, problem_case *c, int64_t nth, test_kernel *kernel, char *why)
{
    moet_traits traits = config->family->traits(&c->problem, config);
    subject s = {.c = c,
                 .run = {.device = device,
                         .config = config,
                         .problem = &c->problem,
                         .label = c->label,
                         .max_rows = c->max_rows,
                         .kernel = kernel}};
    if (!traits.host_counts && !traits.device_counts)
        test_fail("a config of %s takes no counts at all", config->family->name);
    /* First on all SMs, then on few, with the counts here and there in turn; once: one of these four, in turn. */
    for (int32_t turn = 0; turn < 2; turn++) {
        s.run.on_device = (turn ^ nth) & 1;
        if (s.run.on_device ? !traits.device_counts : !traits.host_counts) continue;
        if (once && turn == 1 && traits.host_counts && traits.device_counts) continue;
        s.run.max_sms = (once ? nth & 2 : turn) ? test_few_sms(once ? nth / 4 : nth / 2) : 0;
        if (!test_subject_open(&s.run, why)) return false;
        for (int32_t r = c->routing_count; r-- > 0;) check_routing(&s, r);
        if (traits.batch_invariant && !once) check_invariance(&s);
        test_subject_close(&s.run);
    }
    return true;
}

/* ---- over families ---- */

/* A family may refuse a problem (a bias, say), but then with every config. */
static bool serves(const moet_family *family, const moet_problem *problem)
{
    moet_config config;
    char why[MOET_REASON_SIZE];
    moet_config_first(family, &config);
    do {
        if (family->applicable(problem, &config, &device->info, why)) return true;
    } while (moet_config_next(&config));
    return false;
}

static void check_default(const moet_family *family, const moet_problem *problem)
{
    static const int64_t hints[] = {1, 64, 5000, MOET_MAX_ROWS};
    for (int32_t i = 0; i < MOET_COUNT_OF(hints); i++) {
        moet_config config = {.family = family}, parsed;
        char text[MOET_CONFIG_SIZE], why[MOET_REASON_SIZE] = "";
        family->default_config(problem, hints[i], &device->info, &config);
        moet_config_format(&config, text);
        TEST_OK(moet_config_parse(text, &parsed));
        if (!family->applicable(problem, &config, &device->info, why) && serves(family, problem))
            test_fail("default %s is refused: %s", text, why);
    }
}

static void check_family(const moet_family *family)
{
    int64_t checked = 0, refused_late = 0;
    char late_why[MOET_REASON_SIZE] = "";
    int32_t problem_count = 4 * (shape_limit < MOET_COUNT_OF(shapes) ? (int32_t)shape_limit : MOET_COUNT_OF(shapes));
    moet_problem problems[4 * MOET_COUNT_OF(shapes)] = {0};
    test_configs configs;
    test_kernel kernel = {0};
    for (int32_t i = 0; i < problem_count; i++) problem_init(i, &problems[i]);
    test_configs_create(family, problems, problem_count, &device->info, only_pairs, &configs);
    for (int32_t i = 0, at = 0; i < problem_count; i++) {
        problem_case c;
        case_create(&shapes[i / 4], &problems[i], &c);
        check_default(family, &c.problem);
        /* Another starting point for each case, so that with N > 1 all configs see some shapes. */
        for (int64_t nth = i; at < configs.count && configs.choices[at].problem == i; at++, nth++) {
            if (nth % every != 0) continue;
            if (check_config(&configs.choices[at].config, &c, nth / every, &kernel, late_why))
                checked++;
            else
                refused_late++;
        }
        case_destroy(&c);
    }
    print_message("%s: %lld runs of a config right, %lld refused, %lld refused by the library%s%s\n", family->name,
                  (long long)checked, (long long)configs.refused, (long long)refused_late, late_why[0] ? ": " : "",
                  late_why);
    test_kernel_release(&kernel);
    test_configs_destroy(&configs);
    if (checked == 0 && refused_late > 0) skip(); /* the library is not here; the message says so */
    assert_true(checked > 0);
}

static void test_family(void **state) { check_family(*state); }

/* A default for every case, both kinds of counts, that some family of this device serves. */
static void test_defaults(void **state)
{
    (void)state;
    moet_problem problem;
    for (int32_t s = 0; s < MOET_COUNT_OF(shapes); s++) {
        moet_problem_init(&problem, shapes[s].op, shapes[s].experts, shapes[s].hidden, shapes[s].inter);
        for (int32_t layout = 0; layout < MOET_LAYOUT_COUNT; layout++) {
            for (int32_t on_device = 0; on_device < 2; on_device++) {
                moet_config config;
                char why[MOET_REASON_SIZE];
                problem.layout = (moet_layout)layout;
                TEST_OK(moet_default_config(&problem, 64, on_device, &device->info, &config));
                assert_true(config.family->applicable(&problem, &config, &device->info, why));
                moet_traits traits = config.family->traits(&problem, &config);
                assert_true(on_device ? traits.device_counts : traits.host_counts);
            }
        }
    }
}

int main(int argc, char **argv)
{
    bool lists = false;
    const test_option options[] = {
        {"--device", .text = &spec},
        {"--family", .text = &only_family},
        {"--list", .flag = &lists},
        {"--pairs", .flag = &only_pairs},
        {"--once", .flag = &once},
        {"--every", .number = &every, .variable = "MOET_TEST_EVERY"},
        {"--shapes", .number = &shape_limit},
    };
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    struct CMUnitTest tests[32] = {cmocka_unit_test(test_defaults)};
    int32_t count = 1;
    for (int32_t i = 0; moet_families[i] && count < MOET_COUNT_OF(tests); i++) {
        if (strcmp(moet_families[i]->backend, device->info.backend) != 0) continue;
        if (moet_families[i]->gemm) continue; /* test_ffn's */
        if (only_family && strcmp(moet_families[i]->name, only_family) != 0) continue;
        if (lists) puts(moet_families[i]->name);
        union { /* cmocka's state is not const */
            const moet_family *family;
            void *state;
        } u = {.family = moet_families[i]};
        tests[count++] = (struct CMUnitTest){u.family->name, test_family, NULL, NULL, u.state};
    }
    if (lists) return 0;
    if (count == 1) {
        fprintf(stderr, "no kernel family runs on %s\n", spec);
        return 1;
    }
    int failed = _cmocka_run_group_tests("conformance", tests, (size_t)count, NULL, NULL);
    moet_device_close(device);
    return failed;
}
