/* mma_gemm.cu: grouped GEMM on BF16 tensor cores for sm_80 and later: mma.sync.m16n8k16, ldmatrix, cp.async.
 *
 *   out[r, :] = bf16(x[r, :] * w[e]^T + bias[e])   for the rows r of expert e, rows of experts in ascending order
 *   x [M, K], w [E, N, K] (nk) or [E, K, N] (kn), bias [E, N], out [M, N]; BF16, row major; N and K multiples of 8
 *
 * Compiled by NVRTC with no header; the tile comes in as macros:
 *   MOET_BM, MOET_BN, MOET_BK    tile of the output (rows, columns) and of K (32 or 64)
 *   MOET_STAGES                  tiles of x and w that shared memory holds (>= 3)
 *   MOET_WARPS_M, MOET_WARPS_N   arrangement of the warps over the output tile
 *   MOET_KN, MOET_BIAS           layout of the weights; whether there is a bias
 *   MOET_NAME                    the kernels are <MOET_NAME>_d (counts in device memory) and _h (counts by value)
 *
 * A fixed grid walks the output tiles of all experts. The K blocks of all tiles of a CTA form one stream through the
 * ring of stages: the loads run STAGES - 1 blocks ahead and cross from tile to tile, so that the next tile arrives
 * while this one is stored. An output element is one accumulator over ascending K from zero, whatever the tile: all
 * configurations give the same bits. */

#define MOET_THREADS (32 * MOET_WARPS_M * MOET_WARPS_N)
#define MOET_WARP_N (MOET_BN / MOET_WARPS_N)
#define MOET_MI (MOET_BM / MOET_WARPS_M / 16) /* m16 blocks of a warp */
#define MOET_NI (MOET_WARP_N / 8)             /* n8 blocks of a warp */
#define MOET_K_STEPS (MOET_BK / 16)

/* One stage in shared memory: x [BM, BK], then w [BN, BK] (nk) or [BK, BN] (kn). Rows are cut into chunks of 16
 * bytes, and the chunk index is XORed with the row's place in the 8 rows that one ldmatrix phase reads: these 8 chunks
 * then lie in 8 different groups of 4 banks. Rows of 64 bytes (BK 32) lie two to a line of 128 bytes. */
#define MOET_A_ROW_BYTES (MOET_BK * 2)
#define MOET_B_ROW_BYTES (MOET_KN ? MOET_BN * 2 : MOET_BK * 2)
#define MOET_A_BYTES (MOET_BM * MOET_BK * 2)
#define MOET_STAGE_BYTES ((MOET_BM + MOET_BN) * MOET_BK * 2)
#define MOET_K_SWIZZLE(row) (MOET_BK == 64 ? (row) & 7 : ((row) >> 1) & 3)
#define MOET_B_SWIZZLE(row) (MOET_KN ? (row) & 7 : MOET_K_SWIZZLE(row))

/* How the threads share a stage's chunks: consecutive threads take a row's chunks, a pass covers *_STEP rows. */
#define MOET_A_ROW_CHUNKS (MOET_A_ROW_BYTES / 16)
#define MOET_B_ROW_CHUNKS (MOET_B_ROW_BYTES / 16)
#define MOET_A_CHUNKS (MOET_A_BYTES / 16)
#define MOET_B_CHUNKS (MOET_BN * MOET_BK / 8)
#define MOET_A_STEP (MOET_THREADS / MOET_A_ROW_CHUNKS)
#define MOET_B_STEP (MOET_THREADS / MOET_B_ROW_CHUNKS)
#define MOET_A_PASSES ((MOET_A_CHUNKS + MOET_THREADS - 1) / MOET_THREADS)
#define MOET_B_PASSES ((MOET_B_CHUNKS + MOET_THREADS - 1) / MOET_THREADS)

/* CTAs an SM should have registers for (64 K registers an SM): accumulators + two sets of fragments + about 40. */
#define MOET_ACCUMULATORS (MOET_MI * MOET_NI * 4)
#if MOET_WARPS_M * MOET_WARPS_N <= 4
#define MOET_MIN_CTAS (MOET_ACCUMULATORS >= 128 ? 2 : MOET_ACCUMULATORS >= 64 ? 3 : 4)
#else
#define MOET_MIN_CTAS (MOET_ACCUMULATORS >= 64 ? 1 : 2)
#endif

#if MOET_BM % (16 * MOET_WARPS_M) != 0 || MOET_BN % (32 * MOET_WARPS_N) != 0 || (MOET_BK != 32 && MOET_BK != 64) ||  \
    MOET_STAGES < 3 || MOET_B_CHUNKS % MOET_THREADS != 0
#error "no such tile"
#endif

#define MOET_MAX_EXPERTS 1024
struct moet_counts {
    int v[MOET_MAX_EXPERTS];
};

/* ---- instructions ---- */

/* Address of shared memory as the instructions below take it. */
__device__ __forceinline__ unsigned moet_shared(const void *pointer)
{
    return (unsigned)__cvta_generic_to_shared(pointer);
}

/* 16 bytes global -> shared past L1, the last 16 - `bytes` of them zeros; with bytes 0 nothing is read. */
__device__ __forceinline__ void moet_copy16(unsigned to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void moet_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits for all but the latest STAGES - 2 groups of this thread. */
__device__ __forceinline__ void moet_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(MOET_STAGES - 2) : "memory");
}

/* Four 8x8 matrices; lanes 8i..8i+7 give the rows' addresses of matrix i. Lane l gets elements 2(l%4), 2(l%4)+1 of
 * row l/4, or of column l/4 when transposed. */
__device__ __forceinline__ void moet_load_4(unsigned *to, unsigned from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

__device__ __forceinline__ void moet_load_4_transposed(unsigned *to, unsigned from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

/* d[16, 8] += a[16, 16] b[16, 8] */
__device__ __forceinline__ void moet_mma(float *d, const unsigned *a, const unsigned *b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two floats to BF16, to nearest even; low goes to the lower half. */
__device__ __forceinline__ unsigned moet_pack(float low, float high)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* ---- schedule ---- */

/* The kernel's arguments, and what a CTA knows of all experts: expert e has rows row_starts[e] .. row_starts[e + 1]
 * and the M tiles tile_starts[e] .. tile_starts[e + 1]. */
struct moet_job {
    const unsigned short *x, *w, *bias;
    unsigned short *out;
    const int *row_starts, *tile_starts;
    int n, k, group;
    int n_tiles, total; /* N tiles of an expert; output tiles of all experts */
};

struct moet_tile {
    int expert;
    int row;  /* first row in x and out */
    int rows; /* rows of the expert from there on, >= 1, may be more than BM */
    int col;  /* first column */
};

/* Sum of `value` over threads 0 .. own; *total over all. scratch: one int a warp. Ends with a barrier, so that scratch
 * may be used again. */
__device__ __forceinline__ int moet_scan(int value, int *scratch, int *total)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int step = 1; step < 32; step *= 2) {
        int below = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += below;
    }
    if (lane == 31) scratch[warp] = value;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < MOET_THREADS / 32; i++) {
        if (i == warp) value += sum;
        sum += scratch[i];
    }
    *total = sum;
    __syncthreads();
    return value;
}

/* Fills row_starts and tile_starts [E + 1]. Counts are not to be trusted: negative ones are 0, and rows past max_rows
 * (at most 2^20) do not exist. */
__device__ __forceinline__ void moet_schedule(const int *counts, int experts, int max_rows, int *row_starts,
                                              int *tile_starts, int *scratch)
{
    int rows_before = 0, tiles_before = 0;
    if (threadIdx.x == 0) row_starts[0] = tile_starts[0] = 0;
    for (int first = 0; first < experts; first += MOET_THREADS) {
        const int expert = first + (int)threadIdx.x;
        int count = expert < experts ? counts[expert] : 0, total;
        count = min(max(count, 0), max_rows);
        int end = moet_scan(count, scratch, &total) + rows_before;
        const int begin = min(end - count, max_rows);
        end = min(end, max_rows);
        rows_before = min(rows_before + total, max_rows);

        const int tiles = (end - begin + MOET_BM - 1) / MOET_BM;
        const int tiles_end = moet_scan(tiles, scratch, &total) + tiles_before;
        tiles_before += total;
        if (expert < experts) {
            row_starts[expert + 1] = end;
            tile_starts[expert + 1] = tiles_end;
        }
    }
    __syncthreads();
}

/* Where output tile number `tile` < total lies. at->expert is 0, or the expert of an earlier tile. Inside an expert,
 * bands of `group` M tiles are walked with M innermost: CTAs that run at the same time share tiles of w and of x. */
__device__ __forceinline__ void moet_locate(const struct moet_job *job, int tile, struct moet_tile *at)
{
    /* A warp looks at 32 experts at a time. tile_starts ascends and its last entry is past `tile`: this ends. */
    int passed;
    do {
        const int next = at->expert + 1 + (int)(threadIdx.x & 31);
        const int is_passed = tile / job->n_tiles >= job->tile_starts[min(next, MOET_MAX_EXPERTS)];
        passed = __popc(__ballot_sync(0xffffffffu, is_passed));
        at->expert += passed;
    } while (passed == 32);

    const int m_first = job->tile_starts[at->expert];
    const int m_tiles = job->tile_starts[at->expert + 1] - m_first;
    const int in_expert = tile - m_first * job->n_tiles;
    const int band = in_expert / (job->group * job->n_tiles);
    const int band_first = band * job->group;
    const int band_height = min(job->group, m_tiles - band_first);
    const int in_band = in_expert - band_first * job->n_tiles;
    const int n_tile = in_band / band_height;
    const int m_row = (band_first + in_band - n_tile * band_height) * MOET_BM;
    at->row = job->row_starts[at->expert] + m_row;
    at->rows = job->row_starts[at->expert + 1] - at->row;
    at->col = n_tile * MOET_BN;
}

