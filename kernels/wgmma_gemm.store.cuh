/* wgmma_gemm.store.cuh: in front of wgmma_gemm.cu: from accumulators to out. */

/* In an m64 block, warp i has rows 16i..16i+15; of n8 block j lane l holds, in sums 4j..4j+3, columns 2(l%4) and the
 * next one of row l/4, then of row l/4 + 8. Lines of 128 bytes (64 columns of out) go through shared memory, so that 8
 * lanes or the copy engine store a whole line; chunk ^= row & 7 keeps both sides free of bank conflicts and is the copy
 * engine's swizzle. N is a multiple of 8: a chunk is stored or it is not. */

/* threadIdx.x as a value that is made here: what follows from it is not computed before the K loop, where registers are
 * scarce. */
__device__ __forceinline__ int moet_thread_now(void)
{
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

/* A warp stores 16 lines: rows `row` .. of the tile, those below at->rows, and columns col .. col + 63, those of the
 * first `chunks` chunks (a constant) that are below col_end. All threads that wrote the lines have met at a barrier. */
__device__ __forceinline__ void moet_store_lines(const struct moet_job *job, const struct moet_tile *at, int row,
                                                 int col, int col_end, int chunks, unsigned lines)
{
    const int reader = moet_thread_now() & 31;
    /* The engine writes whole boxes, but for what is past column n. */
    if (job->choice.bulk_store && chunks == 8 && row + 16 <= at->rows && (col + 64 <= col_end || col_end == job->n)) {
        if (moet_elect()) moet_bulk_store(job->out_map, col, at->row + row, lines);
        return;
    }
#pragma unroll
    for (int pass = 0; pass < 4; pass++) {
        const int line = pass * 4 + (reader >> 3), chunk = reader & 7;
        const uint4 v = moet_load_16(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4));
        if (row + line < at->rows && chunk < chunks && col + chunk * 8 < col_end)
            *(uint4 *)(job->out + (long long)(at->row + row + line) * job->n + col + chunk * 8) = v;
    }
}

/* Not swapped: a warp's 16 rows, 64 columns at a time, through the warp's own 16 lines. m_block: of the tile. */
__device__ __forceinline__ void moet_store(const float *sums, const struct moet_tile *at, int m_block,
                                           const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS, quad = lane & 3;
    const int row_first = m_block * 64 + warp * 16, col_end = moet_col_end(job, at);
    const int matrix_row = (lane & 7) + (lane >> 3 & 1) * 8;
    lines += warp * 16 * MOET_LINE_BYTES;
    if (row_first >= at->rows) return;
#pragma unroll
    for (int first = 0; first < MOET_BN / 8; first += 8) {
        const int blocks = MOET_BN / 8 - first < 8 ? MOET_BN / 8 - first : 8;
        const int col_first = at->col + first * 8;
        if (col_first >= col_end) break;
        const unsigned *bias =
            (const unsigned *)(job->bias + (MOET_BIAS ? (long long)at->expert * job->n + col_first + quad * 2 : 0));
        if (job->choice.bulk_store) {
            if (moet_elect()) moet_bulk_store_wait();
            __syncwarp();
        }
#pragma unroll
        for (int j = 0; j < blocks; j += 2) {
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 2; b++) {
                const float *s = sums + (first + j + b) * 4;
                unsigned pair = 0;
                if (MOET_BIAS && col_first + (j + b) * 8 < col_end) pair = bias[(j + b) * 4];
                const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
                v[b * 2] = MOET_BIAS ? moet_pack(s[0] + low, s[1] + high) : moet_pack(s[0], s[1]);
                v[b * 2 + 1] = MOET_BIAS ? moet_pack(s[2] + low, s[3] + high) : moet_pack(s[2], s[3]);
            }
            moet_store_4(lines + matrix_row * MOET_LINE_BYTES + (((j + (lane >> 4)) ^ (lane & 7)) << 4), v);
        }
        if (job->choice.bulk_store) moet_proxy_fence();
        __syncwarp();
        moet_store_lines(job, at, row_first, col_first, col_end, blocks, lines);
        __syncwarp();
    }
}

/* Swapped: m64 is 64 columns of out and n8 is 8 rows: matrices are transposed on their way, and the four warps of the
 * group make up a line; 64 rows at a time. */
__device__ __forceinline__ void moet_store_swapped(const float *sums, const struct moet_tile *at, int m_block,
                                                   const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS;
    const int col_first = at->col + m_block * 64, barrier = thread / MOET_GROUP_THREADS;
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
        if (job->choice.bulk_store) {
            if (moet_elect()) moet_bulk_store_wait();
            asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        }
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
        if (job->choice.bulk_store) moet_proxy_fence();
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        if (first * 8 + warp * 16 < at->rows)
            moet_store_lines(job, at, first * 8 + warp * 16, col_first, job->n, 8, lines + warp * 16 * MOET_LINE_BYTES);
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
    }
}

__device__ __forceinline__ void moet_store_block(const float *sums, const struct moet_tile *at, int m_block,
                                                 const struct moet_job *job, unsigned lines)
{
    if (MOET_SWAP)
        moet_store_swapped(sums, at, m_block, job, lines);
    else
        moet_store(sums, at, m_block, job, lines);
}
