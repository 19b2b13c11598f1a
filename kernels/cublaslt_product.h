/* cublaslt_product: one cublasLtMatmul for an expert, or for a strided batch of experts with equally many rows.
 *
 * Algorithms are chosen at preparation, one for each bucket of rows that an expert may have; a launch picks the
 * bucket's and passes the real number of rows. */
#ifndef MOET_CUBLASLT_PRODUCT_H
#define MOET_CUBLASLT_PRODUCT_H

#include "cublaslt.h"

#ifdef MOET_CUDA
#define MOET_LT_WORKSPACE_BYTES ((size_t)32 << 20) /* what cuBLAS itself takes on Hopper */
#define MOET_LT_MAX_BUCKETS MOET_MAX_ALGORITHMS    /* 4 and 2 an octave up to MOET_MAX_ROWS are 40 */

/* Serves experts with more rows than the bucket before and up to `rows`. */
typedef struct moet_lt_bucket {
    int32_t rows;
    cublasLtMatmulAlgo_t algorithm;
} moet_lt_bucket;

typedef struct moet_lt_product {
    const char *family; /* for messages */
    const moet_lt_api *lt;
    cublasLtHandle_t handle;
    moet_problem problem;
    int32_t n, k, cc_major;
    int32_t batch;                        /* the most experts of a launch */
    int64_t padded_rows;                  /* the most rows of a launch, padding included */
    cublasLtMatmulDescOpaque_t operation; /* its bias pointer changes from launch to launch */
    int32_t bucket_count;
    moet_lt_bucket buckets[MOET_LT_MAX_BUCKETS];
} moet_lt_product;

/* Which algorithm of those that serve a bucket. */
typedef struct moet_lt_wish {
    uint32_t tile_id;                      /* the first with this tile, else the first; UNDEFINED: the first */
    int32_t index;                         /* of those, this one, else the last */
    const cublasLtMatmulAlgo_t *algorithm; /* this one and no other; NULL: any */
    const char *name;                      /* of the wish, for messages: "tile 64x128" */
} moet_lt_wish;

/* Without buckets yet. batch, percent: launches have at most so many experts, and together at most percent / 100 of
 * max_rows rows. sm_limit 0: all SMs. The caller releases it, also after an error. */
moet_status moet_lt_product_create(const char *family, const moet_prepare_args *args, int32_t batch, int32_t percent,
                                   int32_t sm_limit, moet_lt_product *product);
void moet_lt_product_release(moet_lt_product *product);

/* Fills the buckets up to args->max_rows: from the table's algorithms where args has them and no SM limit, else by the
 * heuristic. UNSUPPORTED where the library has no algorithm for some rows, or where no bucket's is as wished. */
moet_status moet_lt_product_choose(moet_lt_product *product, const moet_prepare_args *args, const moet_lt_wish *wish);

/* Whether an algorithm serves all rows from `lower` to `upper` (its ends are asked) with the right order of summation.
 * waves (may be NULL): how often the product fills the device, at `upper`. */
bool moet_lt_product_takes(const moet_lt_product *product, const cublasLtMatmulAlgo_t *algorithm, int32_t lower,
                           int32_t upper, float *waves);

/* The heuristic's algorithms for so many rows, at most `capacity`: what can be used of them. */
moet_status moet_lt_product_ask(const moet_lt_product *product, int32_t rows, int32_t capacity,
                                cublasLtMatmulAlgo_t *algorithms, int32_t *count);

/* Index of the bucket for so many rows; INVALID: more than were prepared for. */
moet_status moet_lt_product_find(const moet_lt_product *product, int32_t rows, int32_t *bucket);

/* `batch` experts with `rows` rows each, one behind the other everywhere: x [batch, rows, K], out [batch, rows, N], w
 * and bias (NULL without) of the first. */
typedef struct moet_lt_launch {
    const void *x, *w, *bias;
    void *out, *workspace; /* MOET_LT_WORKSPACE_BYTES */
    int32_t rows, batch, bucket;
    void *stream;
} moet_lt_launch;
moet_status moet_lt_product_launch(moet_lt_product *product, const moet_lt_launch *launch);

/* The buckets' algorithms, as moet_family's algorithms(). */
int32_t moet_lt_product_algorithms(const moet_lt_product *product, moet_algorithm *list);
#endif
#endif
