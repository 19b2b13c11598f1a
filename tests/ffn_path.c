#include "ffn_path.h"

#include <math.h>

void ffn_path_make(ffn_path *p, moet_ffn_shape shape)
{
    size_t R = (size_t)shape.tokens, k = (size_t)shape.choices, E = (size_t)shape.experts, H = (size_t)shape.hidden,
           I = (size_t)shape.inter;
    *p = (ffn_path){.shape = shape, .elements = (int64_t)(R * H)};
    p->x = test_allocate(R * H * sizeof *p->x);
    p->up = test_allocate(E * 2 * I * H * sizeof *p->up);
    p->up_bias = test_allocate(E * 2 * I * sizeof *p->up_bias);
    p->down = test_allocate(E * H * I * sizeof *p->down);
    p->down_bias = test_allocate(E * H * sizeof *p->down_bias);
    p->out = test_allocate(R * H * sizeof *p->out);
    p->ids = test_allocate(R * k * sizeof *p->ids);
    p->weights = test_allocate(R * k * sizeof *p->weights);
    p->given = (moet_ffn_inputs){p->x,       (int64_t)H, p->ids,     false,   (int64_t)k,  p->weights,
                                 (int64_t)k, p->up,      p->up_bias, p->down, p->down_bias};
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

uint16_t *ffn_path_train(const moet_ffn_shape *shape, const moet_ffn_inputs *given)
{
    uint16_t *out = test_allocate((size_t)shape->tokens * (size_t)shape->hidden * sizeof *out);
    TEST_OK(moet_reference_ffn_train(shape, given, out));
    return out;
}

void ffn_path_numbers(uint64_t *random, uint16_t *values, int64_t count, double scale)
{
    for (int64_t i = 0; i < count; i++) values[i] = bf16((float)((double)test_normal(random) * scale));
}

void ffn_path_fill(uint64_t *random, ffn_path *p)
{
    const moet_ffn_shape *s = &p->shape;
    int64_t E = s->experts, H = s->hidden, I = s->inter;
    ffn_path_numbers(random, p->x, p->elements, 1);
    ffn_path_numbers(random, p->up, E * 2 * I * H, 2 / sqrt((double)H));
    ffn_path_numbers(random, p->down, E * H * I, 1 / sqrt((double)I));
    ffn_path_numbers(random, p->up_bias, E * 2 * I, 1);
    ffn_path_numbers(random, p->down_bias, E * H, 1);
    for (int32_t t = 0; t < s->tokens; t++) {
        bool taken[64] = {false};
        int64_t local = test_between(random, 0, 3); /* 0: a token without local experts */
        for (int32_t c = 0; c < s->choices; c++) {
            int64_t id = test_between(random, 0, E - 1);
            bool here = !taken[id] && (local == 1 ? c == s->choices - 1 : local > 1 && test_between(random, 0, 2) > 0);
            p->ids[t * s->choices + c] = here ? (int32_t)id : -1;
            p->weights[t * s->choices + c] = (float)test_between(random, 1, 1 << 20) / (1 << 20);
            taken[id] = taken[id] || here;
        }
    }
}

void ffn_path_random(uint64_t *random, ffn_path *p)
{
    moet_ffn_shape s = {.tokens = (int32_t)test_between(random, 1, 9),
                        .choices = (int32_t)test_between(random, 1, 16),
                        .experts = (int32_t)test_between(random, 1, 20),
                        .hidden = (int32_t)test_between(random, 1, 40),
                        .inter = (int32_t)test_between(random, 1, 40),
                        .layout = (moet_layout)test_between(random, 0, 1),
                        .activation = (moet_ffn_activation)test_between(random, 0, 2),
                        .clamp = 1.25f,
                        .prob = (moet_ffn_prob)test_between(random, 0, 2),
                        .combine = (moet_ffn_combine)test_between(random, 0, 1),
                        .up_bias = test_between(random, 0, 1),
                        .down_bias = test_between(random, 0, 1)};
    ffn_path_make(p, s);
    ffn_path_fill(random, p);
}
