#ifdef MOET_CUDA
#include "cublaslt.h"

#include <pthread.h>
#include <stdio.h>

/* ---- the library, bound at run time ---- */

static const moet_symbol symbols[] = {
#define MOET_X(function) {#function, offsetof(moet_lt_api, function), false},
    MOET_LT_FUNCTIONS(MOET_X)
#undef MOET_X
        {"cublasLtGroupedMatrixLayoutInit_internal", offsetof(moet_lt_api, grouped_layout_init), true},
};

/* Written once, under bind_once. */
static pthread_once_t bind_once = PTHREAD_ONCE_INIT;
static moet_lt_api bound;
static moet_status bind_status;
static char bind_error[512];

static void bind_first(void)
{
    static const char *const sonames[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                          "/usr/local/cuda/lib64/libcublasLt.so.13",
                                          "/usr/local/cuda/lib64/libcublasLt.so.12", NULL};
    bind_status = moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), &bound, NULL);
    if (bind_status != MOET_OK) snprintf(bind_error, sizeof bind_error, "%.450s", moet_last_error());
}

moet_status moet_lt_get(const char *family, const moet_lt_api **api)
{
    pthread_once(&bind_once, bind_first);
    if (bind_status != MOET_OK) return moet_fail(bind_status, "%s: %s", family, bind_error);
    *api = &bound;
    return MOET_OK;
}

moet_status moet_lt_fail(const moet_lt_api *lt, const char *family, cublasStatus_t result, const char *what)
{
    moet_status status = result == CUBLAS_STATUS_NOT_SUPPORTED  ? MOET_UNSUPPORTED
                         : result == CUBLAS_STATUS_ALLOC_FAILED ? MOET_NO_DEVICE_MEMORY
                                                                : MOET_DEVICE;
    return moet_fail(status, "%s: %s: cuBLASLt error %d (%s)", family, what, (int)result,
                     lt->cublasLtGetStatusString(result));
}

moet_status moet_lt_validator(const char *family, char *text)
{
    const moet_lt_api *lt;
    MOET_TRY(moet_lt_get(family, &lt));
    snprintf(text, MOET_VALIDATOR_SIZE, "cublasLt %zu", lt->cublasLtGetVersion());
    return MOET_OK;
}

/* ---- algorithms ---- */

uint32_t moet_lt_algorithm_attribute(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm,
                                     cublasLtMatmulAlgoConfigAttributes_t attribute)
{
    uint32_t value = 0;
    uint16_t half = 0;
    size_t written = 0;
    if (lt->cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, &value, sizeof value, &written) ==
        CUBLAS_STATUS_SUCCESS)
        return value;
    if (lt->cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, &half, sizeof half, &written) ==
        CUBLAS_STATUS_SUCCESS)
        return half;
    return UINT32_MAX;
}

bool moet_lt_sums_rightly(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, moet_numerics numerics,
                          int32_t cc_major)
{
    uint32_t split = moet_lt_algorithm_attribute(lt, algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    uint32_t scheme = moet_lt_algorithm_attribute(lt, algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    bool is_split = split != UINT32_MAX && split > 1;
    if (numerics == MOET_NUMERICS_TRAIN)
        return !is_split && (scheme == UINT32_MAX || scheme == CUBLASLT_REDUCTION_SCHEME_NONE);
    return !(is_split && moet_lt_algorithm_attribute(lt, algorithm, CUBLASLT_ALGO_CONFIG_ID) == 66 &&
             moet_lt_fact_find(MOET_LT_NO_SPLIT_K_66, (int64_t)lt->cublasLtGetVersion(), cc_major));
}
#else
typedef int moet_cublaslt_unused; /* a translation unit must not be empty */
#endif
