/* The expert path's C reference on random inputs: within its own bound, which an error in any stage leaves; the same
 * bits in either layout, with any strides, in any batch. */
#include "ffn_path.h"

#include <math.h>

/* What `out` is off, as a fraction of the bound, at worst. */
static double worst(const ffn_path *p, moet_numerics numerics, const uint16_t *out)
{
    moet_problem problem = p->problem;
    problem.numerics = numerics;
    double *exact = test_allocate((size_t)p->elements * sizeof *exact), result = 0;
    double *bound = test_allocate((size_t)p->elements * sizeof *bound);
    TEST_OK(moet_reference_ffn_double(&problem, p->choices, &p->given, exact, bound));
    for (int64_t i = 0; i < p->elements; i++) {
        double off = fabs((double)moet_bf16_to_float(out[i]) - exact[i]);
        assert_true(bound[i] >= 0 && isfinite(bound[i]));
        if (off > 0) result = fmax(result, off / bound[i]);
    }
    free(exact);
    free(bound);
    return result;
}

static void test_within_bound(void **state)
{
    (void)state;
    uint64_t random = 4;
    double most[2] = {0, 0};
    int32_t train_not_fast = 0;
    for (int32_t i = 0; i < 400; i++) {
        ffn_path p;
        ffn_path_random(&random, &p);
        TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
        double of_train = worst(&p, MOET_NUMERICS_TRAIN, p.out);
        train_not_fast += worst(&p, MOET_NUMERICS_FAST, p.out) > 1;
        ffn_path_fast(&p, p.out);
        double of_fast = worst(&p, MOET_NUMERICS_FAST, p.out);
        if (of_train > 1 || of_fast > 1) test_fail("case %d: train %g, fast %g of the bound", i, of_train, of_fast);
        most[0] = fmax(most[0], of_train);
        most[1] = fmax(most[1], of_fast);
        ffn_path_free(&p);
    }
    assert_true(most[0] > 0.5 && most[1] > 0.5); /* not far from tight */
    assert_true(train_not_fast > 0);             /* FAST's bound knows that nothing was rounded there */
}

/* H = I = 1, a fixed up value, and products around the powers of two, where BF16's error is largest: what the slope of
 * the activation makes of the gate's error shows beside only two roundings. */
static void test_slope(void **state)
{
    (void)state;
    double most = 0;
    ffn_path p;
    ffn_path_make(&p, 16 * 64, 1,
                  (moet_problem){.experts = 64, .hidden = 1, .inter = 1, .activation = MOET_ACTIVATION_SWIGLU_CLAMP});
    for (int32_t e = 0; e < 64; e++) {
        p.up[2 * e] = bf16(2 + (float)(e % 16) / 64);
        p.up[2 * e + 1] = bf16(100);
        p.down[e] = bf16(1 + (float)(5 + e / 16 * 4) / 128);
        for (int32_t i = 0; i < 16; i++) {
            p.x[16 * e + i] = bf16(1 + (float)i / 128);
            p.ids[16 * e + i] = e;
        }
    }
    for (int32_t c = 0; c < 200; c++) {
        p.problem.clamp = 2.1 + 0.001 * c;
        TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
        most = fmax(most, worst(&p, MOET_NUMERICS_TRAIN, p.out));
    }
    assert_true(most <= 1 && most > 0.85);
    ffn_path_free(&p);
}

/* ---- a flaw in any stage leaves the bound; at I = 1024 too, where the worst case alone would be wide ---- */

typedef enum flaw {
    UP_BIAS,
    DOWN_BIAS,
    ACTIVATION,
    CLAMP,
    PROB,
    PROB_ADVANCE,
    SINGLE,
    LAYOUT,
    ONE_WEIGHT,
    LAST_K,
    NEIGHBOUR,
    FLAW_COUNT
} flaw;

static void flaw_apply(ffn_path *p, flaw f)
{
    moet_problem *s = &p->problem;
    switch (f) {
    case UP_BIAS:
        s->bias = false;
        break;
    case DOWN_BIAS:
        s->down_bias = false;
        break;
    case ACTIVATION:
        s->activation = MOET_ACTIVATION_GPT_OSS;
        break;
    case CLAMP:
        s->clamp = 1.375;
        break;
    case PROB:
        s->prob = MOET_PROB_NONE;
        break;
    case PROB_ADVANCE: /* the down bias is not weighted then */
        s->prob = MOET_PROB_ADVANCE;
        break;
    case SINGLE:
        s->combine = MOET_COMBINE_PADDLE;
        break;
    case LAYOUT:
        s->layout = MOET_LAYOUT_KN;
        break;
    case ONE_WEIGHT:
        p->weights[0] += 0.125f;
        break;
    case LAST_K: /* one product of an up element lost */
        for (int64_t n = 0; n < 2 * s->inter; n++) p->up[(n + 1) * s->hidden - 1] = 0;
        break;
    default: /* one choice to the next expert */
        p->ids[0] = 1;
        break;
    }
}

static void test_flaws_leave_the_bound(void **state)
{
    (void)state;
    static const int32_t inter[] = {16, 1024};
    for (int32_t i = 0; i < MOET_COUNT_OF(inter); i++) {
        for (int32_t f = 0; f < FLAW_COUNT; f++) {
            ffn_path p;
            uint64_t random = 5;
            ffn_path_make(&p, 6, 4,
                          (moet_problem){.experts = 4,
                                         .hidden = 24,
                                         .inter = inter[i],
                                         .activation = MOET_ACTIVATION_SWIGLU_CLAMP,
                                         .clamp = 1.25,
                                         .prob = MOET_PROB_COMBINE,
                                         .bias = true,
                                         .down_bias = true});
            ffn_path_fill(&random, &p);
            for (int32_t t = 0; t < 6; t++) { /* token 0: expert 0 alone; the others 2 experts */
                for (int32_t c = 0; c < 4; c++) p.ids[4 * t + c] = -1;
                p.ids[4 * t] = t % 4;
                if (t > 0) p.ids[4 * t + 3] = (t + 1) % 4;
            }
            TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
            assert_true(worst(&p, MOET_NUMERICS_TRAIN, p.out) <= 1);
            ffn_path wrong = p; /* what flaws change of the arrays is put back by filling again */
            flaw_apply(&wrong, (flaw)f);
            TEST_OK(moet_reference_ffn_train(&wrong.problem, wrong.choices, &wrong.given));
            if (f == ONE_WEIGHT) p.weights[0] -= 0.125f;
            if (f == NEIGHBOUR) p.ids[0] = 0;
            if (f == LAST_K) {
                random = 5;
                ffn_path_numbers(&random, p.x, p.elements, 1);
                ffn_path_numbers(&random, p.up, 4 * 2 * (int64_t)inter[i] * 24, 2 / sqrt(24.0));
            }
            if (worst(&p, MOET_NUMERICS_TRAIN, p.out) <= 1)
                test_fail("flaw %d at I = %d is within the bound", f, inter[i]);
            ffn_path_free(&p);
        }
    }
}

/* Prob in advance is prob at the combine in exact arithmetic without a down bias; in BF16 it is not. */
static void test_equal_in_exact_arithmetic_only(void **state)
{
    (void)state;
    uint64_t random = 6;
    int32_t differing = 0;
    for (int32_t i = 0; i < 20; i++) {
        ffn_path p;
        ffn_path_random(&random, &p);
        p.problem.down_bias = false;
        p.problem.combine = MOET_COMBINE_EXACT;
        moet_problem advance = p.problem;
        p.problem.prob = MOET_PROB_COMBINE;
        advance.prob = MOET_PROB_ADVANCE;
        double *a = test_allocate((size_t)p.elements * sizeof *a), *b = test_allocate((size_t)p.elements * sizeof *b);
        double *bound = test_allocate((size_t)p.elements * sizeof *bound);
        TEST_OK(moet_reference_ffn_double(&p.problem, p.choices, &p.given, a, bound));
        TEST_OK(moet_reference_ffn_double(&advance, p.choices, &p.given, b, bound));
        for (int64_t j = 0; j < p.elements; j++) assert_true(fabs(a[j] - b[j]) <= 1e-9 * (1 + fabs(a[j])));
        uint16_t *at_combine = ffn_path_train(&p.problem, p.choices, &p.given),
                 *in_advance = ffn_path_train(&advance, p.choices, &p.given);
        differing += memcmp(at_combine, in_advance, (size_t)p.elements * sizeof *in_advance) != 0;
        free(a);
        free(b);
        free(bound);
        free(at_combine);
        free(in_advance);
        ffn_path_free(&p);
    }
    assert_true(differing > 0);
}

/* Errors of I columns add as their root: with weights scaled to it the bound must not grow with I. */
static void test_bound_does_not_grow(void **state)
{
    (void)state;
    static const int32_t inter[] = {16, 1024};
    double mean[2] = {0, 0};
    for (int32_t i = 0; i < 2; i++) {
        ffn_path p;
        uint64_t random = 8;
        double exact[4 * 24], bound[4 * 24];
        ffn_path_make(&p, 4, 1, (moet_problem){.experts = 1, .hidden = 24, .inter = inter[i]});
        ffn_path_fill(&random, &p);
        for (int32_t t = 0; t < 4; t++) p.ids[t] = 0;
        TEST_OK(moet_reference_ffn_double(&p.problem, p.choices, &p.given, exact, bound));
        for (int32_t j = 0; j < 4 * 24; j++) mean[i] += bound[j] / (4 * 24);
        ffn_path_free(&p);
    }
    assert_true(mean[0] > 0 && mean[1] < 5 * mean[0]); /* the worst case alone: 8 times */
}

/* ---- what must not change a bit ---- */

static void assert_same(const ffn_path *p, const moet_problem *problem, const moet_ffn_args *given, const char *what)
{
    uint16_t *out = ffn_path_train(problem, p->choices, given);
    for (int64_t i = 0; i < p->elements; i++) {
        if (out[i] != p->out[i]) test_fail("%s: element %lld differs", what, (long long)i);
    }
    free(out);
}

/* [E, rows, columns] to [E, columns, rows] */
static uint16_t *transposed(const uint16_t *w, int64_t experts, int64_t rows, int64_t columns)
{
    uint16_t *result = test_allocate((size_t)(experts * rows * columns) * sizeof *result);
    for (int64_t e = 0; e < experts; e++, w += rows * columns) {
        for (int64_t i = 0; i < rows * columns; i++)
            result[e * rows * columns + i % columns * rows + i / columns] = w[i];
    }
    return result;
}

/* Token `from`s of the path in a batch of their own: the same bits. */
static void assert_batch(const ffn_path *p, const int32_t *from, int32_t count)
{
    ffn_path q;
    int64_t H = p->problem.hidden, k = p->choices;
    ffn_path_make(&q, count, p->choices, p->problem);
    for (int32_t t = 0; t < count; t++) {
        memcpy(q.x + t * H, p->x + from[t] * H, (size_t)H * sizeof *q.x);
        memcpy(q.ids + t * k, p->ids + from[t] * k, (size_t)k * sizeof *q.ids);
        memcpy(q.weights + t * k, p->weights + from[t] * k, (size_t)k * sizeof *q.weights);
    }
    moet_ffn_args given = p->given;
    given.x = q.x;
    given.ids = q.ids;
    given.weights = q.weights;
    given.out = q.out;
    given.tokens = count;
    TEST_OK(moet_reference_ffn_train(&q.problem, q.choices, &given));
    for (int32_t t = 0; t < count; t++)
        assert_memory_equal(q.out + t * H, p->out + from[t] * H, (size_t)H * sizeof *q.out);
    ffn_path_free(&q);
}

static void test_same_bits(void **state)
{
    (void)state;
    uint64_t random = 7;
    for (int32_t i = 0; i < 100; i++) {
        ffn_path p;
        ffn_path_random(&random, &p);
        TEST_OK(moet_reference_ffn_train(&p.problem, p.choices, &p.given));
        int64_t R = p.given.tokens, k = p.choices, E = p.problem.experts, H = p.problem.hidden, I = p.problem.inter;

        bool nk = p.problem.layout == MOET_LAYOUT_NK;
        moet_problem turned = p.problem;
        moet_ffn_args given = p.given;
        uint16_t *up = transposed(p.up, E, nk ? 2 * I : H, nk ? H : 2 * I);
        uint16_t *down = transposed(p.down, E, nk ? H : I, nk ? I : H);
        turned.layout = nk ? MOET_LAYOUT_KN : MOET_LAYOUT_NK;
        given.up = up;
        given.down = down;
        assert_same(&p, &turned, &given, "the other layout");

        int64_t *wide = test_allocate((size_t)(R * (k + 3)) * sizeof *wide); /* int64, with room between tokens */
        float *weights = test_allocate((size_t)(R * (k + 2)) * sizeof *weights);
        uint16_t *x = test_allocate((size_t)(R * (H + 5)) * sizeof *x);
        for (int64_t j = 0; j < R * (k + 3); j++) wide[j] = 0; /* local if it were read */
        for (int64_t j = 0; j < R * (k + 2); j++) weights[j] = 1000;
        for (int64_t j = 0; j < R * (H + 5); j++) x[j] = 0x7fc0;
        for (int64_t t = 0; t < R; t++) {
            for (int64_t c = 0; c < k; c++) wide[t * (k + 3) + c] = p.ids[t * k + c];
            for (int64_t c = 0; c < k; c++) weights[t * (k + 2) + c] = p.weights[t * k + c];
            for (int64_t h = 0; h < H; h++) x[t * (H + 5) + h] = p.x[t * H + h];
        }
        given = p.given;
        given.ids = wide;
        given.ids_int64 = true;
        given.ids_stride = k + 3;
        given.weights = weights;
        given.weights_stride = k + 2;
        given.x = x;
        given.x_stride = H + 5;
        assert_same(&p, &p.problem, &given, "int64 and strides");

        int32_t order[9];
        for (int32_t t = 0; t < R; t++) {
            order[t] = (int32_t)R - 1 - t;
            assert_batch(&p, &t, 1);
        }
        assert_batch(&p, order, (int32_t)R);
        free(up);
        free(down);
        free(wide);
        free(weights);
        free(x);
        ffn_path_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_within_bound),
        cmocka_unit_test(test_slope),
        cmocka_unit_test(test_bound_does_not_grow),
        cmocka_unit_test(test_flaws_leave_the_bound),
        cmocka_unit_test(test_equal_in_exact_arithmetic_only),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests_name("ffn_bound", tests, NULL, NULL);
}
