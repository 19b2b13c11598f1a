/* host_module: what libmoet_host.so, the shared object with the host families' kernels, exports. libmoet loads it when
 * a host family is first used, so that libmoet itself needs neither OpenMP nor a BLAS. */
#ifndef MOET_HOST_MODULE_H
#define MOET_HOST_MODULE_H

#include "../src/moet.h"

/* Raised with every change below: libmoet and the module must be of one build. */
#define MOET_HOST_INTERFACE 1

/* One grouped GEMM in host memory, as moet_launch_args has it. */
typedef struct moet_host_gemm {
    int32_t experts, n, k;
    bool kn;         /* w is [E, K, N], else [E, N, K] */
    int32_t threads; /* at most this many */
    const uint16_t *x, *w, *bias;
    uint16_t *out;
    const int32_t *counts;
    int64_t max_rows; /* rows past it are neither read nor written */
    void *workspace;  /* threads * the family's bytes per thread */
} moet_host_gemm;

/* host_blas: sgemm calls of one size, `block` rows by `panel` columns by K. */
typedef struct moet_host_blas_config {
    int32_t block, panel;
} moet_host_blas_config;

/* host_tile: register tile mr x nr, cache blocks kc and nc. */
typedef struct moet_host_tile_config {
    int32_t mr, nr, kc, nc;
    bool dynamic; /* threads draw tasks from one counter, else each takes every threads-th */
    int32_t isa;  /* row of the module's table of instruction sets; -1: the best of this processor */
} moet_host_tile_config;

typedef struct moet_host_blas_info {
    char name[64];       /* "OpenBLAS 0.3.21 SkylakeX" */
    int32_t max_threads; /* that may call it at the same time */
} moet_host_blas_info;

/* An instruction set of host_tile's. */
typedef struct moet_host_isa {
    const char *name;         /* "avx512" */
    int32_t lanes, registers; /* floats in a vector, vectors that the compiler can hold */
} moet_host_isa;

/* Rows that a task of host_tile covers: a multiple of every mr. */
#define MOET_HOST_TILE_ROWS 240
/* Elements of the largest register tile: what 32 vector registers of 16 floats hold beside the operands. */
#define MOET_HOST_TILE_MAX 384

/* What the module's one symbol, `moet_host_module`, is. */
typedef struct moet_host_api {
    int32_t interface;
    bool (*isa_usable)(int32_t isa); /* whether this processor has it; false past the table's end */
    void (*isa_best)(moet_host_isa *isa);

    /* Starts the pool of threads for the calling thread, so that a launch need not. */
    void (*warm)(int32_t threads);

    /* Loads OpenBLAS. false, with why[MOET_REASON_SIZE], where it is not there. The others need it. */
    bool (*blas_open)(moet_host_blas_info *info, char *why);
    /* Whether equal rows give equal bits wherever they are in a block, as found by trying. -1: out of memory. */
    int32_t (*blas_invariant)(const moet_host_blas_config *config, int32_t n, int32_t k, bool kn);
    void (*blas_gemm)(const moet_host_gemm *gemm, const moet_host_blas_config *config);

    void (*tile_gemm)(const moet_host_gemm *gemm, const moet_host_tile_config *config);
} moet_host_api;

static inline size_t moet_host_round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* Workspace of one thread: a panel of weights, a block of x and a block of the result, all fp32. */
static inline size_t moet_host_blas_thread_bytes(const moet_host_blas_config *config, int32_t k)
{
    size_t panel = (size_t)config->panel, block = (size_t)config->block, length = (size_t)k;
    return moet_host_round_up((panel * length + block * length + panel * block) * sizeof(float));
}

/* Floats between rows of host_tile's block of x: odd lines apart, so that rows do not share cache sets. */
static inline size_t moet_host_tile_stride(const moet_host_tile_config *config) { return (size_t)config->kc + 16; }

/* Workspace of one thread: a block of weights, of x and of accumulators, all fp32. */
static inline size_t moet_host_tile_thread_bytes(const moet_host_tile_config *config)
{
    size_t kc = (size_t)config->kc, nc = (size_t)config->nc;
    return moet_host_round_up((kc * nc + MOET_HOST_TILE_ROWS * (moet_host_tile_stride(config) + nc)) * sizeof(float));
}

/* ---- host_bind.c, in libmoet ---- */

/* The loaded module, or an error that names the next step. Thread-safe; loads once. */
moet_status moet_host_bind(const moet_host_api **module);

/* OpenBLAS through the module: NOT_FOUND names the package. */
moet_status moet_host_bind_blas(const moet_host_api **module, moet_host_blas_info *info);

#endif
