/* reference: what every family must compute, in plain C and double precision, and the bound on how far a correct
 * BF16 result with fp32 accumulation may be from it. */
#ifndef MOET_REFERENCE_H
#define MOET_REFERENCE_H

#include "../src/moet.h"

/* BF16 bits <-> float; from_float rounds to nearest even, NaN stays NaN. */
float moet_bf16_to_float(uint16_t bits);
uint16_t moet_bf16_from_float(float value);

/* One output element in double: sum over k of x[row, k] * w[expert, n, k] + bias[expert, n], not rounded, and
 * *magnitude = sum of |x w| + |bias|. Host pointers, BF16; `row` counts over all experts. */
double moet_reference_element(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                              int32_t expert, int64_t row, int32_t n, double *magnitude);

/* gamma: the accumulated rounding of K fp32 additions as a fraction of the magnitude,
 *   gamma(K) = min(K, 10 sqrt(K)) * u / (1 - K u).
 * K u / (1 - K u) holds for any inputs and any order of additions (Higham, Accuracy and Stability, 3.1), but at K of
 * thousands it would let a lost product pass. 10 sqrt(K) holds for the random inputs that are checked here with a
 * probability of failure below 1e-9 a result (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4 with
 * lambda = 10). u = 2^-23, twice fp32's unit roundoff, because tensor cores truncate their sums. */
double moet_reference_gamma(int32_t k);

/* Bound on |out - ref| for one rounding to BF16 of such a sum:
 *   2^-8 |ref| + (1 + 2^-8) gamma(K) * magnitude. */
double moet_reference_bound(int32_t k, double reference, double magnitude);

/* The whole grouped GEMM in double on the host, rounded once to BF16: for small shapes. out [M, N]. */
void moet_reference_gemm(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                         const int32_t *counts, uint16_t *out);

#endif
