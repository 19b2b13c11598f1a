#ifdef MOET_CUDA
#include "cublaslt_space.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

#define TEN(prefix)                                                                                                    \
    prefix "0", prefix "1", prefix "2", prefix "3", prefix "4", prefix "5", prefix "6", prefix "7", prefix "8",        \
        prefix "9"
#define HUNDRED(prefix)                                                                                                \
    TEN(prefix "0"), TEN(prefix "1"), TEN(prefix "2"), TEN(prefix "3"), TEN(prefix "4"), TEN(prefix "5"),              \
        TEN(prefix "6"), TEN(prefix "7"), TEN(prefix "8"), TEN(prefix "9")
#define THOUSAND                                                                                                       \
    TEN(""), TEN("1"), TEN("2"), TEN("3"), TEN("4"), TEN("5"), TEN("6"), TEN("7"), TEN("8"), TEN("9"), HUNDRED("1"),   \
        HUNDRED("2"), HUNDRED("3"), HUNDRED("4"), HUNDRED("5"), HUNDRED("6"), HUNDRED("7"), HUNDRED("8"), HUNDRED("9")

const char *const moet_lt_numbers[] = {THOUSAND, NULL};
const char *const moet_lt_algo_values[] = {"auto", THOUSAND, NULL};
#define MOST_NUMBER 999

static const struct {
    const char *name;
    cublasLtMatmulAlgoConfigAttributes_t attribute;
    size_t size_bytes;
    int32_t first_number; /* of the values; of algo that of the second value */
} fields[] = {
#define MOET_X(name, attribute, size_bytes, values)                                                                    \
    {#name, attribute, size_bytes, attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM},
    MOET_LT_FIELDS(MOET_X)
#undef MOET_X
};

bool moet_lt_space_is_named(const moet_config *config, int32_t first) { return config->value[first] > 0; }

static bool set_field(const moet_lt_api *lt, cublasLtMatmulAlgo_t *algorithm, int32_t field, uint32_t value)
{
    const uint16_t half = (uint16_t)value;
    return lt->cublasLtMatmulAlgoConfigSetAttribute(algorithm, fields[field].attribute,
                                                    fields[field].size_bytes == 2 ? (const void *)&half : &value,
                                                    fields[field].size_bytes) == CUBLAS_STATUS_SUCCESS;
}

static bool init(const moet_lt_product *product, int id, cublasLtMatmulAlgo_t *algorithm)
{
    memset(algorithm, 0, sizeof *algorithm);
    return product->lt->cublasLtMatmulAlgoInit(product->handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF,
                                               CUDA_R_16BF, CUDA_R_16BF, CUDA_R_16BF, id,
                                               algorithm) == CUBLAS_STATUS_SUCCESS;
}

moet_status moet_lt_space_make(const moet_lt_product *product, const moet_config *config, int32_t first,
                               cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulAlgo_t made;
    const int32_t id = moet_config_number(config, first);
    if (!init(product, id, &made))
        return moet_fail(MOET_UNSUPPORTED, "%s: cuBLASLt has no algorithm %d for BF16", product->family, id);
    for (int32_t i = 1; i < MOET_LT_FIELD_COUNT; i++) {
        const uint32_t value = (uint32_t)moet_config_number(config, first + i);
        /* What already is so is not set: not every algorithm has every field. */
        if (moet_lt_algorithm_attribute(product->lt, &made, fields[i].attribute) == value) continue;
        if (config->value[first + i] == 0 &&
            moet_lt_algorithm_attribute(product->lt, &made, fields[i].attribute) == UINT32_MAX)
            continue;
        if (!set_field(product->lt, &made, i, value))
            return moet_fail(MOET_UNSUPPORTED, "%s: cuBLASLt takes no %s=%u for algorithm %d", product->family,
                             fields[i].name, value, id);
    }
    *algorithm = made;
    return MOET_OK;
}

bool moet_lt_space_name(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, int32_t first,
                        moet_config *config)
{
    moet_config named = *config;
    for (int32_t i = 0; i < MOET_LT_FIELD_COUNT; i++) {
        const uint32_t value = moet_lt_algorithm_attribute(lt, algorithm, fields[i].attribute);
        const int32_t lowest = fields[i].first_number;
        if (value == UINT32_MAX && i > 0) { /* without this field */
            named.value[first + i] = 0;
            continue;
        }
        if (value > MOST_NUMBER || (int32_t)value < lowest) return false;
        named.value[first + i] = (int16_t)((int32_t)value - lowest + (i == MOET_LT_FIELD_algo));
    }
    *config = named;
    return true;
}

void moet_lt_algorithm_describe(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm, int64_t rows,
                                moet_algorithm *description)
{
    _Static_assert(sizeof *algorithm == sizeof description->bytes, "an algorithm is 64 bytes");
    size_t used = 0;
    *description = (moet_algorithm){.rows = rows};
    for (int32_t i = 0; i < MOET_LT_FIELD_COUNT && used < sizeof description->text; i++) {
        const uint32_t value = moet_lt_algorithm_attribute(lt, algorithm, fields[i].attribute);
        if (value == UINT32_MAX) continue;
        used += (size_t)snprintf(description->text + used, sizeof description->text - used, "%s%s=%u", used ? "," : "",
                                 fields[i].name, value);
    }
    memcpy(description->bytes, algorithm, sizeof *algorithm);
}

/* ---- the list ---- */

#define MAX_IDS 256
#define MAX_TILES 1000
#define MAX_STAGES 128
#define MAX_CUSTOM 16
#define MAX_SHAPES 64 /* inner shapes, cluster shapes */

typedef struct ranked {
    moet_config config;
    float cost;
} ranked;

typedef struct search {
    const moet_lt_product *product;
    const moet_config *base;
    int32_t first, rows, max_rows, limit;
    int32_t checks;
    int32_t count, heuristic_count; /* of best; the first ones are the heuristic's */
    ranked *best;                   /* [limit], then by cost */
} search;

static bool is_listed(const search *s, const moet_config *config)
{
    for (int32_t i = 0; i < s->count; i++) {
        if (moet_config_equal(&s->best[i].config, config)) return true;
    }
    return false;
}

/* In units of the time that a device full of work takes: what the last wave leaves idle, and the operands' traffic,
 * which grows as tiles shrink. Both follow from the waves alone. */
static float cost_of(float waves) { return waves <= 0 ? INFINITY : ceilf(waves) / waves * (1 + 0.1f * sqrtf(waves)); }

static void insert(search *s, const moet_config *config, float cost)
{
    int32_t place = s->count;
    if (s->count == s->limit && (s->count == s->heuristic_count || cost >= s->best[s->count - 1].cost)) return;
    if (is_listed(s, config)) return;
    while (place > s->heuristic_count && s->best[place - 1].cost > cost) place--;
    const int32_t last = s->count < s->limit ? s->count++ : s->count - 1;
    memmove(&s->best[place + 1], &s->best[place], (size_t)(last - place) * sizeof *s->best);
    s->best[place] = (ranked){*config, cost};
}

/* Adds an algorithm if it serves all rows. */
static void try(search *s, const cublasLtMatmulAlgo_t *algorithm)
{
    float waves = 0;
    moet_config config = *s->base;
    s->checks++;
    if (!moet_lt_product_takes(s->product, algorithm, s->rows, s->rows, &waves)) return;
    s->checks++;
    if (!moet_lt_product_takes(s->product, algorithm, 1, s->max_rows, NULL)) return;
    if (moet_lt_space_name(s->product->lt, algorithm, s->first, &config)) insert(s, &config, cost_of(waves));
}

static moet_status add_heuristic(search *s)
{
    cublasLtMatmulAlgo_t found[32];
    int32_t count = 0;
    MOET_TRY(moet_lt_product_ask(s->product, s->rows, MOET_COUNT_OF(found), found, &count));
    for (int32_t i = 0; i < count && s->count < s->limit; i++) {
        moet_config config = *s->base;
        if (!moet_lt_product_takes(s->product, &found[i], 1, s->max_rows, NULL) ||
            !moet_lt_space_name(s->product->lt, &found[i], s->first, &config) || is_listed(s, &config))
            continue;
        s->best[s->count++] = (ranked){config, 0};
    }
    s->heuristic_count = s->count;
    return MOET_OK;
}

static int32_t capability(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm,
                          cublasLtMatmulAlgoCapAttributes_t attribute)
{
    int32_t value = 0;
    size_t written = 0;
    cublasStatus_t result = lt->cublasLtMatmulAlgoCapGetAttribute(algorithm, attribute, &value, sizeof value, &written);
    return result == CUBLAS_STATUS_SUCCESS ? value : 0;
}

/* Where it has none, the one value 0 (undefined). */
static int32_t capability_list(const moet_lt_api *lt, const cublasLtMatmulAlgo_t *algorithm,
                               cublasLtMatmulAlgoCapAttributes_t attribute, uint32_t *values, int32_t capacity)
{
    size_t written = 0;
    cublasStatus_t result = lt->cublasLtMatmulAlgoCapGetAttribute(algorithm, attribute, values,
                                                                  (size_t)capacity * sizeof *values, &written);
    const int32_t count = result == CUBLAS_STATUS_SUCCESS ? (int32_t)(written / sizeof *values) : 0;
    if (count == 0) values[0] = 0;
    return count > 0 ? count : 1;
}

/* Splits along K that are tried, with each way of adding them up that the algorithm has. */
static const uint32_t splits[] = {2, 3, 4, 6, 8, 16};
static const uint32_t schemes[] = {CUBLASLT_REDUCTION_SCHEME_INPLACE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
                                   CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE};

static void try_splits(search *s, const cublasLtMatmulAlgo_t *whole, uint32_t mask)
{
    const moet_lt_api *lt = s->product->lt;
    try(s, whole);
    if (mask == 0) return;
    for (int32_t i = 0; i < MOET_COUNT_OF(splits) * MOET_COUNT_OF(schemes) && s->checks < MOET_LT_SPACE_CHECKS; i++) {
        cublasLtMatmulAlgo_t algorithm = *whole;
        const uint32_t scheme = schemes[i % MOET_COUNT_OF(schemes)];
        if ((mask & scheme) && set_field(lt, &algorithm, MOET_LT_FIELD_split_k, splits[i / MOET_COUNT_OF(schemes)]) &&
            set_field(lt, &algorithm, MOET_LT_FIELD_reduction, scheme))
            try(s, &algorithm);
    }
}

/* One algorithm id with these options: every tile, stages and cluster shape. */
static void walk_shapes(search *s, const cublasLtMatmulAlgo_t *base, uint32_t split_mask)
{
    static const int32_t order[] = {MOET_LT_FIELD_tile_id, MOET_LT_FIELD_stages_id, MOET_LT_FIELD_cluster_id};
    const moet_lt_api *lt = s->product->lt;
    uint32_t tiles[MAX_TILES], stages[MAX_STAGES];
    const int32_t tile_count = capability_list(lt, base, CUBLASLT_ALGO_CAP_TILE_IDS, tiles, MAX_TILES);
    const int32_t stages_count = capability_list(lt, base, CUBLASLT_ALGO_CAP_STAGES_IDS, stages, MAX_STAGES);
    for (int32_t t = 0; t < tile_count; t++) {
        for (int32_t g = 0; g < stages_count; g++) {
            for (uint32_t shape = 0; shape < MAX_SHAPES && s->checks < MOET_LT_SPACE_CHECKS; shape++) {
                const uint32_t values[] = {tiles[t], stages[g], shape};
                cublasLtMatmulAlgo_t algorithm = *base;
                bool set = true;
                for (int32_t i = 0; i < MOET_COUNT_OF(order) && set; i++) {
                    /* Undefined is what it is without being set, which not every algorithm can be. */
                    if (values[i] != 0) set = set_field(lt, &algorithm, order[i], values[i]);
                }
                if (set) try_splits(s, &algorithm, split_mask);
            }
        }
    }
}

/* Options in the outer loops, so that where the checks run out every shape has been tried with the first of them. */
static moet_status walk(search *s)
{
    const moet_lt_api *lt = s->product->lt;
    int ids[MAX_IDS], id_count = 0;
    cublasStatus_t result =
        lt->cublasLtMatmulAlgoGetIds(s->product->handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF,
                                     CUDA_R_16BF, CUDA_R_16BF, MAX_IDS, ids, &id_count);
    if (result != CUBLAS_STATUS_SUCCESS) return moet_lt_fail(lt, s->product->family, result, "asking for algorithms");
    for (uint32_t option = 0; option < 2 * MAX_CUSTOM * MAX_SHAPES; option++) {
        const uint32_t swizzle = option % 2, custom = option / 2 % MAX_CUSTOM, inner = option / 2 / MAX_CUSTOM;
        for (int i = 0; i < id_count && s->checks < MOET_LT_SPACE_CHECKS; i++) {
            cublasLtMatmulAlgo_t base;
            uint32_t split_mask = 0;
            if (!init(s->product, ids[i], &base)) continue;
            if (custom > (uint32_t)capability(lt, &base, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX) ||
                swizzle > (uint32_t)capability(lt, &base, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT))
                continue;
            if ((swizzle && !set_field(lt, &base, MOET_LT_FIELD_swizzle, swizzle)) ||
                (custom && !set_field(lt, &base, MOET_LT_FIELD_custom, custom)) ||
                (inner && !set_field(lt, &base, MOET_LT_FIELD_inner_id, inner)))
                continue;
            if (s->product->problem.numerics == MOET_NUMERICS_FAST &&
                capability(lt, &base, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT))
                split_mask = (uint32_t)capability(lt, &base, CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK);
            walk_shapes(s, &base, split_mask);
        }
    }
    return MOET_OK;
}

moet_status moet_lt_space_list(const moet_lt_product *product, const moet_config *base, int32_t first, int32_t rows,
                               int32_t max_rows, int32_t limit, moet_config_visit visit, void *context)
{
    search s = {product, base, first, rows, max_rows, limit, 0, 0, 0, NULL};
    s.best = malloc(((size_t)limit + 1) * sizeof *s.best);
    if (!s.best) return moet_fail(MOET_NO_MEMORY, "%s: no memory for %d algorithms", product->family, limit);
    moet_status status = add_heuristic(&s);
    if (status == MOET_OK) status = walk(&s);
    for (int32_t i = 0; i < s.count && status == MOET_OK; i++) status = visit(context, &s.best[i].config);
    free(s.best);
    return status;
}
#else
typedef int moet_cublaslt_space_unused; /* a translation unit must not be empty */
#endif
