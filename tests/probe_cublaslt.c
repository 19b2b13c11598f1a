/* What this machine's cuBLASLt can be told about grouped products: which versions' rules hold, what the heuristics
 * offer for different averages, and which fields of a grouped algorithm can be set. docs/cublaslt.md has the results.
 *
 *   probe_cublaslt [DEVICE]          default: cuda
 *
 * Nothing is launched. A field "can be set" to a value where cublasLtMatmulAlgoConfigSetAttribute takes it and
 * cublasLtMatmulAlgoCheck then takes the algorithm. */
#include "test.h"

#ifdef MOET_CUDA
#include "../kernels/cublaslt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RESULTS 32
#define MAX_IDS 256
#define MAX_VALUES 1024
#define TILE_LIMIT 1024 /* ids that no header has yet are tried too */

static const moet_lt_api *lt;
static cublasLtHandle_t handle;
static int failures;

static void expect(cublasStatus_t result, const char *what)
{
    if (result == CUBLAS_STATUS_SUCCESS) return;
    printf("%s: error %d (%s)\n", what, (int)result, lt->cublasLtGetStatusString(result));
    failures++;
}

typedef struct product {
    const char *name;
    int32_t experts, n, k;
    bool kn, grouped;
    cublasLtMatmulDescOpaque_t operation;
    moet_lt_layout w, x, out;
} product;

/* Of a grouped product the host reads no array: an address is enough. */
static void product_init(product *p, int64_t rows)
{
    const void *some = (const void *)(uintptr_t)256;
    cublasOperation_t operation = p->kn ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtPointerMode_t mode = CUBLASLT_POINTER_MODE_DEVICE;
    expect(lt->cublasLtMatmulDescInit_internal(&p->operation, sizeof p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
           "the product");
    expect(lt->cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &operation, sizeof operation),
           "transposition");
    expect(lt->cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_POINTER_MODE, &mode, sizeof mode),
           "pointer mode");
    moet_lt_layout *layouts[] = {&p->w, &p->x, &p->out};
    const uint64_t sizes[3][2] = {{(uint64_t)(p->kn ? p->n : p->k), (uint64_t)(p->kn ? p->k : p->n)},
                                  {(uint64_t)p->k, (uint64_t)rows},
                                  {(uint64_t)p->n, (uint64_t)rows}};
    for (int32_t i = 0; i < 3; i++) {
        memset(layouts[i], 0, sizeof *layouts[i]);
        expect(p->grouped ? lt->grouped_layout_init(&layouts[i]->opaque, sizeof *layouts[i], CUDA_R_16BF, p->experts,
                                                    some, some, some)
                          : lt->cublasLtMatrixLayoutInit_internal(&layouts[i]->opaque, sizeof *layouts[i], CUDA_R_16BF,
                                                                  sizes[i][0], sizes[i][1], (int64_t)sizes[i][0]),
               "a layout");
    }
}

static cublasStatus_t check(product *p, const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulHeuristicResult_t *result)
{
    memset(result, 0, sizeof *result);
    return lt->cublasLtMatmulAlgoCheck(handle, &p->operation, &p->w.opaque, &p->x.opaque, &p->out.opaque,
                                       &p->out.opaque, algorithm, result);
}

static int ask(product *p, uint64_t rows, uint64_t n, uint64_t k, cublasLtMatmulHeuristicResult_t *results)
{
    moet_lt_preference preference;
    uint64_t workspace = (uint64_t)32 << 20;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = 16;
    int found = 0;
    memset(&preference, 0, sizeof preference);
    expect(lt->cublasLtMatmulPreferenceInit_internal(&preference.opaque, sizeof preference), "the preference");
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t size_bytes;
        bool only_grouped;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace, false},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction, false},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment, false},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment, false},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment, false},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment, false},
        {MOET_LT_PREF_AVERAGE_K, &k, sizeof k, true},
        {MOET_LT_PREF_AVERAGE_D_ROWS, &n, sizeof n, true},
        {MOET_LT_PREF_AVERAGE_D_COLUMNS, &rows, sizeof rows, true},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes); i++) {
        if (p->grouped || !attributes[i].only_grouped)
            expect(lt->cublasLtMatmulPreferenceSetAttribute(&preference.opaque, attributes[i].attribute,
                                                            attributes[i].value, attributes[i].size_bytes),
                   "a preference");
    }
    cublasStatus_t result =
        lt->cublasLtMatmulAlgoGetHeuristic(handle, &p->operation, &p->w.opaque, &p->x.opaque, &p->out.opaque,
                                           &p->out.opaque, &preference.opaque, RESULTS, results, &found);
    if (result != CUBLAS_STATUS_NOT_SUPPORTED) expect(result, "the heuristic");
    return result == CUBLAS_STATUS_SUCCESS ? found : 0;
}

static int32_t capability(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoCapAttributes_t attribute)
{
    int32_t value = 0;
    size_t written = 0;
    cublasStatus_t result = lt->cublasLtMatmulAlgoCapGetAttribute(algorithm, attribute, &value, sizeof value, &written);
    return result == CUBLAS_STATUS_SUCCESS ? value : -1;
}

static int32_t capability_list(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoCapAttributes_t attribute,
                               uint32_t values[MAX_VALUES])
{
    size_t written = 0;
    cublasStatus_t result =
        lt->cublasLtMatmulAlgoCapGetAttribute(algorithm, attribute, values, MAX_VALUES * sizeof values[0], &written);
    return result == CUBLAS_STATUS_SUCCESS ? (int32_t)(written / sizeof values[0]) : 0;
}

static void print_result(const char *prefix, const cublasLtMatmulHeuristicResult_t *result)
{
    moet_algorithm described;
    moet_lt_algorithm_describe(lt, &result->algo, 0, &described);
    printf("%s%s workspace=%zu waves=%.3f\n", prefix, described.text, result->workspaceSize,
           (double)result->wavesCount);
}

/* Every value of one field, the others as they are. */
static void probe_field(product *p, const cublasLtMatmulAlgo_t *base, const char *name,
                        cublasLtMatmulAlgoConfigAttributes_t attribute, size_t size_bytes, const uint32_t *values,
                        int32_t count)
{
    int32_t set = 0, taken = 0;
    cublasLtMatmulHeuristicResult_t result;
    printf("  %s: now %" PRId32 "; taken:", name, (int32_t)moet_lt_algorithm_attribute(lt, base, attribute));
    for (int32_t i = 0; i < count; i++) {
        cublasLtMatmulAlgo_t algorithm = *base;
        const uint16_t half = (uint16_t)values[i];
        if (lt->cublasLtMatmulAlgoConfigSetAttribute(&algorithm, attribute,
                                                     size_bytes == 2 ? (const void *)&half : &values[i],
                                                     size_bytes) != CUBLAS_STATUS_SUCCESS)
            continue;
        set++;
        if (check(p, &algorithm, &result) != CUBLAS_STATUS_SUCCESS) continue;
        taken++;
        printf(" %" PRIu32, values[i]);
    }
    printf(" (%d tried, %d set, %d taken by the check)\n", count, set, taken);
}

static void probe_fields(product *p, const cublasLtMatmulAlgo_t *base)
{
    static uint32_t values[MAX_VALUES], numbers[MAX_VALUES];
    int32_t count;
    for (uint32_t i = 0; i < MAX_VALUES; i++) numbers[i] = i;
    count = capability_list(base, CUBLASLT_ALGO_CAP_TILE_IDS, values);
    probe_field(p, base, "tile_id, of its list", CUBLASLT_ALGO_CONFIG_TILE_ID, 4, values, count);
    probe_field(p, base, "tile_id, any", CUBLASLT_ALGO_CONFIG_TILE_ID, 4, numbers, TILE_LIMIT);
    count = capability_list(base, CUBLASLT_ALGO_CAP_STAGES_IDS, values);
    probe_field(p, base, "stages_id, of its list", CUBLASLT_ALGO_CONFIG_STAGES_ID, 4, values, count);
    probe_field(p, base, "inner_id", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2, numbers, 16);
    probe_field(p, base, "cluster_id", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2, numbers, 128);
    probe_field(p, base, "swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4, numbers, 4);
    const int32_t most = capability(base, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX);
    probe_field(p, base, "custom", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4, numbers,
                most < 0                ? 0
                : most < MAX_VALUES - 1 ? most + 1
                                        : MAX_VALUES);
    probe_field(p, base, "split_k", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4, numbers + 1, 8);
    probe_field(p, base, "reduction", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4, numbers, 8);
}

static void probe_ids(product *p)
{
    int ids[MAX_IDS], count = 0;
    expect(lt->cublasLtMatmulAlgoGetIds(handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF, CUDA_R_16BF,
                                        CUDA_R_16BF, MAX_IDS, ids, &count),
           "AlgoGetIds");
    printf("%s: %d algorithm ids\n", p->name, count);
    for (int i = 0; i < count; i++) {
        static uint32_t values[MAX_VALUES];
        cublasLtMatmulAlgo_t algorithm = {0};
        cublasLtMatmulHeuristicResult_t result;
        cublasStatus_t init = lt->cublasLtMatmulAlgoInit(handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF,
                                                         CUDA_R_16BF, CUDA_R_16BF, CUDA_R_16BF, ids[i], &algorithm);
        if (init != CUBLAS_STATUS_SUCCESS) {
            printf("id %d: AlgoInit %d\n", ids[i], (int)init);
            continue;
        }
        const int32_t tiles = capability_list(&algorithm, CUBLASLT_ALGO_CAP_TILE_IDS, values);
        const int32_t stages = capability_list(&algorithm, CUBLASLT_ALGO_CAP_STAGES_IDS, values);
        printf("id %d: grouped %d, strided batch %d, pointer modes %#x, tiles %d, stages %d, split_k %d, reduction "
               "%#x, swizzle %d, custom up to %d; as initialised the check gives %d\n",
               ids[i], capability(&algorithm, MOET_LT_CAP_GROUPED),
               capability(&algorithm, CUBLASLT_ALGO_CAP_STRIDED_BATCH_SUPPORT),
               (unsigned)capability(&algorithm, CUBLASLT_ALGO_CAP_POINTER_MODE_MASK), tiles, stages,
               capability(&algorithm, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT),
               (unsigned)capability(&algorithm, CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK),
               capability(&algorithm, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT),
               capability(&algorithm, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX), (int)check(p, &algorithm, &result));
    }
}

static void probe_product(product *p, uint64_t rows)
{
    static cublasLtMatmulHeuristicResult_t results[RESULTS];
    product_init(p, (int64_t)rows);
    int found = ask(p, rows, (uint64_t)p->n, (uint64_t)p->k, results);
    printf("%s: E %d, N %d, K %d, on average %" PRIu64 " rows: the heuristic offers %d\n", p->name, p->experts, p->n,
           p->k, rows, found);
    for (int i = 0; i < found; i++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "  %2d ", i);
        print_result(prefix, &results[i]);
    }
    if (found > 0) probe_fields(p, &results[0].algo);
}

/* Whether and how far the averages matter. */
static void probe_averages(product *p)
{
    static const uint64_t rows[] = {1, 16, 64, 256, 1024, 4096, 16384};
    static cublasLtMatmulHeuristicResult_t results[RESULTS];
    for (int32_t i = 0; i < MOET_COUNT_OF(rows); i++) {
        int found = ask(p, rows[i], (uint64_t)p->n, (uint64_t)p->k, results);
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s, average %" PRIu64 ", %d offered, first: ", p->name, rows[i], found);
        if (found > 0) print_result(prefix, &results[0]);
    }
    int found = ask(p, 0, 0, 0, results);
    if (found > 0) print_result("without averages, first: ", &results[0]);
}

int main(int argc, char **argv)
{
    moet_device *device = NULL;
    char why[MOET_REASON_SIZE];
    if (moet_device_open(argc > 1 ? argv[1] : "cuda", &device) != MOET_OK ||
        moet_lt_get("probe_cublaslt", &lt) != MOET_OK) {
        printf("skipped: %s\n", moet_last_error());
        moet_device_close(device);
        return 77;
    }
    const int64_t version = (int64_t)lt->cublasLtGetVersion();
    const int32_t cc_major = device->info.cc_major;
    static const struct {
        const char *name;
        moet_lt_rule rule;
    } rules[] = {{"no grouped product", MOET_LT_NO_GROUPED},
                 {"wrong grouped product", MOET_LT_WRONG_GROUPED},
                 {"own workspace", MOET_LT_OWN_WORKSPACE},
                 {"device pointers", MOET_LT_DEVICE_POINTERS},
                 {"no query in a capture", MOET_LT_NO_QUERY_IN_CAPTURE},
                 {"no split-K of 66", MOET_LT_NO_SPLIT_K_66}};
    printf("cuBLASLt %" PRId64 " on %s, compute capability %d.%d\n", version, device->info.name, cc_major,
           device->info.cc_minor);
    for (int32_t i = 0; i < MOET_COUNT_OF(rules); i++) {
        const moet_lt_fact *fact = moet_lt_fact_find(rules[i].rule, version, cc_major);
        if (fact) printf("rule: %s (%s)\n", rules[i].name, fact->why);
    }
    expect(lt->cublasLtCreate(&handle), "a handle");
    product loop = {"one product, nk", 1, 4096, 2048, false, false, {{0}}, {{0}}, {{0}}, {{0}}};
    product_init(&loop, 512);
    probe_ids(&loop);
    probe_product(&loop, 512);
    if (moet_lt_grouped_serves(version, cc_major, why) && lt->grouped_layout_init) {
        product nk = {"grouped, nk", 8, 4096, 2048, false, true, {{0}}, {{0}}, {{0}}, {{0}}};
        product kn = {"grouped, kn", 8, 4096, 2048, true, true, {{0}}, {{0}}, {{0}}, {{0}}};
        product_init(&nk, 512);
        probe_ids(&nk);
        probe_product(&nk, 512);
        probe_averages(&nk);
        probe_product(&kn, 512);
        probe_averages(&kn);
    } else {
        printf("grouped products: %s\n", why);
    }
    if (handle) lt->cublasLtDestroy(handle);
    moet_device_close(device);
    return failures ? 1 : 0;
}
#else
int main(void)
{
    puts("skipped: this build has no CUDA");
    return 77;
}
#endif
