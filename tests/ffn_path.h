/* ffn_path: an expert path with its arrays, for the tests of its reference. */
#ifndef MOET_FFN_PATH_H
#define MOET_FFN_PATH_H

#include "../kernels/ffn_reference.h"
#include "../kernels/reference.h"
#include "test.h"

/* A path with its own arrays; `given` points to them. */
typedef struct ffn_path {
    moet_problem problem;
    int32_t choices;
    moet_ffn_args given;
    uint16_t *x, *up, *up_bias, *down, *down_bias, *out;
    int32_t *ids;
    float *weights;
    int64_t elements; /* of out */
} ffn_path;

static inline uint16_t bf16(float value) { return moet_bf16_from_float(value); }

/* Arrays of zeros for `tokens` tokens. The problem's op is FFN, and its activation swiglu where it says none. */
void ffn_path_make(ffn_path *p, int32_t tokens, int32_t choices, moet_problem problem);
void ffn_path_free(ffn_path *p);

/* Like normal deviates times scale. */
void ffn_path_numbers(uint64_t *random, uint16_t *values, int64_t count, double scale);
/* Fills all arrays: choices are distinct experts or -1 in any order, some tokens have one local expert or none. */
void ffn_path_fill(uint64_t *random, ffn_path *p);
/* A small shape of any kind, filled. */
void ffn_path_random(uint64_t *random, ffn_path *p);

/* The path with the up result kept in FP32 into out [R, H]: what FAST allows. */
void ffn_path_fast(const ffn_path *p, uint16_t *out);

/* moet_reference_ffn_train into allocated memory. */
uint16_t *ffn_path_train(const moet_problem *problem, int32_t choices, const moet_ffn_args *given);

#endif
