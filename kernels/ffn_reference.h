/* ffn_reference: the whole expert path of one rank, from received rows to combined output, in plain C. It says what
 * every implementation of the path must compute, and how far a correct one may be from exact arithmetic. docs/ffn.md
 * tells it in words. */
#ifndef MOET_FFN_REFERENCE_H
#define MOET_FFN_REFERENCE_H

#include "../src/moet.h"

#define MOET_FFN_MAX_CHOICES 16

/* Of gate g and up u, both FP32 out of one BF16 row of the up GEMM, gate half first; s(x) = 1 / (1 + expf(-x)):
 *   SWIGLU        g / (1 + expf(-g)) * u
 *   SWIGLU_CLAMP  the same of min(g, c) and min(max(u, -c), c)
 *   GPT_OSS       g * s(1.702 g) * (u + 1) of g and u clamped like that at 7
 * evaluated left to right in FP32 without contraction, then times prob where it is applied in advance, then rounded
 * once to BF16. NaN stays NaN through the clamps. */
typedef enum moet_ffn_activation {
    MOET_FFN_SWIGLU,
    MOET_FFN_SWIGLU_CLAMP,
    MOET_FFN_GPT_OSS,
    MOET_FFN_ACTIVATION_COUNT
} moet_ffn_activation;

/* Where a row is multiplied by its router weight. */
typedef enum moet_ffn_prob {
    MOET_FFN_PROB_NONE,       /* nowhere: the caller weights, or weights are 1 */
    MOET_FFN_PROB_IN_ADVANCE, /* in the activation: a bias of the down GEMM is then not weighted */
    MOET_FFN_PROB_AT_COMBINE, /* in the sum over a token's experts */
    MOET_FFN_PROB_COUNT
} moet_ffn_prob;

/* EXACT: what the formula says. PADDLE: with AT_COMBINE, a token with exactly one local expert gets that expert's row
 * unweighted, as Paddle's moe_unpermute does; no difference elsewhere. */
typedef enum moet_ffn_combine {
    MOET_FFN_COMBINE_EXACT,
    MOET_FFN_COMBINE_PADDLE,
    MOET_FFN_COMBINE_COUNT
} moet_ffn_combine;

typedef struct moet_ffn_shape {
    int32_t tokens;  /* R, 0 to MOET_MAX_ROWS */
    int32_t choices; /* k, 1 to MOET_FFN_MAX_CHOICES */
    int32_t experts; /* E, local, 1 to MOET_MAX_EXPERTS */
    int32_t hidden;  /* H */
    int32_t inter;   /* I */
    moet_layout layout;
    moet_ffn_activation activation;
    float clamp; /* c > 0 of SWIGLU_CLAMP */
    moet_ffn_prob prob;
    moet_ffn_combine combine;
    bool up_bias;   /* BF16 [E, 2I] and [E, H], added in FP32 before the GEMM's rounding */
    bool down_bias; /* */
} moet_ffn_shape;

/* Strides are in elements from one token to the next, at least the row's width; a row's elements are adjacent. */
typedef struct moet_ffn_inputs {
    const uint16_t *x; /* [R, H] BF16 */
    int64_t x_stride;
    const void *ids; /* [R, k] int32 or int64: local expert, -1 where the choice is not local */
    bool ids_int64;
    int64_t ids_stride;
    const float *weights; /* [R, k] router weights; may be NULL with PROB_NONE */
    int64_t weights_stride;
    const uint16_t *up;        /* [E, 2I, H] (nk) or [E, H, 2I] (kn) BF16 */
    const uint16_t *up_bias;   /* [E, 2I], or NULL where the shape has none */
    const uint16_t *down;      /* [E, H, I] (nk) or [E, I, H] (kn) BF16 */
    const uint16_t *down_bias; /* [E, H], or NULL where the shape has none */
} moet_ffn_inputs;

/* INVALID, with the field and its bound, unless the shape is one that can be computed. */
moet_status moet_ffn_shape_validate(const moet_ffn_shape *shape);

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

/* Reads ids and weights of the inputs, nothing else. INVALID for an id below -1 or of E and more (naming token and
 * choice), for a token that chooses one expert twice (rowmap has one row for the pair; adding the weights would be a
 * guess), and for more than MOET_MAX_ROWS rows. The caller destroys it. */
moet_status moet_ffn_permutation_create(const moet_ffn_shape *shape, const moet_ffn_inputs *inputs,
                                        moet_ffn_permutation **permutation);
void moet_ffn_permutation_destroy(moet_ffn_permutation *permutation);

/* ---- the stages --------------------------------------------------------------------------------------------- */

/* Grouped GEMM in BF16 with one FP32 accumulation over ascending k that starts at 0, the bias added last, one rounding.
 * A plain loop: a bit class of its own, which no tensor core gives. out [M, N]. */
void moet_reference_gemm_train(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                               const int32_t *counts, uint16_t *out);

/* The activation of one gate and up value before its rounding, in FP32 with this machine's expf (which may differ from
 * a GPU's in the last bit) and in double. prob is used with PROB_IN_ADVANCE only. */
float moet_reference_activate(const moet_ffn_shape *shape, float gate, float up, float prob);
double moet_reference_activate_double(const moet_ffn_shape *shape, double gate, double up, double prob);

/* One row: up [2I] BF16 to out [I] BF16. */
void moet_reference_activate_row(const moet_ffn_shape *shape, const uint16_t *up, float prob, uint16_t *out);

/* rows [M, H] BF16 to out [R, H] BF16. A token's rows are summed in FP32 from +0 over ascending experts, weighted ones
 * by fmaf(row, prob, sum), as Paddle's kernel does, and rounded once. A single unweighted row is copied (a sum would
 * turn -0 into +0), no row gives +0. */
void moet_reference_combine(const moet_ffn_shape *shape, const moet_ffn_permutation *permutation, const uint16_t *rows,
                            uint16_t *out);

/* ---- the whole path ------------------------------------------------------------------------------------------ */

/* permute, moet_reference_gemm_train, activation, moet_reference_gemm_train, combine. out [R, H] BF16. For semantics
 * and for error: the bits of `train` on a device come from that device's own GEMM with the other stages as above. */
moet_status moet_reference_ffn_train(const moet_ffn_shape *shape, const moet_ffn_inputs *inputs, uint16_t *out);

/* out [R, H]: the path in double, nothing rounded. bound [R, H]: how far a correct BF16 result may be from it where
 * nothing overflows. TRAIN: the GEMMs' results and the activation are rounded to BF16. FAST: the up GEMM's result stays
 * FP32 through the activation, the rest is as in TRAIN or kept in FP32; a path that rounds the up result has TRAIN's
 * error. The formula is derived in ffn_reference.c. */
moet_status moet_reference_ffn_double(const moet_ffn_shape *shape, const moet_ffn_inputs *inputs,
                                      moet_numerics numerics, double *out, double *bound);

#endif
