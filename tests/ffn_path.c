#include "ffn_path.h"

#include <math.h>

void ffn_path_make(ffn_path *p, int32_t tokens, int32_t choices, moet_problem problem)
{
    size_t R = (size_t)tokens, k = (size_t)choices, E = (size_t)problem.experts, H = (size_t)problem.hidden,
           I = (size_t)problem.inter;
    problem.op = MOET_OP_FFN;
    if (problem.activation == MOET_ACTIVATION_NONE) problem.activation = MOET_ACTIVATION_SWIGLU;
    *p = (ffn_path){.problem = problem, .choices = choices, .elements = (int64_t)(R * H)};
    p->x = test_allocate(R * H * sizeof *p->x);
    p->up = test_allocate(E * 2 * I * H * sizeof *p->up);
    p->up_bias = test_allocate(E * 2 * I * sizeof *p->up_bias);
    p->down = test_allocate(E * H * I * sizeof *p->down);
    p->down_bias = test_allocate(E * H * sizeof *p->down_bias);
    p->out = test_allocate(R * H * sizeof *p->out);
    p->ids = test_allocate(R * k * sizeof *p->ids);
    p->weights = test_allocate(R * k * sizeof *p->weights);
    p->given = (moet_ffn_args){.x = p->x,
                               .x_stride = (int64_t)H,
                               .ids = p->ids,
                               .ids_stride = (int64_t)k,
                               .weights = p->weights,
                               .weights_stride = (int64_t)k,
                               .up = p->up,
                               .up_bias = p->up_bias,
                               .down = p->down,
                               .down_bias = p->down_bias,
                               .out = p->out,
                               .out_stride = (int64_t)H,
                               .tokens = tokens};
}

void ffn_path_free(ffn_path *p)
{
    free(p->x);
    free(p->up);
    free(p->up_bias);
    free(p->down);
    free(p->down_bias);
    free(p->out);
    free(p->ids);
    free(p->weights);
}

uint16_t *ffn_path_train(const moet_problem *problem, int32_t choices, const moet_ffn_args *given)
{
    moet_ffn_args args = *given;
    uint16_t *out = test_allocate((size_t)given->tokens * (size_t)problem->hidden * sizeof *out);
    args.out = out;
    args.out_stride = 0;
    TEST_OK(moet_reference_ffn_train(problem, choices, &args));
    return out;
}

void ffn_path_fast(const ffn_path *p, uint16_t *out)
{
    const moet_problem *s = &p->problem;
    int64_t H = s->hidden, I = s->inter, row = 0;
    moet_problem up, down;
    moet_ffn_permutation *permutation;
    moet_ffn_args args = p->given;
    args.out = out;
    TEST_OK(moet_ffn_permutation_create(s, p->choices, &p->given, &permutation));
    moet_problem_init(&up, MOET_OP_UP, s->experts, s->hidden, s->inter);
    moet_problem_init(&down, MOET_OP_DOWN, s->experts, s->hidden, s->inter);
    up.layout = down.layout = s->layout;
    up.bias = s->bias;
    down.bias = s->down_bias;
    uint16_t *act = test_allocate((size_t)(permutation->rows * I) * sizeof *act);
    uint16_t *rows = test_allocate((size_t)(permutation->rows * H) * sizeof *rows);
    for (int32_t e = 0; e < s->experts; e++) {
        for (int32_t r = 0; r < permutation->counts[e]; r++, row++) {
            const uint16_t *x = p->x + permutation->source[row] * H;
            for (int32_t i = 0; i < I; i++) {
                double size;
                float g = (float)moet_reference_element(&up, x, p->up, p->up_bias, e, 0, i, &size);
                float u = (float)moet_reference_element(&up, x, p->up, p->up_bias, e, 0, (int32_t)I + i, &size);
                act[row * I + i] = bf16(moet_reference_activate(s, g, u, permutation->prob[row]));
            }
        }
    }
    moet_reference_gemm_train(&down, act, p->down, p->down_bias, permutation->counts, rows);
    moet_reference_combine(s, permutation, &args, rows);
    free(act);
    free(rows);
    moet_ffn_permutation_destroy(permutation);
}

void ffn_path_numbers(uint64_t *random, uint16_t *values, int64_t count, double scale)
{
    for (int64_t i = 0; i < count; i++) values[i] = bf16((float)((double)test_normal(random) * scale));
}

void ffn_path_fill(uint64_t *random, ffn_path *p)
{
    const moet_problem *s = &p->problem;
    int64_t E = s->experts, H = s->hidden, I = s->inter;
    ffn_path_numbers(random, p->x, p->elements, 1);
    ffn_path_numbers(random, p->up, E * 2 * I * H, 2 / sqrt((double)H));
    ffn_path_numbers(random, p->down, E * H * I, 1 / sqrt((double)I));
    ffn_path_numbers(random, p->up_bias, E * 2 * I, 1);
    ffn_path_numbers(random, p->down_bias, E * H, 1);
    for (int32_t t = 0; t < p->given.tokens; t++) {
        bool taken[MOET_MAX_EXPERTS] = {false};
        int64_t local = test_between(random, 0, 3); /* 0: a token without local experts */
        for (int32_t c = 0; c < p->choices; c++) {
            int64_t id = test_between(random, 0, E - 1);
            bool here = !taken[id] && (local == 1 ? c == p->choices - 1 : local > 1 && test_between(random, 0, 2) > 0);
            p->ids[t * p->choices + c] = here ? (int32_t)id : -1;
            p->weights[t * p->choices + c] = (float)test_between(random, 1, 1 << 20) / (1 << 20);
            taken[id] = taken[id] || here;
        }
    }
}

void ffn_path_random(uint64_t *random, ffn_path *p)
{
    int32_t tokens = (int32_t)test_between(random, 1, 9), choices = (int32_t)test_between(random, 1, 16);
    moet_problem problem = {.experts = (int32_t)test_between(random, 1, 20),
                            .hidden = (int32_t)test_between(random, 1, 40),
                            .inter = (int32_t)test_between(random, 1, 40),
                            .layout = (moet_layout)test_between(random, 0, 1),
                            .activation = (moet_activation)test_between(random, 1, 3),
                            .clamp = 1.25,
                            .prob = (moet_prob)test_between(random, 0, 2),
                            .combine = (moet_combine)test_between(random, 0, 1),
                            .bias = test_between(random, 0, 1),
                            .down_bias = test_between(random, 0, 1)};
    ffn_path_make(p, tokens, choices, problem);
    ffn_path_fill(random, p);
}
