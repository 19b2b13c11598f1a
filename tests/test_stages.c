/* The expert path's stages on a device against the C reference: permutation, gather and combine to the bit, on poisoned
 * outputs whose every other byte must stay, with a workspace full of anything, again and again, and as a graph.
 *
 *   test_stages [--device host] [--quick]
 *
 * The activation's expf is the device's: on a GPU an element may be one BF16 step off, one in a thousand at most. An
 * expf that is 2 units of FP32 off moves a result over a rounding border in about 4 of 65536 elements. */
#include "stages_case.h"

static const char *spec = "host";
static bool quick; /* few and small shapes: for tools that make kernels slow */
static moet_device *device;

/* Shorter, for the rows of the tables. */
#define SWIGLU MOET_ACTIVATION_SWIGLU
#define CLAMPED MOET_ACTIVATION_SWIGLU_CLAMP
#define GPT_OSS MOET_ACTIVATION_GPT_OSS
#define PROB_NONE MOET_PROB_NONE
#define PROB_ADVANCE MOET_PROB_ADVANCE
#define PROB_COMBINE MOET_PROB_COMBINE
#define EXACT MOET_COMBINE_EXACT
#define PADDLE MOET_COMBINE_PADDLE

/* Twice, with another content of the workspace. */
static void check_shape(uint64_t *random, const shape *s)
{
    static const uint8_t dirt[] = {0xff, 0x5a};
    char label[256];
    fixture f;
    shape_label(s, label);
    fixture_open(&f, device, s);
    fixture_fill(&f, random);
    for (int32_t i = 0; i < MOET_COUNT_OF(dirt); i++) {
        fixture_expect(&f);
        fixture_upload(&f, dirt[i]);
        fixture_enqueue(&f);
        fixture_check(&f, label);
    }
    fixture_close(&f);
}

/* ---- the tests ---- */

static void test_edges(void **state)
{
    (void)state;
    uint64_t random = 11;
    static const shape shapes[] = {
        {1, 1, 1, 1, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 0, 0, 0},
        {1, 1, 5, 0, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 0, 0, 0},
        {4, 2, 5, 0, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 0, 0, ON_DEVICE},
        {4, 2, 5, 5, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 100, 0, 0}, /* none is local */
        {1, 16, 40, 33, 0, 16, 24, GPT_OSS, PROB_ADVANCE, EXACT, 30, 10, ON_DEVICE},
        {1024, 16, 60, 60, 0, 16, 8, SWIGLU, PROB_COMBINE, EXACT, 20, 20, 0},
        {1024, 16, 700, 650, 0, 8, 8, CLAMPED, PROB_COMBINE, PADDLE, 20, 20, INT64 | ON_DEVICE | STRIDED},
        {1024, 1, 3000, 3000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 5, 5, 0},
        {1023, 3, 1500, 1500, 700, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 5, 5, 0},
        {256, 8, 1024, 1024, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 80, 2, 0},
        {32, 8, 1024, 1024, 0, 40, 16, SWIGLU, PROB_COMBINE, EXACT, 50, 2, 0},
        {32, 8, 1025, 1025, 0, 40, 16, SWIGLU, PROB_COMBINE, EXACT, 50, 2, 0},
        {32, 8, 9000, 1, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 50, 2, ON_DEVICE},
        {32, 8, 9000, 0, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 50, 2, ON_DEVICE},
        {33, 5, 5000, 4999, 1, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 40, 5, ON_DEVICE},
        {17, 16, 4000, 4000, 12345, 8, 8, SWIGLU, PROB_ADVANCE, EXACT, 30, 5, INT64 | NO_PLACES},
        {3, 2, 64, 64, 0, 7168, 2048, SWIGLU, PROB_COMBINE, EXACT, 30, 0, 0},
        {3, 2, 64, 64, 0, 1032, 520, GPT_OSS, PROB_NONE, PADDLE, 30, 0, NO_WEIGHTS | STRIDED},
        {3, 2, 64, 64, 50, 1032, 520, GPT_OSS, PROB_NONE, PADDLE, 30, 0, STRIDED | DIRECT},
        {32, 8, 3000, 2999, 0, 40, 8, SWIGLU, PROB_ADVANCE, EXACT, 85, 2, INT64 | ON_DEVICE | DIRECT},
        {1, 1, 5, 0, 0, 8, 8, SWIGLU, PROB_NONE, EXACT, 0, 0, DIRECT},
        /* Few tokens, of more tiles than SMs. */
        {32, 8, 1024, 1024, 0, 40, 16, SWIGLU, PROB_COMBINE, EXACT, 50, 2, FEW_SMS},
        {32, 8, 1024, 900, 0, 40, 16, SWIGLU, PROB_NONE, EXACT, 50, 2, ONE_SM | ON_DEVICE | DIRECT},
        {20, 16, 512, 512, 700, 8, 8, GPT_OSS, PROB_ADVANCE, EXACT, 30, 5, FEW_SMS | INT64},
        {3, 1, 1024, 1024, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 10, 1, FEW_SMS | STRIDED},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) check_shape(&random, &shapes[i]);
}

static void test_random_shapes(void **state)
{
    (void)state;
    uint64_t random = 12;
    for (int32_t i = 0; i < (quick ? 12 : 120); i++) {
        static const int32_t experts[] = {1, 2, 8, 31, 32, 33, 64, 100, 300};
        static const int64_t bounds[] = {1, 2, 31, 32, 33, 127, 128, 129, 300, 1000, 2500};
        shape s = {.experts = experts[test_between(&random, 0, MOET_COUNT_OF(experts) - 1)],
                   .choices = (int32_t)test_between(&random, 1, 16),
                   .bound = bounds[test_between(&random, 0, MOET_COUNT_OF(bounds) - 1)],
                   .hidden = 8 * (int32_t)test_between(&random, 1, 40),
                   .inter = 8 * (int32_t)test_between(&random, 1, 40),
                   .activation = (moet_activation)test_between(&random, 1, 3),
                   .prob = (moet_prob)test_between(&random, 0, 2),
                   .combine = (moet_combine)test_between(&random, 0, 1),
                   .none = (int32_t)test_between(&random, 0, 9) * 10,
                   .bad = (int32_t)test_between(&random, 0, 1) * 5,
                   .flags =
                       (uint32_t)test_random(&random) & (INT64 | ON_DEVICE | NO_ROWMAP | STRIDED | FEW_SMS | ONE_SM)};
        s.tokens = s.flags & ON_DEVICE ? test_between(&random, 0, s.bound) : s.bound;
        if (!(s.flags & NO_ROWMAP) && test_between(&random, 0, 2) == 0) s.flags |= NO_PLACES;
        if (s.prob == MOET_PROB_NONE && test_between(&random, 0, 1)) s.flags |= NO_WEIGHTS;
        if (!(s.flags & NO_PLACES) && test_between(&random, 0, 1)) s.flags |= DIRECT;
        if (test_between(&random, 0, 2) == 0) s.max_rows = test_between(&random, 1, s.bound);
        check_shape(&random, &s);
    }
}

/* As many tokens as there may be: several tiles a block. */
static void test_many_tokens(void **state)
{
    (void)state;
    uint64_t random = 13;
    static const shape shapes[] = {
        {32, 8, 40000, 40000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 70, 1, INT64},
        {3, 1, MOET_MAX_ROWS, MOET_MAX_ROWS, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 10, 1, NO_ROWMAP},
        {3, 2, MOET_MAX_ROWS / 2, MOET_MAX_ROWS / 2, 0, 8, 8, SWIGLU, PROB_ADVANCE, EXACT, 40, 1, NO_ROWMAP | DIRECT},
    };
    if (quick) skip();
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) check_shape(&random, &shapes[i]);
}

/* A graph reads tokens and ids when it is replayed. */
static void test_graph(void **state)
{
    (void)state;
    const moet_backend *b = device->backend;
    static const int64_t bounds[] = {500, 6000}; /* one launch, two launches */
    if (!b->capture_begin) skip();
    for (int32_t i = 0; i < MOET_COUNT_OF(bounds); i++) {
        uint64_t random = 14;
        void *graph = NULL;
        fixture f;
        shape s = {.experts = 24,
                   .choices = 6,
                   .bound = bounds[i],
                   .tokens = bounds[i],
                   .max_rows = bounds[i] * 3,
                   .hidden = 264,
                   .inter = 72,
                   .activation = MOET_ACTIVATION_SWIGLU,
                   .prob = MOET_PROB_COMBINE,
                   .none = 50,
                   .bad = 2,
                   .flags = ON_DEVICE};
        fixture_open(&f, device, &s);
        TEST_OK(b->capture_begin(device, f.stream));
        fixture_enqueue(&f);
        TEST_OK(b->capture_end(device, f.stream, &graph));
        for (int32_t round = 0; round < 6; round++) {
            static const int64_t parts[] = {100, 0, 50, 1, 100, 99}; /* of the bound, in percent */
            char label[256];
            f.shape.tokens = s.bound * parts[round] / 100;
            fixture_fill(&f, &random);
            fixture_expect(&f);
            fixture_upload(&f, (uint8_t)(round * 77));
            /* The second replay follows at once: what the first left must not matter. */
            for (int32_t replay = 0; replay < 2; replay++) TEST_OK(b->graph_launch(device, graph, f.stream));
            shape_label(&f.shape, label);
            fixture_check(&f, label);
        }
        b->graph_destroy(device, graph);
        fixture_close(&f);
    }
}

/* permute with all outputs but one NULL. */
static void test_one_output(void **state)
{
    (void)state;
    for (int32_t i = COUNTS; i <= PROB; i++) {
        uint64_t random = 16;
        fixture f;
        const shape s = {20, 6, 5000, 5000, 0, 8, 8, SWIGLU, PROB_COMBINE, EXACT, 30, 5, 0};
        fixture_open(&f, device, &s);
        fixture_fill(&f, &random);
        fixture_expect(&f);
        fixture_upload(&f, 0xff);
        const moet_permuted all = f.permuted;
        const moet_permuted one = {.counts = i == COUNTS ? all.counts : NULL,
                                   .places = i == PLACES ? all.places : NULL,
                                   .rowmap = i == ROWMAP ? all.rowmap : NULL,
                                   .source = i == SOURCE ? all.source : NULL,
                                   .prob = i == PROB ? all.prob : NULL};
        TEST_OK(moet_stages_permute(f.stages, &f.args, &one, f.max_rows, NULL, test_buffer_inside(&f.input[WORKSPACE]),
                                    f.stream));
        for (int32_t j = 0; j < OUTPUT_COUNT; j++) {
            if (j != i) memset(f.expected[j], TEST_POISON, f.output_bytes[j]);
        }
        f.rows = 0; /* of the activation, which was not asked for */
        fixture_check(&f, fixture_output_names[i]);
        fixture_close(&f);
    }
}

/* NaN and infinities go through activation and combine as in the reference. */
static void test_no_numbers(void **state)
{
    (void)state;
    static const uint16_t odd[] = {0x7fc0, 0xffc1, 0x7f80, 0xff80, 0x0001, 0x8001, 0x7f7f, 0xff7f, 0x8000, 0x3f80};
    const moet_backend *b = device->backend;
    for (int32_t a = MOET_ACTIVATION_SWIGLU; a < MOET_ACTIVATION_COUNT; a++) {
        uint64_t random = 15;
        fixture f;
        shape s = {2, 1, 100, 100, 0, 8, 8, (moet_activation)a, PROB_COMBINE, EXACT, 0, 0, 0};
        fixture_open(&f, device, &s);
        fixture_fill(&f, &random);
        for (int32_t i = 0; i < 100; i++) { /* every pair */
            for (int32_t j = 0; j < 8; j++) {
                uint16_t *row = (uint16_t *)f.content[UP] + 16 * i;
                row[j] = odd[i % 10];
                row[8 + j] = odd[i / 10];
                ((uint16_t *)f.content[ROWS])[8 * i + j] = odd[i % 10];
            }
        }
        fixture_expect(&f);
        fixture_upload(&f, 0);
        fixture_enqueue(&f);
        TEST_OK(b->stream_synchronize(device, f.stream));
        static const enum output outputs[] = {ACT, OUT};
        for (int32_t i = 0; i < MOET_COUNT_OF(outputs); i++) {
            const test_output *out = &f.output[outputs[i]];
            const uint16_t *want = (const uint16_t *)f.expected[outputs[i]];
            const int64_t count = outputs[i] == ACT ? f.rows * 8 : 100 * 8;
            TEST_OK(b->download(device, out->raw, test_buffer_inside(&out->buffer), out->buffer.size_bytes));
            const uint16_t *found = (const uint16_t *)out->raw;
            for (int64_t j = 0; j < count; j++) {
                if (!is_near(want[j], found[j]))
                    test_fail("activation %d, %s: element %lld is %04x, %04x expected", a,
                              fixture_output_names[outputs[i]], (long long)j, found[j], want[j]);
            }
        }
        fixture_close(&f);
    }
}

/* The launch of permute on a GPU that need not be there: no more blocks than SMs, and room for their counts. */
static void test_permute_grid(void **state)
{
    (void)state;
    static const moet_device_info h100 = {.backend = "cuda", .cc_major = 9, .sm_count = 132};
    static const int32_t experts[] = {1, 8, 32, 100, 300, 1024}, max_sms[] = {0, 1, 2, 3, 5, 7, 8, 100, 132, 1000};
    static const int64_t tokens[] = {0, 1, 31, 32, 129, 300, 512, 700, 1024, 1025, 5000, 32768, MOET_MAX_ROWS};
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_FFN, 32, 64, 64);
    if (moet_stages_permute_grid(&problem, 8, 1, 0, &h100).blocks == 0) skip(); /* a build without CUDA */
    for (int32_t i = 0; i < MOET_COUNT_OF(max_sms) * MOET_COUNT_OF(experts) * MOET_MAX_CHOICES; i++) {
        const int32_t sms = max_sms[i % MOET_COUNT_OF(max_sms)],
                      choices = 1 + i / MOET_COUNT_OF(max_sms) % MOET_MAX_CHOICES;
        const int32_t most = sms > 0 && sms < h100.sm_count ? sms : h100.sm_count;
        problem.experts = experts[i / MOET_COUNT_OF(max_sms) / MOET_MAX_CHOICES];
        size_t counts_bytes = 0; /* of what a plan for so many tokens may launch */
        for (int32_t t = 0; t < MOET_COUNT_OF(tokens); t++) {
            const moet_stages_grid grid = moet_stages_permute_grid(&problem, choices, tokens[t], sms, &h100);
            const size_t room = moet_stages_workspace_bytes(&problem, choices, tokens[t], sms, &h100);
            const size_t bytes = grid.is_many ? (size_t)(grid.blocks * problem.experts) * 4 : 0;
            if (bytes > counts_bytes) counts_bytes = bytes;
            if (grid.blocks < 1 || grid.blocks > most || room < counts_bytes)
                test_fail("E %d k %d R %lld: %lld blocks on %d SMs, %zu bytes where %zu are needed",
                          problem.experts, choices, (long long)tokens[t], (long long)grid.blocks, most, room,
                          counts_bytes);
        }
    }
    /* Blocks need not wait for each other where SMs are there for all. */
    static const int32_t blocks[] = {8, 1, 2, 3, 4, 4, 4, 4, 8, 8}; /* of 8 tiles */
    problem.experts = 32;
    for (int32_t sms = 0; sms < MOET_COUNT_OF(blocks); sms++) {
        const moet_stages_grid grid = moet_stages_permute_grid(&problem, 8, 1024, sms, &h100);
        assert_int_equal(grid.is_many, sms != 0 && sms < 8);
        assert_int_equal(grid.blocks, blocks[sms]);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    moet_stages *stages = NULL;
    moet_problem problem = {.op = MOET_OP_FFN, .experts = 2, .hidden = 8, .inter = 8};
    problem.activation = MOET_ACTIVATION_SWIGLU;
    TEST_FAILS(MOET_INVALID, "choices is 17", moet_stages_create(device, &problem, 17, 1, 0, NULL, &stages));
    TEST_FAILS(MOET_INVALID, "max_tokens is 0", moet_stages_create(device, &problem, 1, 0, 0, NULL, &stages));
    problem.inter = 12;
    TEST_FAILS(MOET_INVALID, "inter 12", moet_stages_create(device, &problem, 1, 1, 0, NULL, &stages));
    problem.inter = 8;
    problem.activation = MOET_ACTIVATION_NONE;
    TEST_FAILS(MOET_INVALID, "activation is 0", moet_stages_create(device, &problem, 1, 1, 0, NULL, &stages));
    problem.activation = MOET_ACTIVATION_SWIGLU;
    problem.op = MOET_OP_UP;
    TEST_FAILS(MOET_INVALID, "op is 0", moet_stages_create(device, &problem, 1, 1, 0, NULL, &stages));
    problem.op = MOET_OP_FFN;
    assert_null(stages);
    TEST_OK(moet_stages_create(device, &problem, 1, 4, 0, NULL, &stages));
    moet_ffn_args args = {.tokens = 5};
    moet_permuted permuted = {0};
    TEST_FAILS(MOET_INVALID, "tokens is 5, must be 0 to 4",
               moet_stages_permute(stages, &args, &permuted, 4, NULL, NULL, NULL));
    TEST_FAILS(MOET_INVALID, "tokens is 5", moet_stages_combine(stages, &args, NULL, &permuted, NULL));
    args.tokens = 0;
    TEST_OK(moet_stages_combine(stages, &args, NULL, &permuted, NULL));
    TEST_OK(moet_stages_gather(stages, &args, &permuted, 0, NULL));
    TEST_OK(moet_stages_activate(stages, NULL, &permuted, 0, NULL, NULL));
    const moet_cubin *cubin = moet_stages_cubin(stages);
    assert_int_equal(cubin == NULL, strcmp(device->backend->name, "host") == 0);
    moet_stages *again = NULL; /* from a table's kernels */
    TEST_OK(moet_stages_create(device, &problem, 1, 4, 0, cubin, &again));
    moet_stages_destroy(again);
    moet_stages_destroy(stages);
    moet_stages_destroy(NULL);
}

static int group_open(void **state)
{
    (void)state;
    return moet_device_open(spec, &device) != MOET_OK;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(device);
    return 0;
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--device", .text = &spec}, {.name = "--quick", .flag = &quick}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_graph),        cmocka_unit_test(test_one_output),    cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_permute_grid), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("stages", tests, group_open, group_close);
}
