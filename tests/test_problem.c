/* Problem keys: parse(format(p)) == p, every kind of malformed key, bounds, shapes, work. */
#include "test.h"

#include <locale.h>
#include <math.h>

static void assert_same(const moet_problem *a, const moet_problem *b)
{
    assert_int_equal(a->op, b->op);
    assert_int_equal(a->experts, b->experts);
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->inter, b->inter);
    assert_int_equal(a->x_dtype, b->x_dtype);
    assert_int_equal(a->w_dtype, b->w_dtype);
    assert_int_equal(a->out_dtype, b->out_dtype);
    assert_int_equal(a->scales, b->scales);
    assert_int_equal(a->layout, b->layout);
    assert_int_equal(a->activation, b->activation);
    assert_int_equal(a->bias, b->bias);
    assert_int_equal(a->prob, b->prob);
    assert_int_equal(a->numerics, b->numerics);
    assert_int_equal(a->down_bias, b->down_bias);
    assert_int_equal(a->combine, b->combine);
    assert_true(a->clamp == b->clamp);
}

static void test_round_trip(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int32_t i = 0; i < 20000; i++) {
        moet_problem problem, parsed;
        char text[MOET_KEY_SIZE], again[MOET_KEY_SIZE];
        test_random_problem(&random, &problem);
        TEST_OK(moet_problem_validate(&problem));
        memset(&parsed, 0xa5, sizeof parsed);
        moet_problem_format(&problem, text);
        TEST_OK(moet_problem_parse(text, &parsed));
        assert_same(&problem, &parsed);
        moet_problem_format(&parsed, again);
        assert_string_equal(text, again);
    }
}

static void test_longest_key_fits(void **state)
{
    (void)state;
    moet_problem problem, parsed;
    char text[MOET_KEY_SIZE];
    moet_problem_init(&problem, MOET_OP_DOWN, MOET_MAX_EXPERTS, MOET_MAX_DIM, MOET_MAX_DIM);
    problem.bias = true;
    moet_problem_format(&problem, text);
    assert_true(strlen(text) + 20 < MOET_KEY_SIZE);
    TEST_OK(moet_problem_parse(text, &parsed));
    assert_same(&problem, &parsed);

    moet_problem_init(&problem, MOET_OP_FFN, MOET_MAX_EXPERTS, MOET_MAX_DIM, MOET_MAX_DIM);
    problem.bias = problem.down_bias = true;
    problem.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
    problem.combine = MOET_COMBINE_PADDLE;
    problem.clamp = 1.2345678901234567e-37;
    moet_problem_format(&problem, text);
    assert_true(strlen(text) + 20 < MOET_KEY_SIZE);
    TEST_OK(moet_problem_parse(text, &parsed));
    assert_same(&problem, &parsed);
}

/* Stores and tables hold these texts. */
static void test_texts(void **state)
{
    (void)state;
    moet_problem problem;
    char text[MOET_KEY_SIZE];
    moet_problem_init(&problem, MOET_OP_UP, 8, 7168, 2048);
    moet_problem_format(&problem, text);
    assert_string_equal(text, "op=up,experts=8,hidden=7168,inter=2048,x=bf16,w=bf16,out=bf16,scales=none,layout=nk,"
                              "activation=none,bias=0,prob=none,numerics=train");
    moet_problem_init(&problem, MOET_OP_FFN, 8, 7168, 2048);
    moet_problem_format(&problem, text);
    assert_string_equal(text, "op=ffn,experts=8,hidden=7168,inter=2048,x=bf16,w=bf16,out=bf16,scales=none,layout=nk,"
                              "activation=swiglu,bias=0,prob=combine,numerics=train,down_bias=0,combine=exact,clamp=0");
    problem.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
    problem.clamp = 0.1;
    moet_problem_format(&problem, text);
    TEST_CONTAINS(text, ",clamp=0.1");
    setlocale(LC_ALL, "de_DE.UTF-8"); /* whose decimal point is a comma, where it is installed */
    moet_problem parsed;
    moet_problem_format(&problem, text);
    TEST_CONTAINS(text, ",clamp=0.1");
    TEST_OK(moet_problem_parse(text, &parsed));
    assert_same(&problem, &parsed);
    setlocale(LC_ALL, "C");
}

static const char good[] = "op=up,experts=8,hidden=7168,inter=2048,x=bf16,w=bf16,out=bf16,scales=none,layout=nk,"
                           "activation=none,bias=0,prob=none,numerics=train";

/* A key text that must fail, leaving the output alone. */
static void refuse(const char *text, const char *words)
{
    moet_problem problem, before;
    memset(&problem, 0x5a, sizeof problem);
    memcpy(&before, &problem, sizeof problem);
    moet_status status = moet_problem_parse(text, &problem);
    if (status != MOET_MALFORMED && status != MOET_INVALID && status != MOET_UNSUPPORTED)
        test_fail("'%s' was taken (%s)", text, moet_status_name(status));
    if (words) TEST_CONTAINS(moet_last_error(), words);
    assert_memory_equal(&problem, &before, sizeof problem);
}

static void test_prefixes(void **state)
{
    (void)state;
    moet_problem problem;
    TEST_OK(moet_problem_parse(good, &problem));
    char text[sizeof good + 8];
    for (size_t length = 0; length < sizeof good - 1; length++) {
        memcpy(text, good, length);
        text[length] = '\0';
        refuse(text, NULL);
    }
    for (const char *tail = ", =0x"; *tail; tail++) {
        snprintf(text, sizeof text, "%s%c", good, *tail);
        refuse(text, "numerics");
    }
}

/* Replaces `from` in the good key. */
static void refuse_with(const char *from, const char *to, const char *words)
{
    char text[600];
    const char *at = strstr(good, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    refuse(text, words);
}

static void test_malformed(void **state)
{
    (void)state;
    moet_problem problem;
    TEST_FAILS(MOET_UNSUPPORTED, "op is 'sideways', known to this version are up, down, ffn",
               moet_problem_parse("op=sideways", &problem));
    refuse_with("op=up", "op=sideways", "op is 'sideways'");
    refuse_with("op=up", "op=ffn", "a ',' is missing");
    refuse_with("numerics=train", "numerics=train,down_bias=0", "more text than expected");
    refuse_with("activation=none", "activation=swiglu", "activation none");
    refuse_with("prob=none", "prob=combine", "prob none");
    refuse_with("op=up", "op=", "no value for 'op'");
    refuse_with("op=up,", "", "'op=' expected");
    refuse_with("experts=8", "experts=0", "experts");
    refuse_with("experts=8", "experts=-8", "experts");
    refuse_with("experts=8", "experts=+8", "experts");
    refuse_with("experts=8", "experts=08", "experts");
    refuse_with("experts=8", "experts= 8", "experts");
    refuse_with("experts=8", "experts=8.0", "experts");
    refuse_with("experts=8", "experts=0x8", "experts");
    refuse_with("experts=8", "experts=1025", "experts is 1025");
    refuse_with("experts=8", "experts=99999999999999999999", "experts");
    refuse_with("experts=8", "experts=8888888888888888888888888888888888", "experts");
    refuse_with("experts=8,", "experts=8,experts=8,", "'hidden=' expected");
    refuse_with("experts=8,hidden=7168", "hidden=7168,experts=8", "'experts=' expected");
    refuse_with("hidden=7168", "hidden=7169", "multiples of 8");
    refuse_with("hidden=7168", "hidden=1048584", "hidden");
    refuse_with("inter=2048", "inter=2046", "multiples of 8");
    refuse_with("x=bf16", "x=fp8", "x is 'fp8'");
    refuse_with("w=bf16", "w=BF16", "w is 'BF16'");
    refuse_with("scales=none", "scales=mx", "scales is 'mx'");
    refuse_with("layout=nk", "layout=mk", "layout is 'mk'");
    refuse_with("bias=0", "bias=2", "bias is '2'");
    refuse_with("bias=0", "bias=false", "bias is 'false'");
    refuse_with("numerics=train", "numerics=exact", "numerics is 'exact'");
    refuse_with(",numerics=train", "", "a ',' is missing");
}

static const char good_path[] = "op=ffn,experts=8,hidden=64,inter=64,x=bf16,w=bf16,out=bf16,scales=none,layout=nk,"
                                "activation=swiglu_clamp,bias=0,prob=combine,numerics=train,";

static void test_malformed_paths(void **state)
{
    (void)state;
    static const struct {
        const char *tail, *words;
    } cases[] = {
        {"", "'down_bias='"},
        {"down_bias=0,combine=exact", "a ',' is missing"},
        {"down_bias=0,combine=best,clamp=1", "combine is 'best'"},
        {"down_bias=2,combine=exact,clamp=1", "down_bias is '2'"},
        {"down_bias=0,combine=exact,clamp=", "no value"},
        {"down_bias=0,combine=exact,clamp=1.0", "clamp is '1.0'"},
        {"down_bias=0,combine=exact,clamp=+1", "clamp is '+1'"},
        {"down_bias=0,combine=exact,clamp=-1", "clamp is '-1'"},
        {"down_bias=0,combine=exact,clamp=0x1", "clamp is '0x1'"},
        {"down_bias=0,combine=exact,clamp=1e400", "clamp is '1e400'"},
        {"down_bias=0,combine=exact,clamp=inf", "clamp is 'inf'"},
        {"down_bias=0,combine=exact,clamp=nan", "clamp is 'nan'"},
        {"down_bias=0,combine=exact,clamp=0", "clamp is 0"},
        {"down_bias=0,combine=exact,clamp=1e+60", "clamp is 1e+60"},
        {"down_bias=0,combine=exact,clamp=1,", "more text"},
        {"down_bias=0,combine=exact,clamp=1.2345678901234567890123456789012345", "no value"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        char text[MOET_KEY_SIZE];
        snprintf(text, sizeof text, "%s%s", good_path, cases[i].tail);
        refuse(text, cases[i].words);
    }
}

/* What goes with what. */
static void test_path_fields(void **state)
{
    (void)state;
    moet_problem problem;
#define REFUSE_PATH(op, change, words)                                                                                 \
    do {                                                                                                               \
        moet_problem_init(&problem, op, 8, 64, 64);                                                                    \
        TEST_OK(moet_problem_validate(&problem));                                                                      \
        change;                                                                                                        \
        TEST_FAILS(MOET_INVALID, words, moet_problem_validate(&problem));                                              \
    } while (0)
    for (int32_t op = MOET_OP_UP; op <= MOET_OP_DOWN; op++) {
        REFUSE_PATH((moet_op)op, problem.activation = MOET_ACTIVATION_SWIGLU, "activation none");
        REFUSE_PATH((moet_op)op, problem.prob = MOET_PROB_ADVANCE, "prob none");
        REFUSE_PATH((moet_op)op, problem.combine = MOET_COMBINE_PADDLE, "combine exact");
        REFUSE_PATH((moet_op)op, problem.down_bias = true, "down_bias");
        REFUSE_PATH((moet_op)op, problem.clamp = 1, "clamp");
        REFUSE_PATH((moet_op)op, problem.clamp = (double)NAN, "clamp");
    }
    REFUSE_PATH(MOET_OP_FFN, problem.activation = MOET_ACTIVATION_NONE, "needs an activation");
    REFUSE_PATH(MOET_OP_FFN, problem.activation = MOET_ACTIVATION_SWIGLU_CLAMP, "clamp is 0");
    REFUSE_PATH(MOET_OP_FFN, problem.clamp = 7, "must be 0 with activation swiglu");
    REFUSE_PATH(MOET_OP_FFN, problem.clamp = (double)NAN, "must be 0");
    REFUSE_PATH(MOET_OP_FFN, (problem.combine = MOET_COMBINE_PADDLE, problem.prob = MOET_PROB_NONE), "paddle");
    REFUSE_PATH(MOET_OP_FFN, (problem.combine = MOET_COMBINE_PADDLE, problem.prob = MOET_PROB_ADVANCE), "paddle");
    REFUSE_PATH(MOET_OP_FFN, problem.hidden = 12, "multiples of 8");
    REFUSE_PATH(MOET_OP_FFN, problem.inter = 12, "multiples of 8"); /* which UP alone would take */
    problem.inter = 64;
    problem.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
    static const double clamps[] = {-1, 1e-60, 1e60, (double)INFINITY, -(double)INFINITY, (double)NAN};
    for (int32_t i = 0; i < MOET_COUNT_OF(clamps); i++) {
        problem.clamp = clamps[i];
        TEST_FAILS(MOET_INVALID, "clamp is", moet_problem_validate(&problem));
    }
    problem.clamp = 7;
    problem.combine = MOET_COMBINE_PADDLE;
    TEST_OK(moet_problem_validate(&problem));
}

/* One character changed: refused, or the canonical text of another problem. */
static void test_one_character_changed(void **state)
{
    (void)state;
    static const char characters[] = "0189,=abkntu -+\n\xff";
    char text[sizeof good], again[MOET_KEY_SIZE];
    moet_problem problem;
    for (size_t at = 0; at < sizeof good - 1; at++) {
        for (size_t c = 0; c < sizeof characters - 1; c++) {
            memcpy(text, good, sizeof good);
            text[at] = characters[c];
            if (moet_problem_parse(text, &problem) != MOET_OK) continue;
            moet_problem_format(&problem, again);
            assert_string_equal(text, again);
        }
    }
}

static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        moet_op op;
        int32_t experts, hidden, inter;
        const char *words; /* NULL: fine */
    } cases[] = {
        {MOET_OP_UP, 1, 8, 4, NULL},
        {MOET_OP_UP, MOET_MAX_EXPERTS, MOET_MAX_DIM, MOET_MAX_DIM, NULL},
        {MOET_OP_DOWN, 1, 8, 8, NULL},
        {MOET_OP_DOWN, 1, 2880, 2880, NULL},
        {MOET_OP_UP, 0, 8, 8, "experts is 0"},
        {MOET_OP_UP, -1, 8, 8, "experts is -1"},
        {MOET_OP_UP, MOET_MAX_EXPERTS + 1, 8, 8, "must be 1 to 1024"},
        {MOET_OP_UP, 1, 0, 8, "hidden is 0"},
        {MOET_OP_UP, 1, -8, 8, "hidden is -8"},
        {MOET_OP_UP, 1, MOET_MAX_DIM + 8, 8, "hidden"},
        {MOET_OP_UP, 1, 8, 0, "inter is 0"},
        {MOET_OP_UP, 1, 8, INT32_MIN, "inter"},
        {MOET_OP_UP, 1, 8, MOET_MAX_DIM + 8, "inter"},
        {MOET_OP_UP, 1, 12, 8, "multiples of 8"},
        {MOET_OP_UP, 1, 8, 6, "multiples of 8"},
        {MOET_OP_DOWN, 1, 8, 4, "multiples of 8"},
        {MOET_OP_DOWN, 1, 4, 8, "multiples of 8"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_problem problem;
        moet_problem_init(&problem, cases[i].op, cases[i].experts, cases[i].hidden, cases[i].inter);
        if (cases[i].words)
            TEST_FAILS(MOET_INVALID, cases[i].words, moet_problem_validate(&problem));
        else
            TEST_OK(moet_problem_validate(&problem));
    }
}

static void test_enums_out_of_range(void **state)
{
    (void)state;
    moet_problem problem;
#define REFUSE_FIELD(field, value, words)                                                                              \
    do {                                                                                                               \
        int32_t raw = (value);                                                                                         \
        moet_problem_init(&problem, MOET_OP_UP, 8, 64, 64);                                                            \
        memcpy(&problem.field, &raw, sizeof raw);                                                                      \
        TEST_FAILS(MOET_INVALID, words, moet_problem_validate(&problem));                                              \
    } while (0)
    REFUSE_FIELD(op, MOET_OP_COUNT, "op is");
    REFUSE_FIELD(op, -1, "op is");
    REFUSE_FIELD(x_dtype, MOET_DTYPE_COUNT, "x is");
    REFUSE_FIELD(w_dtype, -7, "w is");
    REFUSE_FIELD(out_dtype, 99, "out is");
    REFUSE_FIELD(scales, MOET_SCALES_COUNT, "scales is");
    REFUSE_FIELD(layout, MOET_LAYOUT_COUNT, "layout is");
    REFUSE_FIELD(activation, MOET_ACTIVATION_COUNT, "activation is");
    REFUSE_FIELD(prob, MOET_PROB_COUNT, "prob is");
    REFUSE_FIELD(combine, MOET_COMBINE_COUNT, "combine is");
    REFUSE_FIELD(numerics, MOET_NUMERICS_COUNT, "numerics is");
}

static void test_shape_and_work(void **state)
{
    (void)state;
    moet_problem up, down;
    moet_problem_init(&up, MOET_OP_UP, 4, 64, 24);
    moet_problem_init(&down, MOET_OP_DOWN, 4, 64, 24);
    assert_int_equal(moet_problem_n(&up), 48);
    assert_int_equal(moet_problem_k(&up), 64);
    assert_int_equal(moet_problem_n(&down), 64);
    assert_int_equal(moet_problem_k(&down), 24);
    const int32_t counts[] = {3, 0, 5, 0};
    moet_routing routing;
    TEST_OK(moet_routing_summarize(counts, 4, &routing));
    assert_true(moet_problem_flops(&up, &routing) == 2.0 * 8 * 48 * 64);
    /* Two active experts' weights, eight rows in and out, two bytes each. */
    assert_true(moet_problem_bytes(&up, &routing) == 2.0 * (2 * 48 * 64 + 8 * (48 + 64)));
    up.bias = true;
    assert_true(moet_problem_bytes(&up, &routing) == 2.0 * (2 * (48 * 64 + 48) + 8 * (48 + 64)));

    moet_problem path;
    moet_problem_init(&path, MOET_OP_FFN, 4, 64, 24);
    assert_int_equal(moet_problem_n(&path), 64);
    assert_int_equal(moet_problem_k(&path), 64);
    assert_int_equal(routing.tokens, 8); /* a token is one row where nobody says otherwise */
    routing.tokens = 5;
    assert_true(moet_problem_flops(&path, &routing) == 6.0 * 8 * 64 * 24);
    assert_true(moet_problem_bytes(&path, &routing) == 2.0 * (2 * 3 * 64 * 24 + 2 * 5 * 64));
    path.bias = path.down_bias = true;
    assert_true(moet_problem_bytes(&path, &routing) == 2.0 * (2 * (3 * 64 * 24 + 48 + 64) + 2 * 5 * 64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_longest_key_fits),
        cmocka_unit_test(test_prefixes),       cmocka_unit_test(test_texts),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_malformed_paths),
        cmocka_unit_test(test_path_fields),    cmocka_unit_test(test_one_character_changed),
        cmocka_unit_test(test_bounds),         cmocka_unit_test(test_enums_out_of_range),
        cmocka_unit_test(test_shape_and_work),
    };
    return cmocka_run_group_tests_name("problem", tests, NULL, NULL);
}
