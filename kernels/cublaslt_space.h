/* cublaslt_space: the library's whole space of algorithms for a product, as parameters of a config.
 *
 * A config names an algorithm by its fields, whose ids are those of cublasLt.h's enumerations:
 * "algo=66,tile_id=23,cluster_id=8". Fields at their first value are left out (MOET_SEARCH_LISTED); algo=auto is none.
 * Which of them there are only the library knows: moet_lt_space_list asks it. */
#ifndef MOET_CUBLASLT_SPACE_H
#define MOET_CUBLASLT_SPACE_H

#include "cublaslt_product.h"

#ifdef MOET_CUDA
/* name, attribute, bytes, values: the parameters, algo first. */
#define MOET_LT_FIELDS(X)                                                                                              \
    X(algo, CUBLASLT_ALGO_CONFIG_ID, 4, moet_lt_algo_values)                                                           \
    X(tile_id, CUBLASLT_ALGO_CONFIG_TILE_ID, 4, moet_lt_numbers)                                                       \
    X(stages_id, CUBLASLT_ALGO_CONFIG_STAGES_ID, 4, moet_lt_numbers)                                                   \
    X(inner_id, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2, moet_lt_numbers)                                               \
    X(cluster_id, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2, moet_lt_numbers)                                           \
    X(swizzle, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4, moet_lt_numbers)                                                 \
    X(custom, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4, moet_lt_numbers)                                                  \
    X(split_k, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4, moet_lt_numbers + 1)                                                \
    X(reduction, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4, moet_lt_numbers)

extern const char *const moet_lt_algo_values[]; /* "auto", "0" to "999" */
extern const char *const moet_lt_numbers[];     /* "0" to "999" */

enum {
#define MOET_X(name, attribute, size_bytes, values) MOET_LT_FIELD_##name,
    MOET_LT_FIELDS(MOET_X)
#undef MOET_X
        MOET_LT_FIELD_COUNT
};

/* The rows of a family's params[] that make the fields; they are its parameters from `first` on. */
#define MOET_LT_SPACE_PARAM(name, attribute, size_bytes, values) {#name, values, MOET_SEARCH_LISTED},

/* Whether a config names an algorithm; makes it. UNSUPPORTED names the field that the library does not take. */
bool moet_lt_space_is_named(const moet_config *config, int32_t first);
moet_status moet_lt_space_make(const moet_lt_product *product, const moet_config *config, int32_t first,
                               cublasLtMatmulAlgo_t *algorithm);

/* Sets the fields of a config to an algorithm's; false: a value is beyond those that a text can have. */
bool moet_lt_space_name(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, int32_t first,
                        moet_config *config);

/* Visits what serves every number of rows up to max_rows, at most `limit` configs: `base` with an algorithm's fields.
 * First the heuristic's for `rows`, then what fills the device best at `rows`. Split along K only where the product's
 * numerics allow it. It asks the library at most MOET_LT_SPACE_CHECKS times. */
#define MOET_LT_SPACE_CHECKS 100000
moet_status moet_lt_space_list(const moet_lt_product *product, const moet_config *base, int32_t first, int32_t rows,
                               int32_t max_rows, int32_t limit, moet_config_visit visit, void *context);
#endif
#endif
