/* host_tile_kernel: the project's own product on the processor. BF16 is widened block by block: a block of weights
 * [kc, nc] in strips of nr columns, a block of x [rows, kc]; tiles of mr x nr results are kept in registers while k
 * runs through the block, and in memory, in fp32, between blocks. */
#include <assert.h>
#include <omp.h>

#include "host_common.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Tiles whose accumulators fit into 32 vector registers of some instruction set: mr, nr. */
#define TILES(X) X(4, 16) X(4, 32) X(4, 64) X(6, 16) X(6, 32) X(6, 64) X(8, 16) X(8, 32) X(12, 16) X(12, 32)

/* The loop that follows disappears: its bounds are constants, and its arrays become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef uint32_t words __attribute__((vector_size(32)));
#define SHUFFLE __builtin_shufflevector
#define FIRST_OF_PAIR(v) ((v) << 16) /* of two BF16 in a little-endian word, widened */
#define SECOND_OF_PAIR(v) ((v)&0xffff0000u)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pairs of BF16 are unpacked as little-endian words");

#if defined(__x86_64__)
#define ISA(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define VEC __m512
#define LANES 16
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define ZERO _mm512_setzero_ps
#define SPLAT _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#include "host_tile_isa.h"

#define ISA(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VEC __m256
#define LANES 8
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define ZERO _mm256_setzero_ps
#define SPLAT _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#include "host_tile_isa.h"

/* What every x86-64 has. */
#define ISA(name) name##_sse2
#define TARGET
#define VEC __m128
#define LANES 4
#define LOAD _mm_loadu_ps
#define STORE _mm_storeu_ps
#define ZERO _mm_setzero_ps
#define SPLAT _mm_set1_ps
#define FMA(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#include "host_tile_isa.h"
#elif defined(__aarch64__)
#define ISA(name) name##_neon
#define TARGET
#define VEC float32x4_t
#define LANES 4
#define LOAD vld1q_f32
#define STORE vst1q_f32
#define ZERO() vdupq_n_f32(0.0f)
#define SPLAT vdupq_n_f32
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#include "host_tile_isa.h"
#else
#define ISA(name) name##_scalar
#define TARGET
#define VEC float
#define LANES 1
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define ZERO() 0.0f
#define SPLAT(f) (f)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#include "host_tile_isa.h"
#endif

typedef void micro_function(int32_t kc, const float *a, size_t lda, const float *b, float *c, size_t ldc, bool first);
typedef void pack_nk_function(const uint16_t *w, size_t ldw, int32_t kc, float *to, size_t ldt);
typedef void pack_kn_function(const uint16_t *w, size_t ldw, int32_t kc, size_t columns, size_t nr, float *to);

#define TILE_ENUM(MR, NR) TILE_##MR##x##NR,
enum { TILES(TILE_ENUM) TILE_COUNT };

typedef struct isa_row {
    moet_host_isa isa;
    micro_function *micro[TILE_COUNT];
    pack_nk_function *pack_nk;
    pack_kn_function *pack_kn;
    void (*widen)(float *to, const uint16_t *from, int32_t count);
    void (*finish)(uint16_t *to, const float *from, const uint16_t *bias, int32_t count);
} isa_row;

#define ISA_ROW(suffix, lane_count, register_count)                                                                    \
    {                                                                                                                  \
        .isa = {#suffix, lane_count, register_count}, .micro = {TILES(MICRO_##suffix)}, .pack_nk = pack_nk_##suffix,   \
        .pack_kn = pack_kn_##suffix, .widen = widen_##suffix, .finish = finish_##suffix                                \
    }
#define MICRO_avx512(MR, NR) micro_##MR##x##NR##_avx512,
#define MICRO_avx2(MR, NR) micro_##MR##x##NR##_avx2,
#define MICRO_sse2(MR, NR) micro_##MR##x##NR##_sse2,
#define MICRO_neon(MR, NR) micro_##MR##x##NR##_neon,
#define MICRO_scalar(MR, NR) micro_##MR##x##NR##_scalar,

#define ANY_REGISTERS 1024 /* some tile must be allowed, although it spills */

/* Best first; the last needs nothing. */
static const isa_row isa_rows[] = {
#if defined(__x86_64__)
    ISA_ROW(avx512, 16, 32),
    ISA_ROW(avx2, 8, 16),
    ISA_ROW(sse2, 4, ANY_REGISTERS),
#elif defined(__aarch64__)
    ISA_ROW(neon, 4, 32),
#else
    ISA_ROW(scalar, 1, ANY_REGISTERS),
#endif
};
enum { ISA_COUNT = sizeof isa_rows / sizeof *isa_rows };

bool moet_host_isa_usable(int32_t isa)
{
    if (isa < 0 || isa >= ISA_COUNT) return false;
#if defined(__x86_64__)
    const bool has[ISA_COUNT] = {
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl"),
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
        true,
    };
    return has[isa];
#else
    return true;
#endif
}

static const isa_row *best_isa(void)
{
    int32_t isa = 0;
    while (!moet_host_isa_usable(isa)) isa++;
    return &isa_rows[isa];
}

void moet_host_isa_best(moet_host_isa *isa) { *isa = best_isa()->isa; }

static micro_function *find_micro(const isa_row *isa, int32_t mr, int32_t nr)
{
#define TILE_SIZE(MR, NR) {MR, NR},
    static const int32_t sizes[TILE_COUNT][2] = {TILES(TILE_SIZE)};
    int32_t tile = 0;
    while (tile < TILE_COUNT && (sizes[tile][0] != mr || sizes[tile][1] != nr)) tile++;
    assert(tile < TILE_COUNT); /* the family refuses the others */
    return isa->micro[tile];
}

typedef struct tile_run {
    const moet_host_gemm *gemm;
    const moet_host_tile_config *config;
    const isa_row *isa;
    micro_function *micro;
} tile_run;

/* The weights [kc, columns] of a task into strips [kc, nr], the last filled up with zeros. N is a multiple of 8. */
static void pack_weights(const tile_run *run, const moet_host_task *task, int32_t first_k, int32_t kc, float *b)
{
    const moet_host_gemm *g = run->gemm;
    size_t n = (size_t)g->n, k = (size_t)g->k, nr = (size_t)run->config->nr;
    const uint16_t *w = g->w + (size_t)task->expert * n * k;
    size_t columns = (size_t)task->columns, padded = (columns + nr - 1) / nr * nr;
    if (g->kn) run->isa->pack_kn(w + (size_t)first_k * n + (size_t)task->column, n, kc, columns, nr, b);
    for (size_t j = g->kn ? columns : 0; j < padded; j += 8) {
        float *to = b + j / nr * nr * (size_t)kc + j % nr;
        if (j < columns) {
            run->isa->pack_nk(w + ((size_t)task->column + j) * k + (size_t)first_k, k, kc, to, nr);
        } else {
            for (int32_t i = 0; i < kc; i++) memset(to + (size_t)i * nr, 0, 8 * sizeof *to);
        }
    }
}

static void run_task(const tile_run *run, const moet_host_task *task, float *memory)
{
    const moet_host_gemm *g = run->gemm;
    const moet_host_tile_config *config = run->config;
    size_t lda = moet_host_tile_stride(config), ldc = (size_t)config->nc;
    float *b = memory, *a = b + (size_t)config->kc * ldc, *c = a + MOET_HOST_TILE_ROWS * lda;
    int32_t padded_rows = (task->rows + config->mr - 1) / config->mr * config->mr;
    for (int32_t first_k = 0; first_k < g->k; first_k += config->kc) {
        int32_t kc = g->k - first_k < config->kc ? g->k - first_k : config->kc;
        pack_weights(run, task, first_k, kc, b);
        for (int32_t r = 0; r < task->rows; r++)
            run->isa->widen(a + (size_t)r * lda, g->x + (size_t)(task->row + r) * (size_t)g->k + first_k, kc);
        for (int32_t r = task->rows; r < padded_rows; r++) memset(a + (size_t)r * lda, 0, (size_t)kc * sizeof *a);
        for (int32_t j = 0; j < task->columns; j += config->nr) {
            for (int32_t r = 0; r < padded_rows; r += config->mr)
                run->micro(kc, a + (size_t)r * lda, lda, b + (size_t)j * (size_t)kc, c + (size_t)r * ldc + j, ldc,
                           first_k == 0);
        }
    }
    const uint16_t *bias = g->bias ? g->bias + (size_t)task->expert * (size_t)g->n + task->column : NULL;
    for (int32_t r = 0; r < task->rows; r++)
        run->isa->finish(g->out + (size_t)(task->row + r) * (size_t)g->n + task->column, c + (size_t)r * ldc, bias,
                         task->columns);
}

void moet_host_tile_gemm(const moet_host_gemm *gemm, const moet_host_tile_config *config)
{
    const isa_row *isa = config->isa < 0 ? best_isa() : &isa_rows[config->isa];
    tile_run run = {.gemm = gemm, .config = config, .isa = isa, .micro = find_micro(isa, config->mr, config->nr)};
    moet_host_tasks tasks;
    moet_host_tasks_init(&tasks, gemm, MOET_HOST_TILE_ROWS, config->nc);
    size_t bytes = moet_host_tile_thread_bytes(config);
    int32_t next = 0;
#pragma omp parallel num_threads(gemm->threads)
    {
        int32_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        float *memory = (float *)((char *)gemm->workspace + (size_t)thread * bytes);
        int32_t i = thread;
        for (;;) {
            if (config->dynamic) {
#pragma omp atomic capture
                i = next++;
            }
            if (i >= tasks.count) break;
            moet_host_task task = moet_host_task_at(&tasks, i);
            run_task(&run, &task, memory);
            i += threads;
        }
    }
}
