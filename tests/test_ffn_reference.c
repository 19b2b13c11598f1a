/* The expert path's C reference by hand: a number for each semantic, the order of the roundings, the refusals. */
#include "ffn_path.h"

#include <math.h>

/* ---- by hand: silu(32) is 32 in FP32, as 1 + exp(-32) is 1 ---- */

/* Expert e makes of x = (1, v) gate 32 and up (e + 1) v, and of that activation a the row (a, 2a). */
static void hand_weights(ffn_path *p)
{
    for (int32_t e = 0; e < p->problem.experts; e++) {
        p->up[4 * e] = bf16(32);
        p->up[4 * e + 3] = bf16((float)(e + 1));
        p->down[2 * e] = bf16(1);
        p->down[2 * e + 1] = bf16(2);
    }
}

/* Token 0 has experts 2 and 0, token 1 none, token 2 expert 0; expert 1 is empty. */
static void hand_make(ffn_path *p)
{
    static const int32_t ids[] = {2, -1, 0, -1, -1, -1, -1, 0, -1};
    static const float weights[] = {0.5f, 99, 0.25f, 99, 99, 99, 99, 0.5f, 99};
    ffn_path_make(p, 3, 3, (moet_problem){.experts = 3, .hidden = 2, .inter = 1});
    hand_weights(p);
    memcpy(p->ids, ids, sizeof ids);
    memcpy(p->weights, weights, sizeof weights);
    for (int32_t e = 0; e < 3; e++) {
        p->up_bias[2 * e] = bf16(32); /* of the gate */
        p->up_bias[2 * e + 1] = bf16(-1);
        p->down_bias[2 * e] = bf16(8);
        p->down_bias[2 * e + 1] = bf16(16);
    }
    const float x[] = {1, 1, 1, 7, 1, 2};
    for (int32_t i = 0; i < 6; i++) p->x[i] = bf16(x[i]);
}

static void test_permute(void **state)
{
    (void)state;
    static const int32_t counts[] = {2, 0, 1}, rowmap[] = {0, -1, 2, -1, -1, -1, 1, -1, -1}, source[] = {0, 2, 0};
    static const float prob[] = {0.25f, 0.5f, 0.5f};
    ffn_path p;
    moet_ffn_permutation *permutation;
    hand_make(&p);
    TEST_OK(moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    assert_int_equal(permutation->rows, 3);
    assert_memory_equal(permutation->counts, counts, sizeof counts);
    assert_memory_equal(permutation->rowmap, rowmap, sizeof rowmap);
    assert_memory_equal(permutation->source, source, sizeof source);
    assert_memory_equal(permutation->prob, prob, sizeof prob);
    moet_ffn_permutation_destroy(permutation);
    p.given.weights = NULL;
    TEST_OK(moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    for (int32_t m = 0; m < 3; m++) assert_true(permutation->prob[m] == 1);
    moet_ffn_permutation_destroy(permutation);
    moet_ffn_permutation_destroy(NULL);
    ffn_path_free(&p);
}

static void test_by_hand(void **state)
{
    (void)state;
    static const struct {
        moet_prob prob;
        moet_combine combine;
        bool up_bias, down_bias;
        float first, last; /* out[0][0] and out[2][0]; out[.][1] is twice that */
    } cases[] = {
        {MOET_PROB_NONE, MOET_COMBINE_EXACT, false, false, 32 + 96, 64},
        {MOET_PROB_NONE, MOET_COMBINE_PADDLE, false, false, 32 + 96, 64},
        {MOET_PROB_COMBINE, MOET_COMBINE_EXACT, false, false, 8 + 48, 32},
        {MOET_PROB_COMBINE, MOET_COMBINE_PADDLE, false, false, 8 + 48, 64},
        {MOET_PROB_ADVANCE, MOET_COMBINE_EXACT, false, false, 8 + 48, 32},
        {MOET_PROB_ADVANCE, MOET_COMBINE_PADDLE, false, false, 8 + 48, 32},
        /* gate 64, up (e + 1) v - 1 */
        {MOET_PROB_NONE, MOET_COMBINE_EXACT, true, false, 0 + 128, 64},
        {MOET_PROB_COMBINE, MOET_COMBINE_EXACT, true, false, 0 + 64, 32},
        /* weighted with its row at the combine, but not in advance */
        {MOET_PROB_COMBINE, MOET_COMBINE_EXACT, false, true, 0.25f * 40 + 0.5f * 104, 0.5f * 72},
        {MOET_PROB_ADVANCE, MOET_COMBINE_EXACT, false, true, 8 + 8 + 48 + 8, 32 + 8},
        {MOET_PROB_COMBINE, MOET_COMBINE_EXACT, true, true, 0.25f * 8 + 0.5f * 136, 0.5f * 72},
        {MOET_PROB_COMBINE, MOET_COMBINE_PADDLE, true, true, 0.25f * 8 + 0.5f * 136, 72},
    };
    ffn_path p;
    hand_make(&p);
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        double exact[6], bound[6];
        const float expected[] = {cases[i].first, 2 * cases[i].first, 0, 0, cases[i].last, 2 * cases[i].last};
        p.problem.prob = cases[i].prob;
        p.problem.combine = cases[i].combine;
        p.problem.bias = cases[i].up_bias;
        p.problem.down_bias = cases[i].down_bias;
        TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
        TEST_OK(moet_reference_ffn_double(&p.problem, p.choices, &p.given, exact, bound));
        for (int32_t j = 0; j < 6; j++) {
            if (p.out[j] != bf16(expected[j]))
                test_fail("case %d, element %d: %g expected, %g found", i, j, (double)expected[j],
                          (double)moet_bf16_to_float(p.out[j]));
            assert_true(fabs(exact[j] - (double)expected[j]) < 1e-9);
            assert_true(expected[j] == 0 || bound[j] > 0);
        }
        assert_true(bound[2] == 0 && bound[3] == 0); /* no row, no error */
    }
    ffn_path_free(&p);
}

static void test_no_tokens(void **state)
{
    (void)state;
    uint16_t out = 0x1234;
    double exact = 5, bound = 6;
    moet_ffn_permutation *permutation;
    moet_problem problem = {.op = MOET_OP_FFN, .experts = 2, .hidden = 8, .inter = 8, .prob = MOET_PROB_COMBINE};
    problem.activation = MOET_ACTIVATION_SWIGLU;
    problem.numerics = MOET_NUMERICS_FAST;
    moet_ffn_args none = {.out = &out}; /* a framework's empty tensors are NULL */
    TEST_OK(moet_reference_ffn_train(&problem, 2, &none));
    none.out = NULL;
    TEST_OK(moet_reference_ffn_train(&problem, 2, &none));
    TEST_OK(moet_reference_ffn_double(&problem, 2, &none, &exact, &bound));
    assert_true(out == 0x1234 && exact == 5 && bound == 6);
    TEST_OK(moet_ffn_permutation_create(&problem, 2, &none, &permutation));
    assert_int_equal(permutation->rows, 0);
    assert_int_equal(permutation->counts[0] + permutation->counts[1], 0);
    moet_ffn_permutation_destroy(permutation);
}

static void test_sixteen_choices(void **state)
{
    (void)state;
    ffn_path p;
    ffn_path_make(&p, 2, 16, (moet_problem){.experts = 17, .hidden = 2, .inter = 1});
    hand_weights(&p);
    for (int32_t c = 0; c < 16; c++) {
        p.ids[c] = 16 - c; /* experts 16 to 1 */
        p.ids[16 + c] = c; /* experts 0 to 15 */
        p.weights[c] = p.weights[16 + c] = c == 0 ? 0.5f : c == 15 ? 0.25f : 0;
    }
    for (int32_t i = 0; i < 4; i++) p.x[i] = bf16(1);
    TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
    assert_int_equal(p.out[0], bf16(32 * 152)); /* 2 + ... + 17 */
    assert_int_equal(p.out[2], bf16(32 * 136)); /* 1 + ... + 16 */
    p.problem.prob = MOET_PROB_COMBINE;
    TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
    assert_int_equal(p.out[0], bf16(0.5f * 32 * 17 + 0.25f * 32 * 2));
    assert_int_equal(p.out[2], bf16(0.5f * 32 * 1 + 0.25f * 32 * 16));
    ffn_path_free(&p);
}

static void test_activation(void **state)
{
    (void)state;
    static const struct {
        moet_activation activation;
        float clamp, gate, up, prob;
        uint16_t bits;
    } cases[] = {
        {MOET_ACTIVATION_SWIGLU, 0, 1, 1, 1, 0x3f3b},  /* 0.73106: 187.15 / 256 */
        {MOET_ACTIVATION_SWIGLU, 0, -1, 1, 1, 0xbe8a}, /* -0.26894: 137.70 / 512 */
        {MOET_ACTIVATION_SWIGLU, 0, 0, 5, 1, 0},
        {MOET_ACTIVATION_SWIGLU, 0, -128, 1, 1, 0x8000},       /* -128 / (1 + inf) */
        {MOET_ACTIVATION_SWIGLU, 0, 512, -512, 1, 0xc880},     /* no clamp: -2^18 */
        {MOET_ACTIVATION_SWIGLU, 0, 32, 2, 0.25f, 0x4180},     /* 16 */
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, 64, 64, 1, 0x4580}, /* at the edge: 4096 */
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, 128, 65, 1, 0x4580},
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, 128, -65, 1, 0xc580},
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, 63, -63, 1, 0xc578}, /* within: -3969 */
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, -128, 1, 1, 0x8000}, /* no clamp below */
        {MOET_ACTIVATION_SWIGLU_CLAMP, 0.5f, 1, 1, 1, 0x3e1f},  /* 0.5 silu(0.5) = 0.15561: 159.35 / 1024 */
        {MOET_ACTIVATION_GPT_OSS, 0, 100, 100, 1, 0x4260},      /* 7 s(11.914) (7 + 1) = 55.9996 */
        {MOET_ACTIVATION_GPT_OSS, 0, 7, 7, 1, 0x4260},
        {MOET_ACTIVATION_GPT_OSS, 0, 100, -100, 1, 0xc228}, /* 7 s(11.914) (-7 + 1) = -41.9997 */
        {MOET_ACTIVATION_GPT_OSS, 0, 3, -1, 1, 0},
        {MOET_ACTIVATION_GPT_OSS, 0, 1, 0, 1, 0x3f59}, /* s(1.702) = 0.84580: 216.52 / 256 */
        {MOET_ACTIVATION_GPT_OSS, 0, 1, 1, 0.5f, 0x3f59},
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, NAN, 1, 1, 0x7fc0},
        {MOET_ACTIVATION_SWIGLU_CLAMP, 64, 1, NAN, 1, 0x7fc0},
        {MOET_ACTIVATION_GPT_OSS, 0, NAN, 1, 1, 0x7fc0},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_problem problem = {
            .inter = 1, .activation = cases[i].activation, .clamp = (double)cases[i].clamp, .prob = MOET_PROB_ADVANCE};
        uint16_t up[] = {bf16(cases[i].gate), bf16(cases[i].up)}, out;
        moet_reference_activate_row(&problem, up, cases[i].prob, &out);
        if (cases[i].bits == 0x7fc0 ? (out & 0x7fff) <= 0x7f80 : out != cases[i].bits)
            test_fail("case %d: %04x expected, %04x found", i, cases[i].bits, out);
        problem.prob = MOET_PROB_COMBINE; /* then prob is no business of the activation */
        uint16_t other;
        moet_reference_activate_row(&problem, up, 77, &other);
        if (cases[i].prob == 1 && cases[i].bits != 0x7fc0) assert_int_equal(other, out);
        if (cases[i].prob != 1) assert_int_not_equal(other, out);
    }
}

/* Left to right, each operation rounded: volatile keeps this file's compiler from another way. */
static void test_activation_order(void **state)
{
    (void)state;
    uint64_t random = 3;
    int32_t reordered = 0, fused = 0;
    moet_problem swiglu = {.inter = 1, .activation = MOET_ACTIVATION_SWIGLU, .prob = MOET_PROB_ADVANCE};
    moet_problem gpt_oss = swiglu;
    gpt_oss.activation = MOET_ACTIVATION_GPT_OSS;
    for (int32_t i = 0; i < 20000; i++) {
        float g = 2 * test_normal(&random), u = 2 * test_normal(&random), p = fabsf(test_normal(&random));
        volatile float e = expf(-g), d = 1 + e, s = g / d, su = s * u, sup = su * p, up = u * p, other = s * up;
        assert_true(moet_reference_activate(&swiglu, g, u, p) == sup);
        reordered += other != sup;
        volatile float a = 1.702f * g, ae = expf(-a), ad = 1 + ae, r = 1 / ad, gr = g * r, u1 = u + 1, v = gr * u1;
        volatile float vp = v * p;
        assert_true(moet_reference_activate(&gpt_oss, g, u, p) == vp);
        fused += fmaf(gr, u, gr) != v;
        double exact = moet_reference_activate_double(&swiglu, (double)g, (double)u, (double)p);
        assert_true(fabs((double)sup - exact) <= 0x1p-20 * fabs(exact));
    }
    assert_true(reordered > 100 && fused > 100); /* else the order was not tested */
}

/* combine of one token whose expert e has rows[e] and weight prob[e]; ids descend, the sum must not. */
static uint16_t combine_one(moet_prob prob, moet_combine combine, int32_t experts, const float *rows,
                            const float *weights)
{
    int32_t ids[4];
    float turned[4];
    uint16_t bits[4], out;
    moet_ffn_permutation *permutation;
    moet_problem problem = {.op = MOET_OP_FFN, .experts = experts, .hidden = 1, .inter = 1};
    problem.activation = MOET_ACTIVATION_SWIGLU;
    problem.prob = prob;
    problem.combine = combine;
    for (int32_t e = 0; e < experts; e++) {
        ids[e] = experts - 1 - e;
        turned[e] = weights[experts - 1 - e];
        bits[e] = bf16(rows[e]);
    }
    moet_ffn_args given = {.ids = ids, .weights = turned, .out = &out, .tokens = 1}; /* strides of 0: dense */
    TEST_OK(moet_ffn_permutation_create(&problem, experts, &given, &permutation));
    moet_reference_combine(&problem, permutation, &given, bits);
    moet_ffn_permutation_destroy(permutation);
    return out;
}

static void test_combine_order(void **state)
{
    (void)state;
    const moet_combine exact = MOET_COMBINE_EXACT, paddle = MOET_COMBINE_PADDLE;
    const float ones[] = {1, 1, 1}, one_ulp[] = {1, 1.00000011920928955f}, zero = -0.0f, three = 3, eighth = 0.125f;
    const float absorbed[] = {0x1p24f, 1, -0x1p24f};    /* 2^24 + 1 is 2^24; from the other end 1 would remain */
    const float fp32[] = {1, 0.00390625f, 0.00390625f}; /* in BF16 1 + 2^-8 is 1 */
    const float fused[] = {-1.0078125f, 1.0078125f}; /* v (1 + 2^-23) - v is v 2^-23, 2^-23 after a rounded product */
    assert_int_equal(combine_one(MOET_PROB_NONE, exact, 3, absorbed, ones), bf16(0));
    assert_int_equal(combine_one(MOET_PROB_COMBINE, exact, 3, absorbed, ones), bf16(0));
    assert_int_equal(combine_one(MOET_PROB_NONE, exact, 3, fp32, ones), bf16(1.0078125f));
    assert_int_equal(combine_one(MOET_PROB_COMBINE, exact, 2, fused, one_ulp), bf16(1.0078125f * 0x1p-23f));
    /* a weighted row is not rounded before the sum: 1.0078125^2 is 1.01568603515625, in BF16 1.015625 */
    const float squared[] = {1.0078125f, -1.015625f}, by[] = {1.0078125f, 1};
    assert_int_equal(combine_one(MOET_PROB_COMBINE, exact, 2, squared, by), bf16(0x1p-14f));
    /* a copied row keeps its sign of zero */
    assert_int_equal(combine_one(MOET_PROB_NONE, exact, 1, &zero, ones), 0x8000);
    assert_int_equal(combine_one(MOET_PROB_COMBINE, exact, 1, &zero, ones), 0);
    assert_int_equal(combine_one(MOET_PROB_COMBINE, paddle, 1, &zero, ones), 0x8000);
    assert_int_equal(combine_one(MOET_PROB_COMBINE, exact, 1, &three, &eighth), bf16(0.375f));
    assert_int_equal(combine_one(MOET_PROB_COMBINE, paddle, 1, &three, &eighth), bf16(3));
    assert_int_equal(combine_one(MOET_PROB_ADVANCE, paddle, 1, &three, &eighth), bf16(3));
}

static void test_refusals(void **state)
{
    (void)state;
    const moet_activation swiglu = MOET_ACTIVATION_SWIGLU, clamped = MOET_ACTIVATION_SWIGLU_CLAMP;
    const struct {
        const char *words;
        int32_t tokens, choices, experts, hidden, inter;
        moet_problem problem;
    } shapes[] = {
        {"tokens is -1", -1, 1, 1, 1, 1, {.activation = swiglu}},
        {"choices is 0, must be 1 to 16", 1, 0, 1, 1, 1, {.activation = swiglu}},
        {"choices is 17", 1, 17, 1, 1, 1, {.activation = swiglu}},
        {"experts is 1025", 1, 1, 1025, 1, 1, {.activation = swiglu}},
        {"hidden is 0", 1, 1, 1, 0, 1, {.activation = swiglu}},
        {"inter is 524289", 1, 1, 1, 1, 524289, {.activation = swiglu}},
        {"layout is 2", 1, 1, 1, 1, 1, {.activation = swiglu, .layout = MOET_LAYOUT_COUNT}},
        {"activation is 4", 1, 1, 1, 1, 1, {.activation = MOET_ACTIVATION_COUNT}},
        {"activation is 0", 1, 1, 1, 1, 1, {.activation = MOET_ACTIVATION_NONE}},
        {"prob is 3", 1, 1, 1, 1, 1, {.activation = swiglu, .prob = MOET_PROB_COUNT}},
        {"combine is 2", 1, 1, 1, 1, 1, {.activation = swiglu, .combine = MOET_COMBINE_COUNT}},
        {"numerics is 2", 1, 1, 1, 1, 1, {.activation = swiglu, .numerics = MOET_NUMERICS_COUNT}},
        {"clamp is 0", 1, 1, 1, 1, 1, {.activation = clamped}},
        {"clamp is nan", 1, 1, 1, 1, 1, {.activation = clamped, .clamp = (double)NAN}},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(shapes); i++) {
        moet_problem problem = shapes[i].problem;
        problem.op = MOET_OP_FFN;
        problem.experts = shapes[i].experts;
        problem.hidden = shapes[i].hidden;
        problem.inter = shapes[i].inter;
        TEST_FAILS(MOET_INVALID, shapes[i].words,
                   moet_reference_ffn_validate(&problem, shapes[i].choices, shapes[i].tokens));
    }
    moet_problem up = {.op = MOET_OP_UP, .experts = 1, .hidden = 1, .inter = 1, .activation = swiglu};
    TEST_FAILS(MOET_INVALID, "op is 0", moet_reference_ffn_validate(&up, 1, 1));

    ffn_path p;
    hand_make(&p);
    p.problem.prob = MOET_PROB_COMBINE;
    p.problem.bias = p.problem.down_bias = true;
    const struct {
        const char *words;
        const void **pointer;
        int64_t *stride;
    } inputs[] = {
        {"x is NULL", &p.given.x, NULL},
        {"ids is NULL", &p.given.ids, NULL},
        {"weights is NULL", (const void **)&p.given.weights, NULL},
        {"up is NULL", &p.given.up, NULL},
        {"down is NULL", &p.given.down, NULL},
        {"up_bias is NULL", &p.given.up_bias, NULL},
        {"down_bias is NULL", &p.given.down_bias, NULL},
        {"x_stride is 1", NULL, &p.given.x_stride},
        {"ids_stride is 1", NULL, &p.given.ids_stride},
        {"weights_stride is 1", NULL, &p.given.weights_stride},
    };
    double exact[6] = {77}, bound[6] = {78};
    p.out[0] = 0x1234;
    for (int32_t i = 0; i < MOET_COUNT_OF(inputs); i++) {
        moet_ffn_args kept = p.given;
        if (inputs[i].pointer) *inputs[i].pointer = NULL;
        if (inputs[i].stride) *inputs[i].stride = 1;
        TEST_FAILS(MOET_INVALID, inputs[i].words, moet_reference_ffn_train(&p.problem, p.choices, &p.given));
        TEST_FAILS(MOET_INVALID, inputs[i].words,
                   moet_reference_ffn_double(&p.problem, p.choices, &p.given, exact, bound));
        p.given = kept;
    }
    p.given.out_stride = 1;
    TEST_FAILS(MOET_INVALID, "out_stride is 1", moet_reference_ffn_train(&p.problem, p.choices, &p.given));
    p.given.out_stride = 0;
    p.given.out = NULL;
    TEST_FAILS(MOET_INVALID, "out is NULL", moet_reference_ffn_train(&p.problem, p.choices, &p.given));
    p.given.out = p.out;
    moet_ffn_permutation *permutation = NULL;
    p.ids[7] = 3;
    TEST_FAILS(MOET_INVALID, "token 2, choice 1: expert 3, must be -1 to 2",
               moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    p.ids[7] = -2;
    TEST_FAILS(MOET_INVALID, "token 2, choice 1: expert -2",
               moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    p.ids[7] = 0;
    p.ids[8] = 0;
    TEST_FAILS(MOET_INVALID, "token 2 chooses expert 0 twice, by choices 1 and 2",
               moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    TEST_FAILS(MOET_INVALID, "twice", moet_reference_ffn_train(&p.problem, p.choices, &p.given));
    TEST_FAILS(MOET_INVALID, "twice", moet_reference_ffn_double(&p.problem, p.choices, &p.given, exact, bound));
    const int64_t wide[] = {0, 0x100000000, -1, -1, -1, -1, -1, -1, -1}; /* 32 bits of it are a valid id */
    p.given.ids = wide;
    p.given.ids_int64 = true;
    TEST_FAILS(MOET_INVALID, "token 0, choice 1: expert 4294967296",
               moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    assert_null(permutation);
    assert_true(p.out[0] == 0x1234 && exact[0] == 77 && bound[0] == 78);
    ffn_path_free(&p);

    /* more rows than are served */
    ffn_path_make(&p, MOET_MAX_ROWS / 2 + 1, 2, (moet_problem){.experts = 2, .hidden = 1, .inter = 1});
    for (int32_t i = 0; i < 2 * p.given.tokens; i++) p.ids[i] = i % 2;
    TEST_FAILS(MOET_INVALID, "1048578 rows in all",
               moet_ffn_permutation_create(&p.problem, p.choices, &p.given, &permutation));
    ffn_path_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permute),       cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_no_tokens),     cmocka_unit_test(test_sixteen_choices),
        cmocka_unit_test(test_activation),    cmocka_unit_test(test_activation_order),
        cmocka_unit_test(test_combine_order), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("ffn_reference", tests, NULL, NULL);
}
