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
    int experts, n, k, group;
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
        const int is_passed = next <= job->experts && job->tile_starts[next] <= tile / job->n_tiles;
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

/* ---- loads ---- */

/* The stream of K blocks on its way into shared memory, as one thread sees it. */
struct moet_loader {
    const unsigned short *a, *b; /* this thread's first chunk of the next block */
    int rows_left, cols_left;    /* rows and columns of the tile from this thread's first chunk on */
    int k_left;                  /* of the tile; 0: there is no further tile */
    int tile, expert;
    unsigned stage; /* byte offset of the stage to be filled */
};

/* What a thread does in every block; offsets in bytes from the start of a stage. */
struct moet_lane {
    int a_row, a_col, b_row, b_col; /* first chunk in the tile of x and of w: row, element in it */
    unsigned a_to, b_to;            /* where they go */
    unsigned a_from, b_from;        /* ldmatrix: row of the first matrix at K step 0 */
    int warp_m, warp_col;           /* the warp's m16 blocks are warp_m, warp_m + WARPS_M, ...; its first column */
};

__device__ __forceinline__ void moet_lane_init(struct moet_lane *me)
{
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    me->a_row = thread / MOET_A_ROW_CHUNKS;
    me->a_col = thread % MOET_A_ROW_CHUNKS * 8;
    me->b_row = thread / MOET_B_ROW_CHUNKS;
    me->b_col = thread % MOET_B_ROW_CHUNKS * 8;
    /* A pass moves by a multiple of 8 rows, which leaves the swizzle as it is (but for w of 256 columns, see below). */
    me->a_to = me->a_row * MOET_A_ROW_BYTES + ((thread % MOET_A_ROW_CHUNKS) ^ MOET_K_SWIZZLE(me->a_row)) * 16;
    me->b_to = MOET_A_BYTES + me->b_row * MOET_B_ROW_BYTES +
               ((thread % MOET_B_ROW_CHUNKS) ^ MOET_B_SWIZZLE(me->b_row)) * 16;

    /* m16 blocks are dealt out to the warps in turn, so that a tile with few rows keeps all warps busy. */
    me->warp_m = warp / MOET_WARPS_N;
    me->warp_col = warp % MOET_WARPS_N * MOET_WARP_N;

    /* a0..a3: rows 0-7 and 8-15 of K 0-7, then of K 8-15. */
    const int a_row = me->warp_m * 16 + (lane & 15);
    me->a_from = a_row * MOET_A_ROW_BYTES + ((lane >> 4) ^ MOET_K_SWIZZLE(a_row)) * 16;
    /* b0, b1 of two n8 blocks: K 0-7 and 8-15 of columns 0-7, then of columns 8-15. */
    if (MOET_KN) {
        const int row = lane & 15, chunk = me->warp_col / 8 + (lane >> 4);
        me->b_from = MOET_A_BYTES + row * MOET_B_ROW_BYTES + (chunk ^ MOET_B_SWIZZLE(row)) * 16;
    } else {
        const int row = me->warp_col + (lane & 7) + (lane >> 4) * 8, chunk = (lane >> 3) & 1;
        me->b_from = MOET_A_BYTES + row * MOET_B_ROW_BYTES + (chunk ^ MOET_B_SWIZZLE(row)) * 16;
    }
}

/* Points the loader at its tile. */
__device__ __forceinline__ void moet_loader_aim(struct moet_loader *load, const struct moet_job *job,
                                                const struct moet_lane *me)
{
    struct moet_tile at;
    load->k_left = 0;
    if (load->tile >= job->total) return;
    at.expert = load->expert;
    moet_locate(job, load->tile, &at);
    load->expert = at.expert;
    load->k_left = job->k;
    load->rows_left = at.rows - me->a_row;
    load->a = job->x + (long long)(at.row + me->a_row) * job->k + me->a_col;
    load->cols_left = job->n - at.col - (MOET_KN ? me->b_col : me->b_row);
    if (MOET_KN)
        load->b = job->w + ((long long)at.expert * job->k + me->b_row) * job->n + at.col + me->b_col;
    else
        load->b = job->w + ((long long)at.expert * job->n + at.col + me->b_row) * job->k + me->b_col;
}

/* Issues the copies of one K block and moves on to the next one, which may be the first of the next tile. What lies
 * past the expert's rows, N or K is filled with zeros. Commits a group in any case: the waits count groups. */
__device__ __forceinline__ void moet_loader_step(struct moet_loader *load, const struct moet_job *job,
                                                 const struct moet_lane *me, unsigned shared)
{
    if (load->k_left > 0) {
        const unsigned a_to = shared + load->stage + me->a_to, b_to = shared + load->stage + me->b_to;
        const int a_rows = me->a_col < load->k_left ? load->rows_left : 0;
#pragma unroll
        for (int i = 0; i < MOET_A_PASSES; i++)
            if ((i + 1) * MOET_THREADS <= MOET_A_CHUNKS || i * MOET_THREADS + (int)threadIdx.x < MOET_A_CHUNKS)
                moet_copy16(a_to + i * MOET_A_STEP * MOET_A_ROW_BYTES, load->a + (long long)(i * MOET_A_STEP) * job->k,
                            i * MOET_A_STEP < a_rows ? 16 : 0);
        if (MOET_KN) {
            /* Rows are K. Of a tile of 256 columns a pass of 128 threads covers 4 rows: every other pass is in the
             * other half of the 8 rows, where the swizzle differs in chunk bit 2. */
            const int b_rows = load->cols_left > 0 ? load->k_left - me->b_row : 0;
#pragma unroll
            for (int i = 0; i < MOET_B_PASSES; i++)
                moet_copy16((b_to ^ ((i * MOET_B_STEP & 4) << 4)) + i * MOET_B_STEP * MOET_B_ROW_BYTES,
                            load->b + (long long)(i * MOET_B_STEP) * job->n, i * MOET_B_STEP < b_rows ? 16 : 0);
            load->b += (long long)MOET_BK * job->n;
        } else {
            const int b_rows = me->b_col < load->k_left ? load->cols_left : 0;
#pragma unroll
            for (int i = 0; i < MOET_B_PASSES; i++)
                moet_copy16(b_to + i * MOET_B_STEP * MOET_B_ROW_BYTES, load->b + (long long)(i * MOET_B_STEP) * job->k,
                            i * MOET_B_STEP < b_rows ? 16 : 0);
            load->b += MOET_BK;
        }
        load->a += MOET_BK;
        load->k_left -= MOET_BK;
        load->stage += MOET_STAGE_BYTES;
        if (load->stage == MOET_STAGES * MOET_STAGE_BYTES) load->stage = 0;
        if (load->k_left <= 0) {
            load->tile += gridDim.x;
            moet_loader_aim(load, job, me);
        }
    }
    moet_copy_commit();
}

/* ---- math ---- */

struct moet_fragments {
    unsigned a[MOET_MI][4], b[MOET_NI][2];
};

/* Fragments of K step `step` from the stage at shared address `stage`. */
__device__ __forceinline__ void moet_fragments_load(struct moet_fragments *to, unsigned stage, int step,
                                                    const struct moet_lane *me)
{
    /* Stages are aligned to 128 bytes and the step is chunk bits 1 and 2: XOR commutes with the swizzle. */
    const unsigned a = (stage + me->a_from) ^ (step * 32);
#pragma unroll
    for (int i = 0; i < MOET_MI; i++) moet_load_4(to->a[i], a + i * MOET_WARPS_M * 16 * MOET_A_ROW_BYTES);
    const unsigned b = stage + me->b_from;
#pragma unroll
    for (int i = 0; i < MOET_NI; i += 2) {
        if (MOET_KN)
            moet_load_4_transposed(to->b[i], (b ^ (i * 16)) + step * 16 * MOET_B_ROW_BYTES);
        else
            moet_load_4(to->b[i], (b ^ (step * 32)) + i * 8 * MOET_B_ROW_BYTES);
    }
}

/* The K loop of a tile. On entry and exit fragments[0] holds the next block's first step. `live`: the warp's first
 * m16 blocks that have rows; with `full` (a constant) all have. */
__device__ __forceinline__ void moet_k_loop(int full, int live, float (*sums)[MOET_NI][4],
                                            struct moet_fragments *fragments, unsigned *stage,
                                            struct moet_loader *load, const struct moet_job *job,
                                            const struct moet_lane *me, unsigned shared)
{
    for (int k = 0; k < job->k; k += MOET_BK) {
#pragma unroll
        for (int step = 0; step < MOET_K_STEPS; step++) {
            if (step == MOET_K_STEPS - 1) {
                /* The next block is here, and everyone has read this one into registers: it may be overwritten. */
                moet_copy_wait();
                __syncthreads();
                *stage += MOET_STAGE_BYTES;
                if (*stage == MOET_STAGES * MOET_STAGE_BYTES) *stage = 0;
            }
            moet_fragments_load(&fragments[(step + 1) & 1], shared + *stage, (step + 1) % MOET_K_STEPS, me);
            if (step == 0) moet_loader_step(load, job, me, shared);

            const struct moet_fragments *now = &fragments[step & 1];
#pragma unroll
            for (int i = 0; i < MOET_MI; i++)
                if (full || i < live) {
#pragma unroll
                    for (int j = 0; j < MOET_NI; j++) moet_mma(sums[i][j], now->a[i], now->b[j]);
                }
        }
    }
}

/* Rounds and stores a warp's part. A thread holds 2 columns of each n8 block; four threads trade those of four blocks
 * for 8 adjacent columns, so that a warp stores 64 adjacent bytes of 8 rows at a time. N is a multiple of 8: a chunk
 * is stored or it is not. */
__device__ __forceinline__ void moet_store(const float (*sums)[MOET_NI][4], const struct moet_tile *at, int live,
                                           const struct moet_job *job, const struct moet_lane *me)
{
    const int lane = threadIdx.x & 31, quad = lane & 3;
#pragma unroll
    for (int j = 0; j < MOET_NI; j += 4) {
        const int block_col = at->col + me->warp_col + j * 8, col = block_col + quad * 8;
        float bias[4][2];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const int bias_col = block_col + b * 8 + quad * 2;
            unsigned pair = 0;
            if (MOET_BIAS && bias_col < job->n)
                pair = *(const unsigned *)(job->bias + (long long)at->expert * job->n + bias_col);
            bias[b][0] = __uint_as_float(pair << 16);
            bias[b][1] = __uint_as_float(pair & 0xffff0000u);
        }
#pragma unroll
        for (int i = 0; i < MOET_MI; i++) {
            if (i >= live) break;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned v[4];
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    float low = sums[i][j + b][half * 2], high = sums[i][j + b][half * 2 + 1];
                    if (MOET_BIAS) {
                        low += bias[b][0];
                        high += bias[b][1];
                    }
                    v[b] = moet_pack(low, high);
                }
                /* 4x4 transposition: block of the register and place of the thread change roles, bit by bit. */
#pragma unroll
                for (int bit = 1; bit < 4; bit *= 2) {
                    const int upper = quad & bit;
#pragma unroll
                    for (int b = 0; b < 4; b++) {
                        if (b & bit) continue;
                        const unsigned given = upper ? v[b] : v[b + bit];
                        const unsigned got = __shfl_xor_sync(0xffffffffu, given, bit);
                        v[b] = upper ? got : v[b];
                        v[b + bit] = upper ? v[b + bit] : got;
                    }
                }
                const int row = (i * MOET_WARPS_M + me->warp_m) * 16 + half * 8 + (lane >> 2);
                if (row < at->rows && col < job->n)
                    *(uint4 *)(job->out + (long long)(at->row + row) * job->n + col) =
                        make_uint4(v[0], v[1], v[2], v[3]);
            }
        }
    }
}

/* ---- kernels ---- */

/* Dynamic shared memory: stages * STAGE_BYTES, then 2 (E + 1) + 8 ints. */
__device__ __forceinline__ void moet_body(const unsigned short *x, const unsigned short *w, const unsigned short *bias,
                                          unsigned short *out, const int *counts, int experts, int n, int k,
                                          int max_rows, int group)
{
    extern __shared__ __align__(128) unsigned char shared_memory[];
    int *row_starts = (int *)(shared_memory + MOET_STAGES * MOET_STAGE_BYTES);
    int *tile_starts = row_starts + experts + 1;
    moet_schedule(counts, experts, max_rows, row_starts, tile_starts, tile_starts + experts + 1);

    struct moet_job job;
    job.x = x, job.w = w, job.bias = bias, job.out = out;
    job.row_starts = row_starts, job.tile_starts = tile_starts;
    job.experts = experts, job.n = n, job.k = k, job.group = group;
    job.n_tiles = (n + MOET_BN - 1) / MOET_BN;
    job.total = tile_starts[experts] * job.n_tiles;
    int tile = blockIdx.x;
    if (tile >= job.total) return;

    const unsigned shared = moet_shared(shared_memory);
    struct moet_lane me;
    moet_lane_init(&me);
    struct moet_loader load;
    load.tile = tile, load.expert = 0, load.stage = 0;
    moet_loader_aim(&load, &job, &me);
    for (int i = 0; i < MOET_STAGES - 1; i++) moet_loader_step(&load, &job, &me, shared);

    struct moet_fragments fragments[2];
    unsigned stage = 0; /* byte offset of the one being read */
    moet_copy_wait();
    __syncthreads();
    moet_fragments_load(&fragments[0], shared, 0, &me);

    struct moet_tile at;
    at.expert = 0;
    for (; tile < job.total; tile += gridDim.x) {
        moet_locate(&job, tile, &at);
        float sums[MOET_MI][MOET_NI][4];
#pragma unroll
        for (int i = 0; i < MOET_MI; i++)
#pragma unroll
            for (int j = 0; j < MOET_NI; j++) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0.0f;

        /* A tile always has its first m16 block. */
        const int is_full = MOET_BM == 16 || (at.rows >= MOET_BM && at.col + MOET_BN <= n);
        int live = MOET_MI;
        if (!is_full) {
            const int blocks = (min(at.rows, MOET_BM) + 15) / 16 - me.warp_m;
            live = at.col + me.warp_col < n && blocks > 0 ? (blocks + MOET_WARPS_M - 1) / MOET_WARPS_M : 0;
            moet_k_loop(0, live, sums, fragments, &stage, &load, &job, &me, shared);
        } else {
            moet_k_loop(1, live, sums, fragments, &stage, &load, &job, &me, shared);
        }
        moet_store(sums, &at, live, &job, &me);
    }
}

#define MOET_JOIN_(a, b) a##b
#define MOET_JOIN(a, b) MOET_JOIN_(a, b)

/* Counts in device memory: a captured graph replays with whatever they are then. */
extern "C" __global__ void __launch_bounds__(MOET_THREADS, MOET_MIN_CTAS)
    MOET_JOIN(MOET_NAME, _d)(const unsigned short *__restrict__ x, const unsigned short *__restrict__ w,
                             const unsigned short *__restrict__ bias, unsigned short *__restrict__ out,
                             const int *__restrict__ counts, int experts, int n, int k, int max_rows, int group)
{
    moet_body(x, w, bias, out, counts, experts, n, k, max_rows, group);
}

/* Counts by value: no copy to the device before the launch. */
extern "C" __global__ void __launch_bounds__(MOET_THREADS, MOET_MIN_CTAS)
    MOET_JOIN(MOET_NAME, _h)(const unsigned short *__restrict__ x, const unsigned short *__restrict__ w,
                             const unsigned short *__restrict__ bias, unsigned short *__restrict__ out,
                             const __grid_constant__ struct moet_counts counts, int experts, int n, int k, int max_rows,
                             int group)
{
    moet_body(x, w, bias, out, counts.v, experts, n, k, max_rows, group);
}
