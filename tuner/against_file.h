/* against_file: a trainer's dump, read and checked: the problem that its shapes and the command line say, and arrays
 * that fit it. Errors name the file, the array, what it is and what it must be. */
#ifndef MOET_AGAINST_FILE_H
#define MOET_AGAINST_FILE_H

#include "../kernels/ffn_reference.h"
#include "against.h"
#include "npz.h"

/* GEMM: x, w, counts, bias, out. FFN: x, ids, weights, up, up_bias, down, down_bias, out. */
typedef enum moet_dump_index {
    MOET_DUMP_X,
    MOET_DUMP_OUT,
    MOET_DUMP_W,
    MOET_DUMP_COUNTS,
    MOET_DUMP_BIAS,
    MOET_DUMP_IDS,
    MOET_DUMP_WEIGHTS,
    MOET_DUMP_UP,
    MOET_DUMP_UP_BIAS,
    MOET_DUMP_DOWN,
    MOET_DUMP_DOWN_BIAS,
    MOET_DUMP_ARRAYS
} moet_dump_index;

typedef struct moet_dump {
    moet_problem problem;
    moet_array arrays[MOET_DUMP_ARRAYS]; /* data is NULL where the file has none, or none is wanted */
    int32_t *counts;                     /* [E] rows of each expert; owned */
    int64_t rows;                        /* their sum */
    int64_t out_rows;                    /* of x and out: rows, op ffn tokens */
    int32_t choices;                     /* op ffn: k */
    moet_ffn_permutation *permutation;   /* op ffn; owned */
} moet_dump;

moet_status moet_dump_read(const moet_against_options *options, moet_dump *dump);
/* A zeroed one is fine. */
void moet_dump_release(moet_dump *dump);

#endif
