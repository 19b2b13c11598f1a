/* Built with -ffp-contract=off: the order and the roundings of the activation are part of the contract. */
#include "ffn_reference.h"

#include <math.h>
#include <stdlib.h>

#include "../src/device.h"
#include "reference.h"

static const float gpt_oss_alpha = 1.702f, gpt_oss_clamp = 7.0f;

/* ---- what may come in ---- */

static moet_status number_check(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return MOET_OK;
    return moet_fail(MOET_INVALID, "ffn: %s is %lld, must be %lld to %lld", name, (long long)value, (long long)low,
                     (long long)high);
}

moet_status moet_reference_ffn_validate(const moet_problem *problem, int32_t choices, int64_t tokens)
{
    const struct {
        const char *name;
        int64_t value, low, high;
    } fields[] = {
        {"op", problem->op, MOET_OP_FFN, MOET_OP_FFN},
        {"tokens", tokens, 0, MOET_MAX_ROWS},
        {"choices", choices, 1, MOET_MAX_CHOICES},
        {"experts", problem->experts, 1, MOET_MAX_EXPERTS},
        {"hidden", problem->hidden, 1, MOET_MAX_DIM},
        {"inter", problem->inter, 1, MOET_MAX_DIM / 2}, /* the up GEMM has 2I columns */
        {"layout", problem->layout, 0, MOET_LAYOUT_COUNT - 1},
        {"activation", problem->activation, MOET_ACTIVATION_SWIGLU, MOET_ACTIVATION_COUNT - 1},
        {"prob", problem->prob, 0, MOET_PROB_COUNT - 1},
        {"combine", problem->combine, 0, MOET_COMBINE_COUNT - 1},
        {"numerics", problem->numerics, 0, MOET_NUMERICS_COUNT - 1},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(fields); i++)
        MOET_TRY(number_check(fields[i].name, fields[i].value, fields[i].low, fields[i].high));
    if (problem->activation == MOET_ACTIVATION_SWIGLU_CLAMP && !(problem->clamp > 0))
        return moet_fail(MOET_INVALID, "ffn: clamp is %g, must be above 0", problem->clamp);
    return MOET_OK;
}

static moet_status pointer_check(const char *name, const void *pointer, bool wanted)
{
    return pointer || !wanted ? MOET_OK : moet_fail(MOET_INVALID, "ffn: %s is NULL", name);
}

/* 0: dense rows. */
static int64_t stride_of(int64_t stride, int64_t width) { return stride ? stride : width; }

static moet_status stride_check(const char *name, int64_t stride, int64_t width)
{
    return number_check(name, stride_of(stride, width), width, INT32_MAX);
}

static moet_status routing_check(const moet_problem *problem, int32_t choices, const moet_ffn_args *args)
{
    MOET_TRY(moet_reference_ffn_validate(problem, choices, args->tokens));
    if (args->tokens == 0) return MOET_OK; /* empty tensors have any pointer */
    MOET_TRY(pointer_check("ids", args->ids, true));
    MOET_TRY(pointer_check("weights", args->weights, problem->prob != MOET_PROB_NONE));
    MOET_TRY(stride_check("ids_stride", args->ids_stride, choices));
    return args->weights ? stride_check("weights_stride", args->weights_stride, choices) : MOET_OK;
}

static moet_status args_check(const moet_problem *problem, int32_t choices, const moet_ffn_args *args)
{
    MOET_TRY(routing_check(problem, choices, args));
    if (args->tokens == 0) return MOET_OK;
    MOET_TRY(pointer_check("x", args->x, true));
    MOET_TRY(pointer_check("up", args->up, true));
    MOET_TRY(pointer_check("down", args->down, true));
    MOET_TRY(pointer_check("up_bias", args->up_bias, problem->bias));
    MOET_TRY(pointer_check("down_bias", args->down_bias, problem->down_bias));
    return stride_check("x_stride", args->x_stride, problem->hidden);
}

static const uint16_t *x_row(const moet_problem *problem, const moet_ffn_args *args, int64_t token)
{
    return (const uint16_t *)args->x + token * stride_of(args->x_stride, problem->hidden);
}

/* NULL without memory; never for a count of 0. */
static void *array_create(int64_t count, size_t size_bytes) { return calloc(count ? (size_t)count : 1, size_bytes); }

static moet_status no_memory(void) { return moet_fail(MOET_NO_MEMORY, "ffn: out of memory for the reference"); }

/* ---- permute ---- */

void moet_ffn_permutation_destroy(moet_ffn_permutation *permutation)
{
    if (!permutation) return;
    free(permutation->counts);
    free(permutation->rowmap);
    free(permutation->source);
    free(permutation->prob);
    free(permutation);
}

static int64_t id_at(int32_t choices, const moet_ffn_args *args, int64_t token, int32_t choice)
{
    int64_t at = token * stride_of(args->ids_stride, choices) + choice;
    return args->ids_int64 ? ((const int64_t *)args->ids)[at] : ((const int32_t *)args->ids)[at];
}

/* Into rowmap the choice by which a token came to an expert, and what follows from the ids alone. */
static moet_status choices_collect(int32_t experts, int32_t choices, const moet_ffn_args *args, moet_ffn_permutation *p)
{
    int64_t cells = args->tokens * experts;
    for (int64_t i = 0; i < cells; i++) p->rowmap[i] = -1;
    for (int32_t t = 0; t < args->tokens; t++) {
        for (int32_t c = 0; c < choices; c++) {
            int64_t id = id_at(choices, args, t, c);
            if (id == -1) continue;
            if (id < -1 || id >= experts)
                return moet_fail(MOET_INVALID, "ffn: token %d, choice %d: expert %lld, must be -1 to %d", t, c,
                                 (long long)id, experts - 1);
            int32_t *cell = &p->rowmap[(int64_t)t * experts + id];
            if (*cell >= 0)
                return moet_fail(MOET_INVALID, "ffn: token %d chooses expert %lld twice, by choices %d and %d", t,
                                 (long long)id, *cell, c);
            *cell = c;
            p->counts[id]++;
            p->rows++;
        }
    }
    if (p->rows > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID, "ffn: %lld rows in all, at most %d are served", (long long)p->rows,
                         MOET_MAX_ROWS);
    return MOET_OK;
}

moet_status moet_ffn_permutation_create(const moet_problem *problem, int32_t choices, const moet_ffn_args *args,
                                        moet_ffn_permutation **permutation)
{
    moet_status status;
    moet_ffn_permutation *p = NULL;
    MOET_TRY(routing_check(problem, choices, args));
    int32_t E = problem->experts;
    if (!(p = calloc(1, sizeof *p))) return no_memory();
    p->counts = array_create(E, sizeof *p->counts);
    p->rowmap = array_create(args->tokens * E, sizeof *p->rowmap);
    if (!p->counts || !p->rowmap) {
        status = no_memory();
        goto done;
    }
    if ((status = choices_collect(E, choices, args, p)) != MOET_OK) goto done;
    p->source = array_create(p->rows, sizeof *p->source);
    p->prob = array_create(p->rows, sizeof *p->prob);
    if (!p->source || !p->prob) {
        status = no_memory();
        goto done;
    }
    int32_t row = 0;
    for (int32_t e = 0; e < E; e++) {
        for (int32_t t = 0; t < args->tokens; t++) {
            int32_t *cell = &p->rowmap[(int64_t)t * E + e];
            if (*cell < 0) continue;
            p->source[row] = t;
            p->prob[row] = args->weights ? args->weights[t * stride_of(args->weights_stride, choices) + *cell] : 1;
            *cell = row++;
        }
    }
    *permutation = p;
    p = NULL;
done:
    moet_ffn_permutation_destroy(p);
    return status;
}

/* ---- the stages ---- */

static moet_problem stage_problem(const moet_problem *problem, moet_op op)
{
    moet_problem stage;
    moet_problem_init(&stage, op, problem->experts, problem->hidden, problem->inter);
    stage.layout = problem->layout;
    stage.bias = op == MOET_OP_UP ? problem->bias : problem->down_bias;
    return stage;
}

void moet_reference_gemm_train(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                               const int32_t *counts, uint16_t *out)
{
    int64_t N = moet_problem_n(problem), K = moet_problem_k(problem);
    bool nk = problem->layout == MOET_LAYOUT_NK;
    int64_t step = nk ? 1 : N;
    for (int32_t e = 0; e < problem->experts; e++) {
        for (int32_t i = 0; i < counts[e]; i++, x += K, out += N) {
            for (int64_t n = 0; n < N; n++) {
                const uint16_t *b = w + e * N * K + (nk ? n * K : n);
                float sum = 0;
                for (int64_t k = 0; k < K; k++) sum += moet_bf16_to_float(x[k]) * moet_bf16_to_float(b[k * step]);
                if (problem->bias) sum += moet_bf16_to_float(bias[e * N + n]);
                out[n] = moet_bf16_from_float(sum);
            }
        }
    }
}

static float clamp_limit(const moet_problem *problem)
{
    const float limits[MOET_ACTIVATION_COUNT] = {[MOET_ACTIVATION_SWIGLU] = INFINITY,
                                                 [MOET_ACTIVATION_SWIGLU_CLAMP] = (float)problem->clamp,
                                                 [MOET_ACTIVATION_GPT_OSS] = gpt_oss_clamp};
    return limits[problem->activation];
}

/* Not fmin and fmax, which would lose a NaN. Floats go through double unchanged. */
static double gate_clamp(double gate, double limit) { return gate > limit ? limit : gate; }
static double up_clamp(double up, double limit) { return up > limit ? limit : up < -limit ? -limit : up; }

float moet_reference_activate(const moet_problem *problem, float gate, float up, float prob)
{
    float limit = clamp_limit(problem), value;
    gate = (float)gate_clamp(gate, limit);
    up = (float)up_clamp(up, limit);
    if (problem->activation == MOET_ACTIVATION_GPT_OSS) {
        float sigmoid = 1.0f / (1.0f + expf(-(gpt_oss_alpha * gate)));
        value = gate * sigmoid * (up + 1.0f);
    } else {
        value = gate / (1.0f + expf(-gate)) * up;
    }
    return problem->prob == MOET_PROB_ADVANCE ? value * prob : value;
}

double moet_reference_activate_double(const moet_problem *problem, double gate, double up, double prob)
{
    double limit = clamp_limit(problem);
    bool gpt_oss = problem->activation == MOET_ACTIVATION_GPT_OSS;
    gate = gate_clamp(gate, limit);
    up = up_clamp(up, limit);
    double value = gate / (1 + exp(-(gpt_oss ? gpt_oss_alpha : 1) * gate)) * (gpt_oss ? up + 1 : up);
    return problem->prob == MOET_PROB_ADVANCE ? value * prob : value;
}

void moet_reference_activate_row(const moet_problem *problem, const uint16_t *up, float prob, uint16_t *out)
{
    for (int32_t i = 0; i < problem->inter; i++)
        out[i] = moet_bf16_from_float(moet_reference_activate(problem, moet_bf16_to_float(up[i]),
                                                              moet_bf16_to_float(up[problem->inter + i]), prob));
}

/* A token's rows in the order of the sum, and whether they are weighted in it. */
typedef struct token_rows {
    int32_t count, rows[MOET_MAX_CHOICES];
    bool weighted;
} token_rows;

static token_rows token_rows_of(const moet_problem *problem, const moet_ffn_permutation *permutation, int32_t token)
{
    token_rows of = {.weighted = problem->prob == MOET_PROB_COMBINE};
    const int32_t *rowmap = permutation->rowmap + (int64_t)token * problem->experts;
    for (int32_t e = 0; e < problem->experts; e++) {
        if (rowmap[e] >= 0) of.rows[of.count++] = rowmap[e];
    }
    if (problem->combine == MOET_COMBINE_PADDLE && of.count == 1) of.weighted = false;
    return of;
}

void moet_reference_combine(const moet_problem *problem, const moet_ffn_permutation *permutation,
                            const moet_ffn_args *args, const uint16_t *rows)
{
    int64_t H = problem->hidden;
    for (int32_t t = 0; t < args->tokens; t++) {
        token_rows of = token_rows_of(problem, permutation, t);
        uint16_t *out = (uint16_t *)args->out + t * stride_of(args->out_stride, H);
        for (int64_t h = 0; h < H; h++) {
            float sum = 0;
            for (int32_t i = 0; i < of.count; i++) {
                float value = moet_bf16_to_float(rows[of.rows[i] * H + h]);
                sum = of.weighted ? fmaf(value, permutation->prob[of.rows[i]], sum) : sum + value;
            }
            bool copied = of.count == 1 && !of.weighted;
            out[h] = copied ? rows[of.rows[0] * H + h] : moet_bf16_from_float(sum);
        }
    }
}

/* ---- the whole path ---- */

moet_status moet_reference_ffn_train(const moet_problem *problem, int32_t choices, const moet_ffn_args *args)
{
    moet_ffn_permutation *permutation = NULL;
    uint16_t *wide = NULL, *act = NULL, *rows = NULL; /* [M, 2I], [M, I], [M, H]: x permuted, then the down GEMM's */
    moet_status status;
    MOET_TRY(args_check(problem, choices, args));
    if (args->tokens > 0) {
        MOET_TRY(pointer_check("out", args->out, true));
        MOET_TRY(stride_check("out_stride", args->out_stride, problem->hidden));
    }
    if ((status = moet_ffn_permutation_create(problem, choices, args, &permutation)) != MOET_OK) goto done;
    int64_t M = permutation->rows, H = problem->hidden, I = problem->inter;
    wide = array_create(M * 2 * I, sizeof *wide);
    act = array_create(M * I, sizeof *act);
    rows = array_create(M * H, sizeof *rows);
    if (!wide || !act || !rows) {
        status = no_memory();
        goto done;
    }
    for (int64_t m = 0; m < M; m++) {
        const uint16_t *x = x_row(problem, args, permutation->source[m]);
        for (int64_t h = 0; h < H; h++) rows[m * H + h] = x[h];
    }
    moet_problem up = stage_problem(problem, MOET_OP_UP), down = stage_problem(problem, MOET_OP_DOWN);
    moet_reference_gemm_train(&up, rows, args->up, args->up_bias, permutation->counts, wide);
    for (int64_t m = 0; m < M; m++)
        moet_reference_activate_row(problem, wide + m * 2 * I, permutation->prob[m], act + m * I);
    moet_reference_gemm_train(&down, act, args->down, args->down_bias, permutation->counts, rows);
    moet_reference_combine(problem, permutation, args, rows);
done:
    free(wide);
    free(act);
    free(rows);
    moet_ffn_permutation_destroy(permutation);
    return status;
}

/* ---- the path in double, and the bound ----
 *
 * A forward error analysis (Higham, Accuracy and Stability, chapters 1 and 3) of value +- error, stage by stage. u8 =
 * 2^-8 is BF16's unit roundoff, gamma(K) that of K FP32 additions (reference.h), t = 2^-126 more than underflow adds.
 *
 * - Rounding to BF16:  e -> (1 + u8) e + u8 |v| + t
 * - Up GEMM:  e = gamma(H) sum |x w|, then rounded in TRAIN, not in FAST.
 * - Activation:  f = h(g) w, h(g) = g / (1 + exp(-a g)), w = u or u + 1. eg and eu are the errors of g and u after the
 *   clamps, which are monotonic and so carry an interval's ends to its ends. |h'| <= L = max of silu' = 1.09984 for
 *   every a, hence  carried = L eg (|w| + eu) + |h| eu.
 *   FP32 evaluation: expf within 2 ulp (CUDA C++ Programming Guide, mathematical functions), and at most 6 more
 *   roundings of 2^-24 up to prob: 10 * 2^-24 < 2^-20 of |f| + carried. The rounding of a g moves sigmoid by
 *   |x sigmoid'(x)| 2^-24 < 2^-26, g w times that. expf overflows below -88.7, where h is taken for 0 and is less than
 *   2^-121. e = |prob| times all of that, then rounded.
 * - Down GEMM:  e = min(sum e_i |d_i|, 8 sqrt(sum (e_i d_i)^2)) + gamma(I) (sum (|a_i| + e_i) |d_i| + |b|), then
 *   rounded. The first term of min holds always, and grows as I where errors grow as sqrt(I): at an I of thousands a
 *   lost bias would pass. The second is Hoeffding's inequality for errors of mean 0 that are independent between
 *   columns of the up GEMM: it fails with a probability of 2 exp(-8^2 / 2) < 3e-14 a result. The model is that of
 *   Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019.
 * - Combine:  e = sum |q| e_j + gamma(n) sum |q| (|y_j| + e_j), then rounded. A row that is copied keeps its e. */

static const double silu_slope = 1.0998393194, bf16_unit = 0x1p-8, underflow = 0x1p-126, hoeffding = 8;

typedef struct estimate {
    double value, error;
} estimate;

static estimate rounded(estimate v)
{
    return (estimate){v.value, (1 + bf16_unit) * v.error + bf16_unit * fabs(v.value) + underflow};
}

static estimate activation_estimate(const moet_problem *problem, estimate gate, estimate up, double prob)
{
    bool gpt_oss = problem->activation == MOET_ACTIVATION_GPT_OSS;
    double limit = clamp_limit(problem), g = gate_clamp(gate.value, limit), u = up_clamp(up.value, limit);
    double g_error =
        fmax(gate_clamp(gate.value + gate.error, limit) - g, g - gate_clamp(gate.value - gate.error, limit));
    double u_error = fmax(up_clamp(up.value + up.error, limit) - u, u - up_clamp(up.value - up.error, limit));
    double h = fabs(g / (1 + exp(-(gpt_oss ? gpt_oss_alpha : 1) * g))), w = fabs(gpt_oss ? u + 1 : u);
    double carried = silu_slope * g_error * (w + u_error) + h * u_error;
    double error = carried + 0x1p-20 * (h * w + carried) + 0x1p-121 * (w + u_error);
    if (gpt_oss) error += 0x1p-26 * (fabs(g) + g_error) * (w + u_error);
    double scale = problem->prob == MOET_PROB_ADVANCE ? fabs(prob) : 1;
    estimate result = {moet_reference_activate_double(problem, gate.value, up.value, prob),
                       scale * (error + underflow)};
    return rounded(result);
}

/* One row through both GEMMs: act [I] is room, y [H] the result. */
static void row_estimate(const moet_problem *problem, const moet_ffn_args *args, int32_t expert, const uint16_t *x,
                         double prob, estimate *act, estimate *y)
{
    moet_problem up = stage_problem(problem, MOET_OP_UP);
    int64_t H = problem->hidden, I = problem->inter;
    for (int32_t i = 0; i < I; i++) {
        estimate half[2];
        for (int32_t j = 0; j < 2; j++) {
            double magnitude;
            half[j].value =
                moet_reference_element(&up, x, args->up, args->up_bias, expert, 0, (int32_t)(j * I) + i, &magnitude);
            half[j].error = moet_reference_gamma(problem->hidden) * magnitude + underflow;
            if (problem->numerics == MOET_NUMERICS_TRAIN) half[j] = rounded(half[j]);
        }
        act[i] = activation_estimate(problem, half[0], half[1], prob);
    }
    const uint16_t *w = (const uint16_t *)args->down + expert * H * I;
    bool nk = problem->layout == MOET_LAYOUT_NK;
    for (int64_t h = 0; h < H; h++) {
        double sum = 0, linear = 0, squares = 0, magnitude = 0;
        for (int64_t i = 0; i < I; i++) {
            double d = (double)moet_bf16_to_float(nk ? w[h * I + i] : w[i * H + h]), error = act[i].error * fabs(d);
            sum += act[i].value * d;
            linear += error;
            squares += error * error;
            magnitude += fabs(act[i].value * d) + error;
        }
        if (problem->down_bias) {
            double bias = (double)moet_bf16_to_float(((const uint16_t *)args->down_bias)[expert * H + h]);
            sum += bias;
            magnitude += fabs(bias);
        }
        double error =
            fmin(linear, hoeffding * sqrt(squares)) + moet_reference_gamma(problem->inter) * magnitude + underflow;
        y[h] = rounded((estimate){sum, error});
    }
}

static estimate combine_estimate(const moet_problem *problem, const moet_ffn_permutation *permutation,
                                 const token_rows *of, const estimate *y, int64_t h)
{
    estimate sum = {0, 0};
    double magnitude = 0;
    for (int32_t i = 0; i < of->count; i++) {
        double q = of->weighted ? (double)permutation->prob[of->rows[i]] : 1;
        estimate row = y[of->rows[i] * (int64_t)problem->hidden + h];
        sum.value += q * row.value;
        sum.error += fabs(q) * row.error;
        magnitude += fabs(q) * (fabs(row.value) + row.error);
    }
    if (of->count == 0 || (of->count == 1 && !of->weighted)) return sum;
    sum.error += moet_reference_gamma(of->count) * magnitude + underflow;
    return rounded(sum);
}

moet_status moet_reference_ffn_double(const moet_problem *problem, int32_t choices, const moet_ffn_args *args,
                                      double *out, double *bound)
{
    moet_ffn_permutation *permutation = NULL;
    estimate *act = NULL, *y = NULL; /* [I], [M, H] */
    moet_status status;
    MOET_TRY(args_check(problem, choices, args));
    if ((status = moet_ffn_permutation_create(problem, choices, args, &permutation)) != MOET_OK) goto done;
    int64_t H = problem->hidden, row = 0;
    act = array_create(problem->inter, sizeof *act);
    y = array_create(permutation->rows * H, sizeof *y);
    if (!act || !y) {
        status = no_memory();
        goto done;
    }
    for (int32_t e = 0; e < problem->experts; e++) {
        for (int32_t i = 0; i < permutation->counts[e]; i++, row++)
            row_estimate(problem, args, e, x_row(problem, args, permutation->source[row]),
                         (double)permutation->prob[row], act, y + row * H);
    }
    for (int32_t t = 0; t < args->tokens; t++) {
        token_rows of = token_rows_of(problem, permutation, t);
        for (int64_t h = 0; h < H; h++) {
            estimate z = combine_estimate(problem, permutation, &of, y, h);
            out[t * H + h] = z.value;
            bound[t * H + h] = z.error;
        }
    }
done:
    free(act);
    free(y);
    moet_ffn_permutation_destroy(permutation);
    return status;
}
