/* ops: device work that is no kernel family: random inputs, the independent reference GEMM, comparison, and the copy
 * and read kernels of the ceilings. One implementation a backend (ops_host.c, ops_cuda.c with ops.cu) behind one
 * table; everything is asynchronous on `stream` and capturable unless said otherwise. */
#ifndef MOET_OPS_H
#define MOET_OPS_H

#include "../src/device.h"

typedef struct moet_ops moet_ops;

/* Compiles what the backend needs (ops.cu by NVRTC on CUDA). The device outlives the ops. */
moet_status moet_ops_create(moet_device *device, moet_ops **ops);
void moet_ops_destroy(moet_ops *ops);

/* What moet_ops_compare found. */
typedef struct moet_comparison {
    double error;        /* largest |out - ref| / bound; infinite where out is no number */
    int64_t wrong;       /* elements with error > 1, NaN included */
    int64_t first_wrong; /* index of the lowest wrong element, -1 if none */
    uint64_t bits_hash;  /* sum over elements of a hash of (index, bits): equal bits give equal hashes on any device */
} moet_comparison;

/* bf16[count] = scale * normal deviates from a counter-based generator (seed, index): equal on every device up to
 * libm. */
moet_status moet_ops_random(moet_ops *ops, void *bf16, int64_t count, uint64_t seed, float scale, void *stream);

/* x of several scales, for telling orders of summation apart. to[rows, K] = from[rows, K] times powers of two (exact):
 * of rows 5 i + 1 all by 2^6, of 5 i + 2 by 2^-6, of 5 i + 3 each element by its own, 2^-6 to 2^6, of 5 i the same, and
 * their second half of K repeats the first; rows 5 i + 4 stay. Apart from each other; K even. */
moet_status moet_ops_spread(moet_ops *ops, void *to, const void *from, int64_t rows, int32_t k, uint64_t seed,
                            void *stream);
/* Of every eighth column (7, 15, ...) of a GEMM's w the second half of K becomes the negative of the first: its products
 * with rows whose halves are alike cancel, and rounding is all that is left. K even. */
moet_status moet_ops_mirror(moet_ops *ops, const moet_problem *problem, void *w, void *stream);

/* Independent reference on the device (no tensor cores, no shared code with a family): reference[M,N] fp32 =
 * ascending-k fp32 FMA chain plus bias, not rounded; magnitude[M,N] fp32 = sum |x w| + |bias|. counts on the device. */
moet_status moet_ops_reference_gemm(moet_ops *ops, const moet_problem *problem, const void *x, const void *w,
                                    const void *bias, const int32_t *device_counts, int64_t rows, float *reference,
                                    float *magnitude, void *stream);

/* Compares bf16 out[count] with reference by moet_reference_bound (whose gamma leaves room for the fp32 reference's
 * own rounding). Synchronises; not capturable. */
moet_status moet_ops_compare(moet_ops *ops, const void *out, const float *reference, const float *magnitude,
                             int64_t count, int32_t k, void *stream, moet_comparison *result);

/* gathered[i, K] = expert's weights for column columns[i], whatever the layout. All pointers are device memory. */
moet_status moet_ops_gather(moet_ops *ops, const moet_problem *problem, const void *w, int32_t expert,
                            const int32_t *columns, int32_t column_count, void *gathered, void *stream);

/* to[i] = from[i]; read reads everything of `from` into partial sums in `sink`, MOET_OPS_SINK_BYTES of device memory.
 * Sizes are multiples of 16 bytes. */
#define MOET_OPS_SINK_BYTES 65536
moet_status moet_ops_copy(moet_ops *ops, void *to, const void *from, size_t size_bytes, void *stream);
moet_status moet_ops_read(moet_ops *ops, void *sink, const void *from, size_t size_bytes, void *stream);

/* Nothing, for that many cycles of one SM, which does not heat the others. The host has none to count: it returns. */
moet_status moet_ops_spin(moet_ops *ops, int64_t cycles, void *stream);

#endif
