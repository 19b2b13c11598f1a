/* ffn_reference: the whole expert path of one rank, from received rows to combined output, in plain C. It says what
 * every implementation of the path must compute, and how far a correct one may be from exact arithmetic. docs/ffn.md
 * tells it in words. */
#ifndef MOET_FFN_REFERENCE_H
#define MOET_FFN_REFERENCE_H

#include "../src/moet.h"

/* A problem with op FFN, H and I of any size here. choices is k. Of args, all pointers are host memory, tokens is R;
 * device_tokens, counts and stream are not looked at. Strides are at least a row's width, 0 for dense rows. */

/* INVALID, with the field and its bound, unless it can be computed. */
moet_status moet_reference_ffn_validate(const moet_problem *problem, int32_t choices, int64_t tokens);

/* ---- permute ------------------------------------------------------------------------------------------------ */

/* The permuted matrix has one row for each (token, local expert): experts ascending, inside an expert tokens ascending,
 * no padding. Paddle's moe_permute with padding_alignment 1 gives the same rowmap. */
typedef struct moet_ffn_permutation {
    int64_t rows;    /* M */
    int32_t *counts; /* [E] rows of each expert */
    int32_t *rowmap; /* [R, E] the token's row of the permuted matrix, counted over all experts; -1 where it has none */
    int32_t *source; /* [M] token of each row */
    float *prob;     /* [M] router weight of each row; 1 where weights are NULL */
} moet_ffn_permutation;

/* Reads tokens, ids and weights of args, nothing else. INVALID for an id below -1 or of E and more (naming token and
 * choice), for a token that chooses one expert twice (rowmap has one row for the pair; adding the weights would be a
 * guess), and for more than MOET_MAX_ROWS rows. The caller destroys it. */
moet_status moet_ffn_permutation_create(const moet_problem *problem, int32_t choices, const moet_ffn_args *args,
                                        moet_ffn_permutation **permutation);
void moet_ffn_permutation_destroy(moet_ffn_permutation *permutation);

/* ---- the stages --------------------------------------------------------------------------------------------- */

/* Grouped GEMM in BF16 with one FP32 accumulation over ascending k that starts at 0, the bias added last, one rounding.
 * A plain loop: a bit class of its own, which no tensor core gives. out [M, N]. */
void moet_reference_gemm_train(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                               const int32_t *counts, uint16_t *out);

/* The activation of one gate and up value before its rounding, in FP32 with this machine's expf (which may differ from
 * a GPU's in the last bit) and in double. prob is used with MOET_PROB_ADVANCE only. */
float moet_reference_activate(const moet_problem *problem, float gate, float up, float prob);
double moet_reference_activate_double(const moet_problem *problem, double gate, double up, double prob);

/* One row: up [2I] BF16 to out [I] BF16. */
void moet_reference_activate_row(const moet_problem *problem, const uint16_t *up, float prob, uint16_t *out);

/* rows [M, H] BF16 to args->out: a token's rows are summed in FP32 from +0 over ascending experts, weighted ones by
 * fmaf(row, prob, sum), as Paddle's kernel does, and rounded once. A single unweighted row is copied (a sum would turn
 * -0 into +0), no row gives +0. Reads tokens, out and out_stride of args. */
void moet_reference_combine(const moet_problem *problem, const moet_ffn_permutation *permutation,
                            const moet_ffn_args *args, const uint16_t *rows);

/* ---- the whole path ------------------------------------------------------------------------------------------ */

/* permute, moet_reference_gemm_train, activation, moet_reference_gemm_train, combine into args->out. For semantics and
 * for error: the bits of `train` on a device come from that device's own GEMM with the other stages as above. The
 * problem's numerics are not looked at. */
moet_status moet_reference_ffn_train(const moet_problem *problem, int32_t choices, const moet_ffn_args *args);

/* out [R, H]: the path in double, nothing rounded. bound [R, H]: how far a correct BF16 result may be from it where
 * nothing overflows, by the problem's numerics. TRAIN: the GEMMs' results and the activation are rounded to BF16. FAST:
 * the up GEMM's result stays FP32 through the activation, the rest is as in TRAIN or kept in FP32; a path that rounds
 * the up result has TRAIN's error. args->out is not looked at. The formula is derived in ffn_reference.c. */
moet_status moet_reference_ffn_double(const moet_problem *problem, int32_t choices, const moet_ffn_args *args,
                                      double *out, double *bound);

#endif
