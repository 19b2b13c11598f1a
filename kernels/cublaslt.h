/* cublaslt: what the families on cuBLASLt share: the library, bound at run time, and its algorithms.
 *
 * cuBLASLt thinks in column-major matrices, so a row-major out[m, N] = x[m, K] w is asked for as the transposed
 * product: D (N x m, ld N) = op(A) B,  B = x (K x m, ld K),  A = w: nk  K x N, ld K, transposed;  kn  N x K, ld N, as
 * it is. Tiles are cuBLASLt's, in its terms: columns of out x rows. */
#ifndef MOET_CUBLASLT_H
#define MOET_CUBLASLT_H

#include "cublaslt_facts.h"

#ifdef MOET_CUDA
#include <cublasLt.h>

#include "../src/cuda_api.h"

#define MOET_LT_FUNCTIONS(X)                                                                                           \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtDestroy)                                                                                                 \
    X(cublasLtGetVersion)                                                                                              \
    X(cublasLtGetStatusString)                                                                                         \
    X(cublasLtMatmul)                                                                                                  \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    X(cublasLtMatmulAlgoGetIds)                                                                                        \
    X(cublasLtMatmulAlgoInit)                                                                                          \
    X(cublasLtMatmulAlgoCheck)                                                                                         \
    X(cublasLtMatmulAlgoCapGetAttribute)                                                                               \
    X(cublasLtMatmulAlgoConfigGetAttribute)                                                                            \
    X(cublasLtMatmulAlgoConfigSetAttribute)                                                                            \
    X(cublasLtMatrixLayoutInit_internal)                                                                               \
    X(cublasLtMatrixLayoutSetAttribute)                                                                                \
    X(cublasLtMatmulDescInit_internal)                                                                                 \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatmulPreferenceInit_internal)                                                                           \
    X(cublasLtMatmulPreferenceSetAttribute)

/* ---- what newer libraries have and the oldest headers that this builds with have not ----
 *
 * Numbers and types as cublasLt.h of cuBLAS 13.10 declares them, and as the library of that version takes them: the
 * preference attributes are 8 bytes wide there, whatever the header says. The opaque structures have grown (layout 14
 * words, preference 12); both have room for more here. */
typedef cublasStatus_t (*moet_lt_grouped_layout_init)(cublasLtMatrixLayout_t layout, size_t size_bytes,
                                                      cudaDataType type, int group_count, const void *rows,
                                                      const void *columns, const void *ld);
#define MOET_LT_PREF_AVERAGE_K ((cublasLtMatmulPreferenceAttributes_t)13)
#define MOET_LT_PREF_AVERAGE_D_ROWS ((cublasLtMatmulPreferenceAttributes_t)14)
#define MOET_LT_PREF_AVERAGE_D_COLUMNS ((cublasLtMatmulPreferenceAttributes_t)15)
#define MOET_LT_CAP_GROUPED ((cublasLtMatmulAlgoCapAttributes_t)23)
#define MOET_LT_OPAQUE_WORDS 32

typedef union moet_lt_layout {
    uint64_t words[MOET_LT_OPAQUE_WORDS];
    cublasLtMatrixLayoutOpaque_t opaque;
} moet_lt_layout;

typedef union moet_lt_preference {
    uint64_t words[MOET_LT_OPAQUE_WORDS];
    cublasLtMatmulPreferenceOpaque_t opaque;
} moet_lt_preference;

typedef struct moet_lt_api {
#define MOET_X(function) __typeof__(function) *function;
    MOET_LT_FUNCTIONS(MOET_X)
#undef MOET_X
    moet_lt_grouped_layout_init grouped_layout_init; /* since 13.2; NULL before */
} moet_lt_api;

/* Binds the library, once a process. `family` is who asks, for the message. */
moet_status moet_lt_get(const char *family, const moet_lt_api **api);

/* UNSUPPORTED, NO_DEVICE_MEMORY or DEVICE: "<family>: <what>: cuBLASLt error 7 (...)". */
moet_status moet_lt_fail(const moet_lt_api *lt, const char *family, cublasStatus_t result, const char *what);

/* "cublasLt 130100" into text[MOET_VALIDATOR_SIZE]. */
moet_status moet_lt_validator(const char *family, char *text);

/* An attribute of up to 4 bytes; UINT32_MAX where the algorithm does not tell. */
uint32_t moet_lt_algorithm_attribute(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm,
                                     cublasLtMatmulAlgoConfigAttributes_t attribute);

/* Whether the order of summation is what the numerics allow: one sum along K for MOET_NUMERICS_TRAIN; for
 * MOET_NUMERICS_FAST also several, where the version is not known to be wrong at it. */
bool moet_lt_sums_rightly(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, moet_numerics numerics,
                          int32_t cc_major);

/* Its fields as text and its bytes, for use up to `rows` rows of an expert. */
void moet_lt_algorithm_describe(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, int64_t rows,
                                moet_algorithm *description);

#endif
#endif
