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

/* Whether the copy engine stores. What the down GEMM of the same launch waits for, threads store: they know when it is
 * there. */
__device__ __forceinline__ int moet_stores_bulk(const struct moet_job *job)
{
    return (!MOET_CHAIN || job->is_second) && job->choice.bulk_store;
}

/* A warp stores 16 lines: rows `row` .. of the tile, those below at->rows, and columns col .. col + 63, those of the
 * first `chunks` chunks (a constant) that are below col_end. All threads that wrote the lines have met at a barrier. */
__device__ __forceinline__ void moet_store_lines(const struct moet_job *job, const struct moet_tile *at, int row,
                                                 int col, int col_end, int chunks, unsigned lines)
{
    const int reader = moet_thread_now() & 31;
    int target = -1; /* of line reader & 15 */
    if (job->scatters && row + (reader & 15) < at->rows)
        target = moet_load_number(job->target + at->row + row + (reader & 15));
    const int is_dense = !job->scatters || __all_sync(0xffffffffu, target < 0);
    /* The engine writes whole boxes, but for what is past column n. */
    if (moet_stores_bulk(job) && is_dense && chunks == 8 && row + 16 <= at->rows &&
        (col + 64 <= col_end || col_end == job->out_n)) {
        if (moet_elect()) moet_bulk_store(job->out_map, col, at->row + row, lines);
        return;
    }
#pragma unroll
    for (int pass = 0; pass < 4; pass++) {
        const int line = pass * 4 + (reader >> 3), chunk = reader & 7;
        const uint4 v = moet_load_16(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4));
        unsigned short *to = job->out + (long long)(at->row + row + line) * job->out_n;
        if (job->scatters) {
            const int there = __shfl_sync(0xffffffffu, target, line);
            if (there >= 0) to = job->scattered + there * job->scattered_stride;
        }
        if (row + line < at->rows && chunk < chunks && col + chunk * 8 < col_end) *(uint4 *)(to + col + chunk * 8) = v;
    }
}

#if MOET_ACT

/* Written by the launch before, perhaps after this one began. */
__device__ __forceinline__ float moet_load_prob(const struct moet_job *job, int row, int is_there)
{
    float prob = 0.0f;
    if (MOET_PROB && is_there)
        asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(prob) : "l"(job->prob + row));
    return prob;
}

/* Without a bias -0 stays. */
__device__ __forceinline__ float moet_add_bias(const struct moet_job *job, float sum, float bias)
{
    return job->has_bias ? sum + bias : sum;
}

/* The bias of two neighbouring columns of w: gates or, from out_n on, ups. */
__device__ __forceinline__ unsigned moet_load_bias_pair(const struct moet_job *job, const struct moet_tile *at, int col)
{
    return *(const unsigned *)(job->bias + (long long)at->expert * 2 * job->out_n + col);
}

__device__ __forceinline__ float moet_load_bias(const struct moet_job *job, const struct moet_tile *at, int col)
{
    return moet_widen(job->bias[(long long)at->expert * 2 * job->out_n + col]);
}

/* Not swapped: what the sums of out's n8 block `block` give, of columns col and col + 1 in two rows. The sums themselves
 * stay: values of other instructions in an accumulator would have ptxas wait for each wgmma. */
__device__ __forceinline__ void moet_activate_four(const float *sums, int block, int col, const float *prob,
                                                   const struct moet_tile *at, const struct moet_job *job, float *value)
{
    const int gates = MOET_KN ? block / 8 * 16 + block % 8 : 2 * block, ups = MOET_KN ? gates + 8 : gates + 1;
    unsigned gate_bias = 0, up_bias = 0;
    if (job->has_bias && col < job->out_n)
        gate_bias = moet_load_bias_pair(job, at, col), up_bias = moet_load_bias_pair(job, at, job->out_n + col);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float gate = __uint_as_float(i & 1 ? gate_bias & 0xffff0000u : gate_bias << 16);
        const float up = __uint_as_float(i & 1 ? up_bias & 0xffff0000u : up_bias << 16);
        value[i] = moet_activate(moet_add_bias(job, sums[gates * 4 + i], gate), moet_add_bias(job, sums[ups * 4 + i], up),
                                 prob[i / 2], job->clamp);
    }
}

#endif

/* Not swapped: a warp's 16 rows, 64 columns at a time, through the warp's own 16 lines. m_block: of the tile. */
__device__ __forceinline__ void moet_store(const float *sums, const struct moet_tile *at, int m_block,
                                           const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS, quad = lane & 3;
    const int row_first = m_block * 64 + warp * 16, col_end = moet_out_end(job, at);
    const int matrix_row = (lane & 7) + (lane >> 3 & 1) * 8;
    lines += warp * 16 * MOET_LINE_BYTES;
    if (row_first >= at->rows) return;
#if MOET_ACT
    float prob[2];
#pragma unroll
    for (int half = 0; job->act && half < 2; half++) {
        const int row = row_first + (lane >> 2) + half * 8;
        prob[half] = moet_load_prob(job, at->row + row, row < at->rows);
    }
#endif
#pragma unroll
    for (int first = 0; first < MOET_OUT_COLS(job->act) / 8; first += 8) {
        const int blocks = MOET_OUT_COLS(job->act) / 8 - first < 8 ? MOET_OUT_COLS(job->act) / 8 - first : 8;
        const int col_first = moet_out_col(job, at) + first * 8;
        if (col_first >= col_end) break;
        const unsigned *bias =
            (const unsigned *)(job->bias + (job->has_bias && !job->act ? (long long)at->expert * job->n + col_first + quad * 2 : 0));
        if (moet_stores_bulk(job)) {
            if (moet_elect()) moet_bulk_store_wait();
            __syncwarp();
        }
#pragma unroll
        for (int j = 0; j < blocks; j += 2) {
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 2; b++) {
#if MOET_ACT
                if (job->act) {
                    float value[4];
                    __syncwarp(); /* fewer values at a time */
                    moet_activate_four(sums, first + j + b, col_first + (j + b) * 8 + quad * 2, prob, at, job, value);
                    v[b * 2] = moet_pack(value[0], value[1]), v[b * 2 + 1] = moet_pack(value[2], value[3]);
                    continue;
                }
#endif
                const float *s = sums + (first + j + b) * 4;
                unsigned pair = 0;
                if (job->has_bias && col_first + (j + b) * 8 < col_end) pair = bias[(j + b) * 4];
                const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
                v[b * 2] = job->has_bias ? moet_pack(s[0] + low, s[1] + high) : moet_pack(s[0], s[1]);
                v[b * 2 + 1] = job->has_bias ? moet_pack(s[2] + low, s[3] + high) : moet_pack(s[2], s[3]);
            }
            moet_store_4(lines + matrix_row * MOET_LINE_BYTES + (((j + (lane >> 4)) ^ (lane & 7)) << 4), v);
        }
        if (moet_stores_bulk(job)) moet_proxy_fence();
        __syncwarp();
        moet_store_lines(job, at, row_first, col_first, col_end, blocks, lines);
        __syncwarp();
    }
}

/* Swapped: m64 is 64 columns of out and n8 is 8 rows: matrices are transposed on their way, and the four warps of the
 * group make up a line; 64 rows at a time. With an activation (kn) sums are gates, and ups are those of another block. */
__device__ __forceinline__ void moet_store_swapped(const float *sums, const float *ups, const struct moet_tile *at,
                                                   int m_block, const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS;
    const int col_first = moet_out_col(job, at) + m_block * 64, barrier = thread / MOET_GROUP_THREADS;
    if (col_first >= job->out_n) return;
    float bias[2] = {0.0f, 0.0f}, up_bias[2] = {0.0f, 0.0f};
    const int bias_width = job->act ? 2 * job->out_n : job->n;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int col = col_first + warp * 16 + half * 8 + (lane >> 2);
        const unsigned short *of_expert = job->bias + (job->has_bias ? (long long)at->expert * bias_width : 0);
        if (job->has_bias && col < job->out_n) bias[half] = moet_widen(of_expert[col]);
        if (job->has_bias && job->act && col < job->out_n) up_bias[half] = moet_widen(of_expert[job->out_n + col]);
    }
#pragma unroll
    for (int first = 0; first < MOET_BN / 8; first += 8) {
        if (first * 8 >= at->rows) break;
        if (moet_stores_bulk(job)) {
            if (moet_elect()) moet_bulk_store_wait();
            asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        }
#pragma unroll
        for (int j = 0; j < 8 && first + j < MOET_BN / 8; j += 2) {
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 4; b++) {
                const int at_sum = (first + j + b / 2) * 4 + b % 2 * 2;
                const float *s = sums + at_sum;
#if MOET_ACT
                if (job->act) {
                    float value[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int row = (first + j + b / 2) * 8 + (lane & 3) * 2 + i;
                        value[i] = moet_activate(moet_add_bias(job, s[i], bias[b % 2]),
                                                 moet_add_bias(job, ups[at_sum + i], up_bias[b % 2]),
                                                 moet_load_prob(job, at->row + row, row < at->rows), job->clamp);
                    }
                    v[b] = moet_pack(value[0], value[1]);
                    continue;
                }
#endif
                v[b] = job->has_bias ? moet_pack(s[0] + bias[b % 2], s[1] + bias[b % 2]) : moet_pack(s[0], s[1]);
            }
            /* Matrices: columns 0-7 and 8-15 of rows 0-7, then of rows 8-15. */
            const int line = j * 8 + (lane >> 4) * 8 + (lane & 7), chunk = warp * 2 + (lane >> 3 & 1);
            if (first * 8 + j * 8 < at->rows)
                moet_store_4_transposed(lines + line * MOET_LINE_BYTES + ((chunk ^ (line & 7)) << 4), v);
        }
        if (moet_stores_bulk(job)) moet_proxy_fence();
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        if (first * 8 + warp * 16 < at->rows)
            moet_store_lines(job, at, first * 8 + warp * 16, col_first, job->out_n, 8, lines + warp * 16 * MOET_LINE_BYTES);
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
    }
}

#if MOET_ACT

/* Swapped, nk: an m64 block is 32 columns of out, 8 a warp: gates in a thread's first row, ups in its second. */
__device__ __forceinline__ void moet_store_swapped_act(const float *sums, const struct moet_tile *at, int m_block,
                                                       const struct moet_job *job, unsigned lines)
{
    const int thread = moet_thread_now(), lane = thread & 31, warp = thread / 32 % MOET_MATH_WARPS;
    const int col_first = moet_out_col(job, at) + m_block * 32, barrier = thread / MOET_GROUP_THREADS;
    if (col_first >= job->out_n) return;
    const int col = col_first + warp * 8 + (lane >> 2);
    float gate_bias = 0.0f, up_bias = 0.0f;
    if (job->has_bias && col < job->out_n)
        gate_bias = moet_load_bias(job, at, col), up_bias = moet_load_bias(job, at, job->out_n + col);
#pragma unroll
    for (int first = 0; first < MOET_BN / 8; first += 8) {
        if (first * 8 >= at->rows) break;
#pragma unroll
        for (int j = 0; j < 8 && first + j < MOET_BN / 8; j += 4) {
            if ((first + j) * 8 >= at->rows) break;
            unsigned v[4];
#pragma unroll
            for (int b = 0; b < 4; b++) {
                v[b] = 0;
                if (first + j + b >= MOET_BN / 8) continue;
                const float *s = sums + (first + j + b) * 4;
                float value[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = (first + j + b) * 8 + (lane & 3) * 2 + i;
                    const float prob = moet_load_prob(job, at->row + row, row < at->rows);
                    value[i] = moet_activate(moet_add_bias(job, s[i], gate_bias), moet_add_bias(job, s[2 + i], up_bias),
                                             prob, job->clamp);
                }
                v[b] = moet_pack(value[0], value[1]);
            }
            /* Matrices: 8 columns of rows 0-7, 8-15, 16-23 and 24-31. */
            const int line = j * 8 + lane;
            moet_store_4_transposed(lines + line * MOET_LINE_BYTES + ((warp ^ (line & 7)) << 4), v);
        }
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
        if (first * 8 + warp * 16 < at->rows)
            moet_store_lines(job, at, first * 8 + warp * 16, col_first, job->out_n, 4,
                             lines + warp * 16 * MOET_LINE_BYTES);
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(MOET_GROUP_THREADS) : "memory");
    }
}

#endif

/* ups: swapped, kn, with an activation. */
__device__ __forceinline__ void moet_store_block(const float *sums, const float *ups, const struct moet_tile *at,
                                                 int m_block, const struct moet_job *job, unsigned lines)
{
#if MOET_ACT && MOET_SWAP && !MOET_KN
    if (job->act) {
        moet_store_swapped_act(sums, at, m_block, job, lines);
        return;
    }
#endif
    if (MOET_SWAP)
        moet_store_swapped(sums, ups, at, m_block, job, lines);
    else
        moet_store(sums, at, m_block, job, lines);
}

/* All of a warpgroup's blocks of a tile. */
__device__ __forceinline__ void moet_store_tile(float (*sums)[MOET_SUMS], const struct moet_tile *at, int first,
                                                const struct moet_job *job, unsigned lines)
{
#if MOET_ACT && MOET_SWAP && MOET_KN
    if (job->act) {
        moet_store_block(sums[0], sums[MOET_MI - 1], at, first, job, lines);
        return;
    }
#endif
    /* Not a loop: one that is not unrolled would put the sums into local memory. */
    moet_store_block(sums[0], sums[0], at, first, job, lines);
    if (MOET_MI > 1) moet_store_block(sums[MOET_MI > 1 ? 1 : 0], sums[0], at, first + MOET_TILE_GROUPS, job, lines);
    if (MOET_MI > 2) moet_store_block(sums[MOET_MI > 2 ? 2 : 0], sums[0], at, first + 2 * MOET_TILE_GROUPS, job, lines);
    if (MOET_MI > 3) moet_store_block(sums[MOET_MI > 3 ? 3 : 0], sums[0], at, first + 3 * MOET_TILE_GROUPS, job, lines);
}
