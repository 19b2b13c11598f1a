/* wgmma_gemm.cu: grouped GEMM on BF16 tensor cores for sm_90a: TMA loads, mbarrier pipeline, wgmma; warp-specialised.
 *
 *   out[r, :] = bf16(x[r, :] * w[e]^T + bias[e])   for the rows r of expert e, rows of experts in ascending order
 *   x [M, K], w [E, N, K] (nk) or [E, K, N] (kn), bias [E, N], out [M, N]; BF16, row major; N and K multiples of 8
 *
 * A fixed grid of one CTA an SM walks the output tiles of all experts. One thread of warpgroup 0 copies the K blocks of
 * all its CTA's tiles, one stream through the ring of stages; warpgroups 1 and 2 multiply and store. An output element
 * is one accumulator over ascending K from zero, whatever the tile: all configurations give the same bits. Every
 * warp finds the tiles for itself, from the prefix sums in shared memory. */

/* ---- schedule ---- */

/* The kernel's arguments, and what a CTA knows of all experts: expert e has rows row_starts[e] .. row_starts[e + 1]
 * and the row tiles tile_starts[e] .. tile_starts[e + 1]. */
struct moet_job {
    const struct moet_map *x, *w;
    const unsigned short *bias;
    unsigned short *out;
    const int *row_starts, *tile_starts;
    int experts, n, k_blocks, group;
    int n_tiles, total; /* column tiles of an expert; output tiles of all experts */
};

struct moet_tile {
    int expert;
    int row;  /* first row in x and out */
    int rows; /* that are to be computed, 1 ... TILE_ROWS */
    int col;  /* first column */
};

/* Rows of a row tile of an expert with this many rows. Swapped, the width of the instruction follows the tile, in
 * steps of 16: the tiles of an expert are made equal. */
__device__ __forceinline__ int moet_tile_height(int rows)
{
    if (!MOET_SWAP) return MOET_TILE_ROWS;
    const int tiles = (rows + MOET_TILE_ROWS - 1) / MOET_TILE_ROWS;
    return ((rows + tiles - 1) / tiles + 15) / 16 * 16;
}

/* Sum of `value` over lanes 0 .. own. */
__device__ __forceinline__ int moet_scan(int value)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        int below = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += below;
    }
    return value;
}

/* One warp fills row_starts and tile_starts [E + 1]. Counts are not to be trusted: negative ones are 0, and rows past
 * max_rows (at most 2^20) do not exist. */
__device__ __forceinline__ void moet_schedule(const int *counts, int experts, int max_rows, int *row_starts,
                                              int *tile_starts)
{
    /* Each lane has some experts in a row. */
    const int lane = threadIdx.x & 31, each = (experts + 31) / 32;
    const int first = min(lane * each, experts), end = min(first + each, experts);
    int rows = 0, tiles = 0;
    for (int e = first; e < end; e++) {
        const int count = min(max(counts[e], 0), max_rows);
        row_starts[e + 1] = count;
        rows += count;
    }
    int row = moet_scan(rows) - rows;
    for (int e = first; e < end; e++) {
        const int begin = min(row, max_rows);
        row += row_starts[e + 1];
        row_starts[e + 1] = min(row, max_rows);
        tiles += (min(row, max_rows) - begin + MOET_TILE_ROWS - 1) / MOET_TILE_ROWS;
        tile_starts[e + 1] = tiles;
    }
    const int before = moet_scan(tiles) - tiles;
    for (int e = first; e < end; e++) tile_starts[e + 1] += before;
    if (lane == 0) row_starts[0] = tile_starts[0] = 0;
}

/* Where output tile number `tile` < total lies, for a whole warp. at->expert is 0, or the expert of an earlier tile.
 * Inside an expert, bands of `group` row tiles are walked with rows innermost: CTAs that run at the same time share
 * tiles of w and of x. */
__device__ __forceinline__ void moet_locate(const struct moet_job *job, int tile, struct moet_tile *at)
{
    /* A warp looks at 32 experts at a time. tile_starts ascends and its last entry is past `tile`: this ends. */
    const int row_tile = tile / job->n_tiles;
    int passed;
    do {
        const int next = at->expert + 1 + (int)(threadIdx.x & 31);
        const int is_passed = next <= job->experts && job->tile_starts[next] <= row_tile;
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
    const int row_first = job->row_starts[at->expert], row_end = job->row_starts[at->expert + 1];
    const int height = moet_tile_height(row_end - row_first);
    at->row = row_first + (band_first + in_band - n_tile * band_height) * height;
    at->rows = min(row_end - at->row, height);
    at->col = n_tile * MOET_TILE_COLS;
}

/* ---- the ring of stages ---- */

/* One warpgroup's place in it. */
struct moet_ring {
    unsigned stages, full, empty; /* shared addresses: stage 0, its barriers; those of the next stage are 8 bytes on */
    unsigned turns;               /* barriers for the math warpgroups' turns */
    int stage;
    unsigned phase; /* parity of the pass over the ring */
};

__device__ __forceinline__ void moet_ring_step(struct moet_ring *ring)
{
    ring->stage++;
    if (ring->stage == MOET_STAGES) {
        ring->stage = 0;
        ring->phase ^= 1;
    }
}

__device__ __forceinline__ void moet_ring_skip(struct moet_ring *ring, int blocks)
{
    const int stage = ring->stage + blocks;
    ring->phase ^= (stage / MOET_STAGES) & 1;
    ring->stage = stage % MOET_STAGES;
}

/* Copies one K block. A cluster would share these copies out by rank and multicast them; then the full barriers expect
 * the bytes of all ranks' copies, and the empty ones arrivals of all ranks' math warps. */
__device__ __forceinline__ void moet_copy_block(const struct moet_job *job, const struct moet_tile *at, int boxes,
                                                int k, unsigned stage, unsigned full)
{
    const unsigned x = stage + MOET_X_OFFSET, w = stage + MOET_W_OFFSET;
#pragma unroll
    for (int i = 0; i < MOET_TILE_ROWS / MOET_X_BOX; i++)
        if (i < boxes) moet_copy_2d(x + i * MOET_X_BOX * MOET_LINE_BYTES, job->x, full, k, at->row + i * MOET_X_BOX);
    if (!MOET_KN) {
        moet_copy_3d(w, job->w, full, k, at->col, at->expert);
    } else {
#pragma unroll
        for (int i = 0; i < MOET_TILE_COLS / 64; i++)
            moet_copy_3d(w + i * MOET_BLOCK_BYTES, job->w, full, at->col + i * 64, k, at->expert);
    }
}

/* The copying warp's whole life. */
__device__ __forceinline__ void moet_copy_tiles(const struct moet_job *job, struct moet_ring *ring)
{
    struct moet_tile at;
    at.expert = 0;
    for (int tile = blockIdx.x; tile < job->total; tile += gridDim.x) {
        moet_locate(job, tile, &at);
        /* Rows up to the box's end may be the next expert's: they are computed into rows that nobody stores. */
        const int boxes = (at.rows + MOET_X_BOX - 1) / MOET_X_BOX;
        const unsigned bytes = boxes * MOET_X_BOX * MOET_LINE_BYTES + MOET_W_BYTES;
        for (int block = 0; block < job->k_blocks; block++) {
            if ((threadIdx.x & 31) == 0) {
                const unsigned full = ring->full + 8 * ring->stage;
                moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1); /* the first pass does not wait */
                moet_barrier_expect(full, bytes);
                moet_copy_block(job, &at, boxes, block * MOET_BK, ring->stages + ring->stage * MOET_STAGE_BYTES, full);
            }
            moet_ring_step(ring);
        }
        __syncwarp();
    }
}

/* ---- math ---- */

/* The K loop of a tile, for the first `blocks` m64 blocks of the warpgroup and instructions of `width` (constants).
 * m_offset: of the first m64 block in the M side's operand; the others are TILE_GROUPS blocks apart. A stage is
 * released when the next one's instructions are under way. Ping-pong: the last block's go ahead gives the other
 * warpgroup its turn. */
__device__ __forceinline__ void moet_k_loop(int blocks, int width, float (*sums)[MOET_SUMS], struct moet_ring *ring,
                                            int group, unsigned m_offset, int k_blocks)
{
    const int is_signaller = (threadIdx.x & 31) == 0;
    unsigned before = 0; /* empty barrier of the stage before this one */
    moet_mma_pin(blocks, width, sums);
    for (int block = 0; block < k_blocks; block++) {
        const unsigned stage = ring->stages + ring->stage * MOET_STAGE_BYTES, empty = ring->empty + 8 * ring->stage;
        moet_barrier_wait(ring->full + 8 * ring->stage, ring->phase);
        if (blocks == 0) {
            if (is_signaller) moet_barrier_arrive(empty);
        } else {
            const unsigned a = MOET_DESCRIPTOR_LOW(MOET_M_KN, stage + m_offset);
            const unsigned b = MOET_DESCRIPTOR_LOW(MOET_N_KN, stage + MOET_M_BYTES);
            moet_mma_fence();
#pragma unroll
            for (int step = 0; step < MOET_BK / 16; step++)
#pragma unroll
                for (int i = 0; i < blocks; i++)
                    moet_mma(width, sums[i], a + i * (MOET_TILE_GROUPS * MOET_BLOCK_BYTES / 16) + step * MOET_M_STEP,
                             b + step * MOET_N_STEP, block | step);
            moet_mma_commit();
            if (MOET_PINGPONG && block == k_blocks - 1 && is_signaller)
                moet_barrier_arrive(ring->turns + 8 * (group ^ 1));
            moet_mma_wait_previous();
            if (block > 0 && is_signaller) moet_barrier_arrive(before);
            before = empty;
        }
        moet_ring_step(ring);
    }
    if (blocks > 0) {
        moet_mma_wait();
        moet_mma_pin(blocks, width, sums);
        if (is_signaller) moet_barrier_arrive(before);
    }
}

/* `live`: the warpgroup's m64 blocks that have anything to compute. */
__device__ __forceinline__ void moet_multiply(const struct moet_tile *at, int live, float (*sums)[MOET_SUMS],
                                              struct moet_ring *ring, int group, unsigned m_offset, int k_blocks)
{
    if (!MOET_PINGPONG && live <= 0) {
        moet_k_loop(0, 0, sums, ring, group, m_offset, k_blocks);
#if !MOET_SWAP
    } else if (live > 2 || live >= MOET_MI) { /* a block without rows is computed and not stored */
        moet_k_loop(MOET_MI, MOET_BN, sums, ring, group, m_offset, k_blocks);
    } else if (MOET_MI > 2 && live == 2) {
        moet_k_loop(MOET_MI > 2 ? 2 : 1, MOET_BN, sums, ring, group, m_offset, k_blocks);
    } else {
        moet_k_loop(1, MOET_BN, sums, ring, group, m_offset, k_blocks);
    }
#else
    } else {
#define MOET_WIDTH_CASE(n, a_operand, b_operand, add_operand)                                                         \
    if (n < MOET_BN && at->rows <= n) moet_k_loop(MOET_MI, n, sums, ring, group, m_offset, k_blocks);                 \
    else
        MOET_WIDTHS(MOET_WIDTH_CASE)
        moet_k_loop(MOET_MI, MOET_BN, sums, ring, group, m_offset, k_blocks);
    }
#endif
}

/* ---- store ---- */

/* In an m64 block, warp i has rows 16i..16i+15; of n8 block j lane l holds, in sums 4j..4j+3, columns 2(l%4) and the
 * next one of row l/4, then of row l/4 + 8. Lines of 128 bytes (64 columns of out) go through shared memory, so that 8
 * lanes store a whole line; chunk ^= row & 7 keeps both sides free of bank conflicts. N is a multiple of 8: a chunk is
 * stored or it is not. */

/* threadIdx.x as a value that is made here: what follows from it is not computed before the K loop, where registers are
 * scarce. */
__device__ __forceinline__ int moet_thread_now(void)
{
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

/* Not swapped: a warp's 16 rows, 64 columns at a time, through the warp's own 16 lines. m_block: of the tile. */
__device__ __forceinline__ void moet_store(const float *sums, const struct moet_tile *at, int m_block,
                                           const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS, quad = lane & 3;
    const int row_first = m_block * 64 + warp * 16;
    const int matrix_row = (lane & 7) + (lane >> 3 & 1) * 8;
    lines += warp * 16 * MOET_LINE_BYTES;
    if (row_first >= at->rows) return;
#pragma unroll
    for (int first = 0; first < MOET_BN / 8; first += 8) {
        const int blocks = MOET_BN / 8 - first < 8 ? MOET_BN / 8 - first : 8;
        const int col_first = at->col + first * 8;
        if (col_first >= job->n) break;
#pragma unroll
        for (int j = 0; j < blocks; j += 2) {
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 2; b++) {
                const float *s = sums + (first + j + b) * 4;
                unsigned pair = 0;
                const int col = col_first + (j + b) * 8 + quad * 2;
                if (MOET_BIAS && col < job->n)
                    pair = *(const unsigned *)(job->bias + (long long)at->expert * job->n + col);
                const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
                v[b * 2] = MOET_BIAS ? moet_pack(s[0] + low, s[1] + high) : moet_pack(s[0], s[1]);
                v[b * 2 + 1] = MOET_BIAS ? moet_pack(s[2] + low, s[3] + high) : moet_pack(s[2], s[3]);
            }
            moet_store_4(lines + matrix_row * MOET_LINE_BYTES + (((j + (lane >> 4)) ^ (lane & 7)) << 4), v);
        }
        __syncwarp();
        const int reader = MOET_TIGHT ? moet_thread_now() & 31 : lane;
#pragma unroll
        for (int pass = 0; pass < 4; pass++) {
            const int line = pass * 4 + (reader >> 3), chunk = reader & 7;
            const int row = row_first + line, col = col_first + chunk * 8;
            const uint4 v = moet_load_16(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4));
            if (row < at->rows && chunk < blocks && col < job->n)
                *(uint4 *)(job->out + (long long)(at->row + row) * job->n + col) = v;
        }
        __syncwarp();
    }
}

/* Swapped: m64 is 64 columns of out and n8 is 8 rows: matrices are transposed on their way, and the four warps of the
 * group make up a line; 64 rows at a time. */
__device__ __forceinline__ void moet_store_swapped(const float *sums, const struct moet_tile *at, int m_block,
                                                   const struct moet_job *job, unsigned lines)
{
    const int thread_now = moet_thread_now(), thread = thread_now % MOET_GROUP_THREADS;
    const int lane = thread & 31, warp = thread / 32;
    const int col_first = at->col + m_block * 64, barrier = thread_now / MOET_GROUP_THREADS;
    if (col_first >= job->n) return;
    float bias[2] = {0.0f, 0.0f};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int col = col_first + warp * 16 + half * 8 + (lane >> 2);
        if (MOET_BIAS && col < job->n) bias[half] = moet_widen(job->bias[(long long)at->expert * job->n + col]);
    }
#pragma unroll
    for (int first = 0; first < MOET_BN / 8; first += 8) {
        if (first * 8 >= at->rows) break;
#pragma unroll
        for (int j = 0; j < 8 && first + j < MOET_BN / 8; j += 2) {
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 4; b++) {
                const float *s = sums + (first + j + b / 2) * 4 + b % 2 * 2;
                v[b] = MOET_BIAS ? moet_pack(s[0] + bias[b % 2], s[1] + bias[b % 2]) : moet_pack(s[0], s[1]);
            }
            /* Matrices: columns 0-7 and 8-15 of rows 0-7, then of rows 8-15. */
            const int line = j * 8 + (lane >> 4) * 8 + (lane & 7), chunk = warp * 2 + (lane >> 3 & 1);
            if (first * 8 + j * 8 < at->rows)
                moet_store_4_transposed(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4), v);
        }
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        const int reader = MOET_TIGHT ? moet_thread_now() % MOET_GROUP_THREADS : thread;
#pragma unroll
        for (int pass = 0; pass < 4; pass++) {
            const int line = pass * 16 + (reader >> 3), chunk = reader & 7;
            const int row = first * 8 + line, col = col_first + chunk * 8;
            if (row < at->rows && col < job->n)
                *(uint4 *)(job->out + (long long)(at->row + row) * job->n + col) =
                    moet_load_16(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4));
        }
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
    }
}

/* A math warpgroup's whole life. group: 0 or 1. */
__device__ __forceinline__ void moet_math_tiles(const struct moet_job *job, struct moet_ring *ring, int group,
                                                unsigned lines)
{
    const int first = MOET_PINGPONG ? 0 : group; /* m64 blocks first, first + TILE_GROUPS, ... of the tile */
    struct moet_tile at;
    at.expert = 0;
    if (MOET_PINGPONG && group == 1) moet_ring_skip(ring, job->k_blocks);
    /* turn: number of the tile among the CTA's */
    for (int turn = MOET_PINGPONG ? group : 0;; turn += MOET_PINGPONG ? MOET_MATH_GROUPS : 1) {
        const int tile = blockIdx.x + turn * gridDim.x;
        if (tile >= job->total) break;
        moet_locate(job, tile, &at);
        const int extent = min(MOET_SWAP ? job->n - at.col : at.rows, MOET_BM);
        const int live = ((extent + 63) / 64 - first + MOET_TILE_GROUPS - 1) / MOET_TILE_GROUPS;
        /* Blocks are waited for in the order of the ring: parities do not tell a pass from the one before the last.
         * Turn 0 does not wait. */
        if (MOET_PINGPONG) moet_barrier_wait(ring->turns + 8 * group, (turn / MOET_MATH_GROUPS + (group == 0)) & 1);
        float sums[MOET_MI][MOET_SUMS]; /* the first instruction does not read them */
        moet_multiply(&at, live, sums, ring, group, first * MOET_BLOCK_BYTES, job->k_blocks);
#pragma unroll
        for (int i = 0; i < MOET_MI; i++) {
            if (MOET_SWAP)
                moet_store_swapped(sums[i], &at, first + i * MOET_TILE_GROUPS, job, lines);
            else
                moet_store(sums[i], &at, first + i * MOET_TILE_GROUPS, job, lines);
        }
        if (MOET_PINGPONG) moet_ring_skip(ring, job->k_blocks);
    }
}

/* ---- kernels ---- */

__device__ __forceinline__ void moet_body(const struct moet_map *x, const struct moet_map *w,
                                          const unsigned short *bias, unsigned short *out, const int *counts,
                                          int experts, int n, int k, int max_rows, int group)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const unsigned shared = moet_shared(shared_memory);
    int *row_starts = (int *)(shared_memory + MOET_STARTS_OFFSET);
    int *tile_starts = row_starts + experts + 1;
    struct moet_ring ring;
    ring.stages = shared;
    ring.full = shared + MOET_BARRIER_OFFSET;
    ring.empty = ring.full + 8 * MOET_STAGES;
    ring.turns = ring.empty + 8 * MOET_STAGES;
    ring.stage = 0, ring.phase = 0;

    /* Uniform over a warp, and the compiler sees it. */
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), warpgroup = warp / MOET_MATH_WARPS;
    if (warp == 0) moet_schedule(counts, experts, max_rows, row_starts, tile_starts);
    if (threadIdx.x == 32) {
#ifdef MOET_WATCHDOG
        if (shared % 1024 != 0) moet_bark(2, shared, 0);
#endif
        moet_map_prefetch(x);
        moet_map_prefetch(w);
        for (int i = 0; i < MOET_STAGES; i++) {
            moet_barrier_init(ring.full + 8 * i, 1);
            moet_barrier_init(ring.empty + 8 * i, MOET_TILE_GROUPS * MOET_MATH_WARPS);
        }
        for (int i = 0; i < MOET_MATH_GROUPS; i++) moet_barrier_init(ring.turns + 8 * i, MOET_MATH_WARPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* the copies' proxy sees the barriers */
    }
    __syncthreads();

    struct moet_job job;
    job.x = x, job.w = w, job.bias = bias, job.out = out;
    job.row_starts = row_starts, job.tile_starts = tile_starts;
    job.experts = experts, job.n = n, job.group = group;
    job.k_blocks = (k + MOET_BK - 1) / MOET_BK;
    job.n_tiles = (n + MOET_TILE_COLS - 1) / MOET_TILE_COLS;
    job.total = tile_starts[experts] * job.n_tiles;

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(MOET_COPY_REGISTERS));
        if (warp == 0) moet_copy_tiles(&job, &ring);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MOET_MATH_REGISTERS));
        moet_math_tiles(&job, &ring, warpgroup - 1, shared + MOET_STORE_OFFSET + (warpgroup - 1) * MOET_STORE_BYTES);
    }
}

#define MOET_JOIN_(a, b) a##b
#define MOET_JOIN(a, b) MOET_JOIN_(a, b)

/* Counts in device memory: a captured graph replays with whatever they are then. */
extern "C" __global__ void __launch_bounds__(MOET_THREADS, 1)
    MOET_JOIN(MOET_NAME, _d)(const __grid_constant__ struct moet_map x, const __grid_constant__ struct moet_map w,
                             const unsigned short *__restrict__ bias, unsigned short *__restrict__ out,
                             const int *__restrict__ counts, int experts, int n, int k, int max_rows, int group)
{
    moet_body(&x, &w, bias, out, counts, experts, n, k, max_rows, group);
}

/* Counts by value: no copy to the device before the launch. */
extern "C" __global__ void __launch_bounds__(MOET_THREADS, 1)
    MOET_JOIN(MOET_NAME, _h)(const __grid_constant__ struct moet_map x, const __grid_constant__ struct moet_map w,
                             const unsigned short *__restrict__ bias, unsigned short *__restrict__ out,
                             const __grid_constant__ struct moet_counts counts, int experts, int n, int k, int max_rows,
                             int group)
{
    moet_body(&x, &w, bias, out, counts.v, experts, n, k, max_rows, group);
}
