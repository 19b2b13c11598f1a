#include "reference.h"

#include <math.h>
#include <string.h>

float moet_bf16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t moet_bf16_from_float(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if (value != value) return (uint16_t)(wide >> 16 | 0x40); /* quiet: truncation alone could make an infinity */
    return (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

double moet_reference_element(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                              int32_t expert, int64_t row, int32_t n, double *magnitude)
{
    int64_t N = moet_problem_n(problem), K = moet_problem_k(problem);
    const uint16_t *a = x + row * K;
    const uint16_t *b = w + expert * N * K + (problem->layout == MOET_LAYOUT_NK ? n * K : n);
    int64_t step = problem->layout == MOET_LAYOUT_NK ? 1 : N;
    double sum = 0, size = 0;
    for (int64_t k = 0; k < K; k++) {
        double product = (double)moet_bf16_to_float(a[k]) * (double)moet_bf16_to_float(b[k * step]);
        sum += product;
        size += fabs(product);
    }
    if (problem->bias) {
        double value = (double)moet_bf16_to_float(bias[expert * N + n]);
        sum += value;
        size += fabs(value);
    }
    *magnitude = size;
    return sum;
}

double moet_reference_gamma(int32_t k)
{
    const double u = 0x1p-23;
    return fmin(k, 10 * sqrt(k)) * u / (1 - k * u);
}

double moet_reference_bound(int32_t k, double reference, double magnitude)
{
    return 0x1p-8 * fabs(reference) + (1 + 0x1p-8) * moet_reference_gamma(k) * magnitude;
}

/* Rounds once: going through float first could round twice. Round to odd at float precision keeps what the second
 * rounding needs to know. */
static uint16_t bf16_from_double(double value)
{
    float near = (float)value;
    if (isfinite(near) && (double)near != value) {
        uint32_t bits;
        if (fabs((double)near) > fabs(value)) near = nextafterf(near, 0.0f); /* truncated */
        memcpy(&bits, &near, sizeof bits);
        bits |= 1;
        memcpy(&near, &bits, sizeof near);
    }
    return moet_bf16_from_float(near);
}

void moet_reference_gemm(const moet_problem *problem, const uint16_t *x, const uint16_t *w, const uint16_t *bias,
                         const int32_t *counts, uint16_t *out)
{
    int32_t N = moet_problem_n(problem);
    int64_t row = 0;
    for (int32_t e = 0; e < problem->experts; e++) {
        for (int32_t i = 0; i < counts[e]; i++, row++) {
            for (int32_t n = 0; n < N; n++) {
                double magnitude;
                out[row * N + n] = bf16_from_double(moet_reference_element(problem, x, w, bias, e, row, n, &magnitude));
            }
        }
    }
}
