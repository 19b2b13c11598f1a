/* host_module: libmoet_host.so. Here: OpenBLAS bound at run time, host_blas's kernel, and the exported symbol.
 *
 * host_blas turns a panel of weights and a block of rows to fp32 and calls sgemm on them. Which kernel OpenBLAS picks
 * and how it splits K depend on the size of a call, so every call of a configuration has the same: rows are padded
 * with zeros to whole blocks. (sbgemm, OpenBLAS's product on BF16, is no option: distributions build without it.) */
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_common.h"

/* ---- OpenBLAS ---- */

/* From the CBLAS standard; declared here so that the build needs no header of a particular BLAS. */
enum { CBLAS_COL_MAJOR = 102, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112 };
typedef void cblas_sgemm_function(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                                  int lda, const float *b, int ldb, float beta, float *c, int ldc);

typedef struct blas_api {
    cblas_sgemm_function *sgemm;
    char *(*get_config)(void);
    char *(*get_corename)(void);
    int (*get_parallel)(void);
    int (*get_num_threads)(void);
    void (*set_num_threads)(int threads);
} blas_api;

/* Written once by open_blas. */
static struct {
    blas_api api;
    bool open;
    moet_host_blas_info info;
    char why[MOET_REASON_SIZE];
} blas;

__attribute__((format(printf, 1, 2))) static void refuse_blas(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(blas.why, sizeof blas.why, format, args);
    va_end(args);
}

/* The copy in a package beside the module first: it is the one that its tables were made with. */
static void *load_blas(void)
{
    static const char *const sonames[] = {"$ORIGIN/libopenblas.so.0", "libopenblas.so.0", "libopenblasp.so.0"};
    /* What a packaged OpenBLAS needs lies beside it, where only this file looks. Loaded first, they are found by name;
     * where there is no package this does nothing. */
    static const char *const needed[] = {"$ORIGIN/libquadmath.so.0", "$ORIGIN/libgfortran.so.5"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) dlopen(needed[i], RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof sonames / sizeof *sonames; i++) {
        void *library = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL);
        if (library) return library;
    }
    return NULL;
}

static void open_blas(void)
{
    static const struct {
        const char *name;
        size_t offset;
    } symbols[] = {
        {"cblas_sgemm", offsetof(blas_api, sgemm)},
        {"openblas_get_config", offsetof(blas_api, get_config)},
        {"openblas_get_corename", offsetof(blas_api, get_corename)},
        {"openblas_get_parallel", offsetof(blas_api, get_parallel)},
        {"openblas_get_num_threads", offsetof(blas_api, get_num_threads)},
        {"openblas_set_num_threads", offsetof(blas_api, set_num_threads)},
    };
    void *library = load_blas();
    if (!library) {
        const char *error = dlerror();
        refuse_blas("OpenBLAS is missing: install libopenblas0 (%.120s)", error ? error : "not found");
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *function = dlsym(library, symbols[i].name);
        if (!function) {
            refuse_blas("libopenblas.so.0 lacks %s, so it is not OpenBLAS 0.3: install libopenblas0", symbols[i].name);
            return;
        }
        memcpy((char *)&blas.api + symbols[i].offset, &function, sizeof function);
    }
    /* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH NO_AFFINITY Cooperlake MAX_THREADS=64" */
    const char *config = blas.api.get_config(), *limit = strstr(config, "MAX_THREADS=");
    char version[32] = "";
    if (sscanf(config, "OpenBLAS %31s", version) != 1) snprintf(version, sizeof version, "of unknown version");
    snprintf(blas.info.name, sizeof blas.info.name, "OpenBLAS %.24s %.24s", version, blas.api.get_corename());
    blas.info.max_threads = limit ? (int32_t)strtol(limit + strlen("MAX_THREADS="), NULL, 10) : 1;
    /* A build without threads makes no promise that several may call it. */
    if (blas.api.get_parallel() == 0 || blas.info.max_threads < 1) blas.info.max_threads = 1;
    blas.open = true;
}

static bool blas_open(moet_host_blas_info *info, char *why)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_blas);
    if (blas.open)
        *info = blas.info;
    else
        snprintf(why, MOET_REASON_SIZE, "%s", blas.why);
    return blas.open;
}

/* host_blas's threads call sgemm side by side, each on its own; OpenBLAS's own threads would only get in their way,
 * and split sums. Its number of threads belongs to the process, so it is put back when the last launch ends. */
static struct {
    pthread_mutex_t mutex;
    int32_t launches;
    int threads;
} alone = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void alone_enter(void)
{
    pthread_mutex_lock(&alone.mutex);
    if (alone.launches++ == 0) {
        alone.threads = blas.api.get_num_threads();
        if (alone.threads != 1) blas.api.set_num_threads(1);
    }
    pthread_mutex_unlock(&alone.mutex);
}

static void alone_leave(void)
{
    pthread_mutex_lock(&alone.mutex);
    if (--alone.launches == 0 && alone.threads != 1) blas.api.set_num_threads(alone.threads);
    pthread_mutex_unlock(&alone.mutex);
}

/* ---- host_blas ---- */

/* Rows of an expert that share one conversion of a panel. */
#define BLAS_TASK_ROWS 1024

/* c [columns, block] = panel [columns, k] (or [k, columns]) times x [block, k], as c^T = x panel^T in column order: x
 * on the side of sgemm whose blocking is the same for every row on the most kernels. */
static void multiply(const moet_host_blas_config *config, int32_t columns, int32_t k, bool kn, const float *x,
                     const float *panel, float *c)
{
    blas.api.sgemm(CBLAS_COL_MAJOR, CBLAS_TRANS, kn ? CBLAS_TRANS : CBLAS_NO_TRANS, config->block, columns, k, 1.0f, x,
                   k, panel, kn ? columns : k, 0.0f, c, config->block);
}

static void load_panel(const moet_host_gemm *g, const moet_host_task *task, float *panel)
{
    const uint16_t *w = g->w + (size_t)task->expert * (size_t)g->n * (size_t)g->k;
    if (!g->kn) { /* its rows lie one after another */
        size_t begin = (size_t)task->column * (size_t)g->k, count = (size_t)task->columns * (size_t)g->k;
        for (size_t i = 0; i < count; i++) panel[i] = moet_host_widen(w[begin + i]);
        return;
    }
    for (int32_t k = 0; k < g->k; k++)
        moet_host_widen_row(panel + (size_t)k * (size_t)task->columns,
                            w + (size_t)k * (size_t)g->n + (size_t)task->column, task->columns);
}

/* c is [columns, block]; the result's rows are the block's. */
static void store_block(const moet_host_gemm *g, const moet_host_task *task, int32_t row, int32_t rows, int32_t block,
                        const float *c)
{
    const uint16_t *bias = g->bias ? g->bias + (size_t)task->expert * (size_t)g->n + (size_t)task->column : NULL;
    uint16_t *out = g->out + (size_t)row * (size_t)g->n + (size_t)task->column;
    /* Eight columns at a time: whole strips of the output are written while their lines are near. */
    for (int32_t first = 0; first < task->columns; first += 8) {
        float add[8];
        for (int32_t j = 0; j < 8; j++) add[j] = bias ? moet_host_widen(bias[first + j]) : 0.0f;
        for (int32_t r = 0; r < rows; r++) {
            uint16_t *to = out + (size_t)r * (size_t)g->n + first;
            for (int32_t j = 0; j < 8; j++) {
                float sum = c[(size_t)(first + j) * (size_t)block + (size_t)r];
                to[j] = moet_host_narrow(bias ? sum + add[j] : sum);
            }
        }
    }
}

static void run_blas_task(const moet_host_gemm *g, const moet_host_blas_config *config, const moet_host_task *task,
                          float *memory)
{
    size_t k = (size_t)g->k;
    float *panel = memory, *x = panel + (size_t)config->panel * k, *c = x + (size_t)config->block * k;
    load_panel(g, task, panel);
    for (int32_t done = 0; done < task->rows; done += config->block) {
        int32_t row = task->row + done;
        int32_t rows = task->rows - done < config->block ? task->rows - done : config->block;
        for (int32_t r = 0; r < rows; r++) moet_host_widen_row(x + (size_t)r * k, g->x + (size_t)(row + r) * k, g->k);
        memset(x + (size_t)rows * k, 0, (size_t)(config->block - rows) * k * sizeof *x);
        multiply(config, task->columns, g->k, g->kn, x, panel, c);
        store_block(g, task, row, rows, config->block, c);
    }
}

static void blas_gemm(const moet_host_gemm *g, const moet_host_blas_config *config)
{
    moet_host_tasks tasks;
    moet_host_tasks_init(&tasks, g, BLAS_TASK_ROWS, config->panel);
    size_t bytes = moet_host_blas_thread_bytes(config, g->k);
    alone_enter();
#pragma omp parallel num_threads(g->threads)
    {
        float *memory = (float *)((char *)g->workspace + (size_t)omp_get_thread_num() * bytes);
#pragma omp for schedule(dynamic, 1)
        for (int32_t i = 0; i < tasks.count; i++) {
            moet_host_task task = moet_host_task_at(&tasks, i);
            run_blas_task(g, config, &task, memory);
        }
    }
    alone_leave();
}

/* A deterministic value in (-1, 1) with a full mantissa, so that every change of order shows. */
static float probe_value(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static int32_t blas_invariant(const moet_host_blas_config *config, int32_t n, int32_t k, bool kn)
{
    int32_t result = -1;
    uint32_t state = 1;
    float *panel = malloc(moet_host_blas_thread_bytes(config, k));
    if (!panel) return result;
    float *x = panel + (size_t)config->panel * (size_t)k, *c = x + (size_t)config->block * (size_t)k;
    for (size_t i = 0; i < (size_t)config->panel * (size_t)k; i++) panel[i] = probe_value(&state);
    for (int32_t i = 0; i < k; i++) x[i] = probe_value(&state);
    for (int32_t r = 1; r < config->block; r++) memcpy(x + (size_t)r * (size_t)k, x, (size_t)k * sizeof *x);
    alone_enter();
    /* The sizes of call that a problem has: whole panels and the last one. */
    const int32_t sizes[] = {n < config->panel ? 0 : config->panel, n % config->panel};
    bool equal = true;
    for (int32_t s = 0; s < 2; s++) {
        if (sizes[s] == 0) continue;
        multiply(config, sizes[s], k, kn, x, panel, c);
        for (int32_t j = 0; j < sizes[s]; j++) {
            const float *column = c + (size_t)j * (size_t)config->block;
            for (int32_t r = 1; r < config->block; r++) equal = equal && memcmp(column, column + r, sizeof *c) == 0;
        }
    }
    alone_leave();
    free(panel);
    return equal;
}

/* ---- the module ---- */

static void warm(int32_t threads)
{
#pragma omp parallel num_threads(threads)
    {
        /* Nothing to do but to exist: the barrier keeps the team from being optimised away. */
#pragma omp barrier
    }
}

extern const moet_host_api moet_host_module;
MOET_API const moet_host_api moet_host_module = {
    .interface = MOET_HOST_INTERFACE,
    .isa_usable = moet_host_isa_usable,
    .isa_best = moet_host_isa_best,
    .warm = warm,
    .blas_open = blas_open,
    .blas_invariant = blas_invariant,
    .blas_gemm = blas_gemm,
    .tile_gemm = moet_host_tile_gemm,
};
