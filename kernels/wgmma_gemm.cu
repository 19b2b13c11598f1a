/* wgmma_gemm.cu: grouped GEMM on BF16 tensor cores for sm_90a: TMA loads, mbarrier pipeline, wgmma; warp-specialised.
 *
 *   out[r, :] = bf16(x[r, :] * w[e]^T + bias[e])   for the rows r of expert e, rows of experts in ascending order
 *   x [M, K], w [E, N, K] (nk) or [E, K, N] (kn), bias [E, N], out [M, N]; BF16, row major; N and K multiples of 8
 *
 * A fixed grid of one CTA an SM works on the output tiles of all experts. They are given out as tickets: the first by
 * number of the CTA, the next ones by a counter in device memory, so that a CTA whose tiles are partial takes more of
 * them. In a cluster a ticket is two tiles that share an operand: each CTA copies half of it to both. One warp of
 * warpgroup 0 takes tickets and copies the K blocks of its CTA's tiles, one stream through the ring of stages; what
 * tile begins in a stage stands beside it. Warpgroups 1 and 2 multiply and store. An output element is one accumulator
 * over ascending K from zero, whatever the tile and whoever computes it: all configurations give the same bits. */

/* What stands beside the stage where a tile begins. `word`: rows; is_half; expert; is_second; or -1 after the last
 * tile. */
struct moet_slot {
    int row, col, word;
};

#ifndef MOET_RACECHECK
__device__ __forceinline__ void moet_slot_put(unsigned to, int row, int col, int word)
{
    moet_write_16(to, make_int4(row, col, word, 0));
}

__device__ __forceinline__ void moet_slot_read(unsigned from, struct moet_slot *slot)
{
    const uint4 v = moet_load_16(from);
    __syncwarp(); /* no lane reads after another released the stage */
    slot->row = (int)v.x, slot->col = (int)v.y, slot->word = (int)v.z;
}
#else
/* For racecheck, which takes of a barrier's arrivals only the last one for an order: the next tile's writes then seem
 * to race with the reads of warps that released the stage earlier. Atomic accesses cannot. */
__device__ __forceinline__ void moet_slot_put(unsigned to, int row, int col, int word)
{
    moet_exchange(to, row), moet_exchange(to + 4, col), moet_exchange(to + 8, word);
}

__device__ __forceinline__ void moet_slot_read(unsigned from, struct moet_slot *slot)
{
    slot->row = moet_look(from), slot->col = moet_look(from + 4), slot->word = moet_look(from + 8);
    __syncwarp();
}
#endif

__device__ __forceinline__ void moet_slot_write(unsigned to, const struct moet_tile *at, int is_second)
{
    moet_slot_put(to, at->row, at->col, at->rows | at->is_half << 15 | at->expert << 16 | is_second << 26);
}

__device__ __forceinline__ void moet_slot_write_end(unsigned to) { moet_slot_put(to, 0, 0, -1); }

/* The tile of a slot, from registers that are made here: they are not needed before, in the K loop. */
__device__ __forceinline__ void moet_slot_unpack(const struct moet_slot *slot, struct moet_tile *at)
{
    int word = slot->word;
    asm volatile("" : "+r"(word));
    at->row = slot->row, at->col = slot->col;
    at->rows = word & 0x7fff, at->is_half = word >> 15 & 1, at->expert = word >> 16 & (MOET_MAX_EXPERTS - 1);
}

__device__ __forceinline__ int moet_slot_is_second(const struct moet_slot *slot)
{
    return MOET_CHAIN && (slot->word >> 26 & 1);
}

/* ---- copies ---- */

/* kn with an activation: where in w the tile's block i of 64 columns begins, gates or ups. */
__device__ __forceinline__ int moet_paired_col(const struct moet_job *job, const struct moet_tile *at, int i)
{
    const int is_up = MOET_SWAP ? i / MOET_TILE_GROUPS : i & 1, block = MOET_SWAP ? i % MOET_TILE_GROUPS : i / 2;
    return (is_up ? job->out_n : 0) + at->col / 2 + block * 64;
}

/* Copies one K block: the tile's own boxes, and of a shared operand every second one, to both CTAs. */
__device__ __forceinline__ void moet_copy_x(const struct moet_job *job, const struct moet_tile *at, int rank, int boxes,
                                            int k, unsigned stage, unsigned full)
{
    const unsigned x = stage + MOET_X_OFFSET;
    const int share_x = MOET_CLUSTER > 1 && at->share == MOET_SHARE_X;
#pragma unroll
    for (int i = 0; i < MOET_TILE_ROWS / MOET_X_BOX; i++)
        if (!job->gathers && i < boxes && (!share_x || (i & 1) == rank))
            moet_copy_2d(x + i * MOET_X_BOX * MOET_LINE_BYTES, job->x, full, k, at->row + i * MOET_X_BOX, share_x);
}

__device__ __forceinline__ void moet_copy_w(const struct moet_job *job, const struct moet_tile *at, int rank, int pieces,
                                            int k, unsigned stage, unsigned full)
{
    const unsigned w = stage + MOET_W_OFFSET;
    const int share_w = MOET_CLUSTER > 1 && at->share == MOET_SHARE_W;
#pragma unroll
    for (int i = 0; i < MOET_W_PIECES; i++) {
        const int col = job->act && MOET_KN ? moet_paired_col(job, at, i) : at->col + i * MOET_W_PIECE;
        if (i < pieces && (!share_w || (i & 1) == rank)) {
            if (job->act && !MOET_KN)
                moet_copy_5d(w + i * MOET_W_PIECE_BYTES, job->w, full, k, col / 16, at->expert, share_w, at->w_policy);
            else
                moet_copy_3d(w + i * MOET_W_PIECE_BYTES, job->w, full, MOET_KN ? col : k, MOET_KN ? k : col, at->expert,
                             share_w, at->w_policy);
        }
    }
}

/* The first tickets are the clusters' own: none waits for the counter. In a chain they are taken like all others, for
 * its CTAs wait for tiles of tickets before their own: where not all CTAs run at once (another launch has SMs, or the
 * context has some of them only), those of a CTA that waits for an SM would never be computed. */
__device__ __forceinline__ int moet_next_ticket(unsigned taken)
{
    return (MOET_CHAIN ? 0 : moet_clusters()) + (int)taken;
}

/* All K blocks of a tile, by one thread, from the stage at `ring`. Shortly before the end a ticket is taken, so that it
 * is there when the next tile begins. */
__device__ __forceinline__ int moet_copy_tile(const struct moet_job *job, const struct moet_tile *at, int rank,
                                              struct moet_ring ring, int *is_ready)
{
    /* Rows up to the box's end may be the next expert's: they are computed into rows that nobody stores. */
    const int boxes = (at->rows + MOET_X_BOX - 1) / MOET_X_BOX;
    const int pieces = !MOET_SWAP && at->is_half ? MOET_W_PIECES / 2 : MOET_W_PIECES;
    const unsigned bytes = (job->gathers ? 0 : boxes * MOET_X_BOX * MOET_LINE_BYTES) + pieces * MOET_W_PIECE_BYTES;
    const int ask = rank == 0 ? max(job->k_blocks - 4, 0) : -1;
    unsigned taken = 0; /* is not looked at in the loop, which would wait for it */
    for (int block = 0; block < job->k_blocks; block++) {
        const unsigned full = ring.full + 8 * ring.stage;
        moet_barrier_wait(ring.empty + 8 * ring.stage, ring.phase ^ 1); /* the first pass does not wait */
        if (block == 0) moet_slot_write(ring.slots + 16 * ring.stage, at, job->is_second);
        if (block == ask) taken = atomicAdd(&moet_taken, 1u);
        if (MOET_CLUSTER > 1 && at->rows == 0) {
            moet_barrier_arrive(full);
        } else {
            const unsigned stage = ring.stages + ring.stage * MOET_STAGE_BYTES;
            if (MOET_GATHER && job->is_second) moet_barrier_arrive_many(full, 32 * MOET_GATHER_WARPS);
            moet_barrier_expect(full, bytes);
#if MOET_CHAIN
            if (job->is_second) { /* w is there in any case */
                moet_copy_w(job, at, rank, pieces, block * MOET_BK, stage, full);
                if (block == 0 && !*is_ready)
                    *is_ready = moet_ready_wait(at->row_tile, job->ready_signals, job->all_signals);
                moet_copy_x(job, at, rank, boxes, block * MOET_BK, stage, full);
            } else
#endif
            {
                moet_copy_x(job, at, rank, boxes, block * MOET_BK, stage, full);
                moet_copy_w(job, at, rank, pieces, block * MOET_BK, stage, full);
            }
        }
        moet_ring_step(&ring);
    }
    return moet_next_ticket(taken);
}

/* Copies a product's tiles, from this ticket on. `before`: tickets of the product before it. Returns the first ticket past
 * its own, counted from there. */
__device__ __forceinline__ int moet_copy_product(const struct moet_job *job, struct moet_ring *ring,
                                                 const struct moet_gather *gather, int ticket, int before)
{
    const int rank = blockIdx.x % MOET_CLUSTER;
    const int end = job->tickets->whole + job->tickets->split;
    struct moet_walk walk = {0, job->tickets->heavy_places};
    unsigned mail_phases = 0; /* a bit a stage */
    int tile = 0;             /* number among the CTA's, gathering */
    int is_ready = 0;         /* of a chain: all of x is there */
    while (ticket < end) {
        struct moet_tile at;
        moet_locate(job, ticket, rank, &walk, &at);
        int next = 0;
        if (MOET_CLUSTER == 1 && at.rows == 0) { /* half a tile, with nothing in it */
            if (moet_elect()) next = moet_next_ticket(atomicAdd(&moet_taken, 1u)) - before;
        } else {
#if MOET_GATHER
            if (job->gathers && moet_elect()) moet_gather_tell(gather, tile, at.row, at.rows);
            tile++;
#endif
            if (moet_elect()) next = moet_copy_tile(job, &at, rank, *ring, &is_ready) - before;
            moet_ring_skip(ring, job->k_blocks);
        }
        __syncwarp();
        ticket = __reduce_max_sync(0xffffffffu, next);
        if (MOET_CLUSTER > 1) {
            /* The mailbox beside a stage is free when all warps of both CTAs have released the stage. */
            const unsigned mail = ring->mail + 8 * ring->stage;
            int *box = &job->tickets->mailbox[ring->stage];
            if (rank == 0) {
                if (moet_elect()) {
                    moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
                    moet_mail(moet_shared(box), mail, 1, ticket);
                }
                __syncwarp();
            } else {
                if (moet_elect()) moet_barrier_expect(mail, 4);
                moet_barrier_wait_cluster(mail, mail_phases >> ring->stage & 1);
                mail_phases ^= 1u << ring->stage;
                ticket = *(volatile int *)box;
            }
        }
    }
#if MOET_GATHER
    if (job->gathers && moet_elect()) moet_gather_tell(gather, tile, 0, -1);
#endif
    return ticket - end;
}

/* The copying warp's whole life. A chain's tickets count from one product to the next; `taken`: its first, in one lane,
 * 0 in the others. */
__device__ __forceinline__ void moet_copy_tiles(const struct moet_job *job, struct moet_job *second,
                                                struct moet_ring *ring, const struct moet_gather *gather, unsigned taken)
{
    const int up_tickets = MOET_CHAIN ? job->tickets->whole + job->tickets->split : 0;
    const int first = MOET_CHAIN ? (int)__reduce_max_sync(0xffffffffu, taken) : blockIdx.x / MOET_CLUSTER;
    int ticket = moet_copy_product(job, ring, gather, first, 0);
    if (MOET_CHAIN) {
        second->all_signals = up_tickets * MOET_TILE_GROUPS * MOET_MATH_WARPS;
        moet_copy_product(second, ring, gather, ticket, up_tickets);
    }
    int is_last = 0;
    if (moet_elect()) {
        moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
        moet_slot_write_end(ring->slots + 16 * ring->stage);
        if (MOET_GATHER && MOET_CHAIN) moet_barrier_arrive_many(ring->full + 8 * ring->stage, 32 * MOET_GATHER_WARPS);
        moet_barrier_arrive(ring->full + 8 * ring->stage);
        if (blockIdx.x % MOET_CLUSTER == 0) {
            __threadfence();
            is_last = atomicAdd(&moet_left, 1u) == (unsigned)moet_clusters() - 1;
            if (is_last) moet_taken = moet_left = 0;
        }
    }
#if MOET_CHAIN
    if (__any_sync(0xffffffffu, is_last))
        moet_ready_clear(MOET_READY_SIZE(second->row_starts[second->experts], second->experts) + 1);
#endif
}

/* ---- math ---- */

/* The K loop of a tile, for the first `blocks` m64 blocks of the warpgroup and instructions of `width` (constants).
 * m_offset: of the first m64 block in the M side's operand; the others are TILE_GROUPS blocks apart. A stage is
 * released when the next one's instructions are under way. Ping-pong: the last block's go ahead gives the other
 * warpgroup its turn. */
__device__ __forceinline__ void moet_k_loop(int blocks, int width, float (*sums)[MOET_SUMS], struct moet_ring *ring,
                                            int group, unsigned m_offset, int k_blocks)
{
    unsigned before = 0; /* empty barrier of the stage before this one */
    moet_mma_pin(blocks, width, sums);
    for (int block = 0; block < k_blocks; block++) {
        const unsigned stage = ring->stages + ring->stage * MOET_STAGE_BYTES, empty = ring->empty + 8 * ring->stage;
        const int gives_turn = MOET_PINGPONG && block == k_blocks - 1 && (threadIdx.x & 31) == 0;
        moet_barrier_wait(ring->full + 8 * ring->stage, ring->phase);
        if (MOET_GATHER) moet_proxy_fence();
        if (blocks == 0) {
            if (gives_turn) moet_barrier_arrive(ring->turns + 8 * (group ^ 1));
            moet_release(empty);
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
            if (gives_turn) moet_barrier_arrive(ring->turns + 8 * (group ^ 1));
            moet_mma_wait_previous();
            if (block > 0) moet_release(before);
            before = empty;
        }
        moet_ring_step(ring);
    }
    if (blocks > 0) {
        moet_mma_wait();
        moet_mma_pin(blocks, width, sums);
        moet_release(before);
    }
}

/* `live`: the warpgroup's m64 blocks that have anything to compute. */
__device__ __forceinline__ void moet_multiply(const struct moet_tile *at, int live, float (*sums)[MOET_SUMS],
                                              struct moet_ring *ring, int group, unsigned m_offset, int k_blocks)
{
    if ((!MOET_PINGPONG || MOET_CLUSTER > 1) && live <= 0) {
        moet_k_loop(0, 0, sums, ring, group, m_offset, k_blocks);
#if !MOET_SWAP
/* A block without rows is computed and not stored. */
#define MOET_LIVE_CASES(width)                                                                                        \
    if (live > 2 || live >= MOET_MI)                                                                                  \
        moet_k_loop(MOET_MI, width, sums, ring, group, m_offset, k_blocks);                                           \
    else if (MOET_MI > 2 && live == 2)                                                                                \
        moet_k_loop(MOET_MI > 2 ? 2 : 1, width, sums, ring, group, m_offset, k_blocks);                               \
    else                                                                                                              \
        moet_k_loop(1, width, sums, ring, group, m_offset, k_blocks);
    } else if (!MOET_SPLIT || !at->is_half) {
        MOET_LIVE_CASES(MOET_BN)
    } else {
        MOET_LIVE_CASES(MOET_BN / 2)
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

/* How many blocks a warpgroup's tile has, for the other one, that is to pass over them; a whole warp looks. Turns order
 * writes and reads; they are atomic for racecheck, which takes a barrier's last arrival alone for an order. */
__device__ __forceinline__ void moet_blocks_tell(int *of_group, int blocks) { atomicExch(of_group, blocks); }

__device__ __forceinline__ int moet_blocks_look(int *of_group)
{
    int blocks = 0;
    if ((threadIdx.x & 31) == 0) blocks = atomicOr(of_group, 0);
    return __shfl_sync(0xffffffffu, blocks, 0);
}

/* Where the warpgroup stages what it stores. */
__device__ __forceinline__ unsigned moet_lines(const struct moet_ring *ring)
{
    return ring->stages + MOET_STORE_OFFSET + (moet_thread_now() / MOET_GROUP_THREADS - 1) * MOET_STORE_BYTES;
}

/* A math warpgroup's whole life. group: 0 or 1. */
__device__ __forceinline__ void moet_math_tiles(const struct moet_job *job, const struct moet_job *second,
                                                struct moet_ring *ring, int group)
{
    const int first = MOET_PINGPONG ? 0 : group; /* m64 blocks first, first + TILE_GROUPS, ... of the tile */
    /* turn: number of the tile among the CTA's */
    for (int turn = MOET_PINGPONG ? group : 0;; turn += MOET_PINGPONG ? MOET_MATH_GROUPS : 1) {
        struct moet_slot slot;
        struct moet_tile at;
        /* Blocks are waited for in the order of the ring: parities do not tell a pass from the one before the last.
         * Turn 0 does not wait. */
        if (MOET_PINGPONG) {
            moet_barrier_wait(ring->turns + 8 * group, (turn / MOET_MATH_GROUPS + (group == 0)) & 1);
            const int others = moet_blocks_look(&job->tickets->blocks[group ^ 1]);
            if (others < 0) break;
            moet_ring_skip(ring, others);
        }
        moet_barrier_wait(ring->full + 8 * ring->stage, ring->phase);
        moet_slot_read(ring->slots + 16 * ring->stage, &slot);
        if (slot.word < 0) {
            if (MOET_PINGPONG && (threadIdx.x & 31) == 0) {
                moet_blocks_tell(&job->tickets->blocks[group], -1); /* the other warpgroup does not look into the ring again */
                moet_barrier_arrive(ring->turns + 8 * (group ^ 1));
            }
            break;
        }
        moet_slot_unpack(&slot, &at);
        const int is_second = moet_slot_is_second(&slot);
        const int n = is_second ? second->n : job->n, k_blocks = is_second ? second->k_blocks : job->k_blocks;
        if (MOET_PINGPONG && (threadIdx.x & 31) == 0) moet_blocks_tell(&job->tickets->blocks[group], k_blocks);
        const int extent = min(MOET_SWAP ? n - at.col : at.rows, MOET_BM);
        const int live = at.rows == 0 ? 0 : ((extent + 63) / 64 - first + MOET_TILE_GROUPS - 1) / MOET_TILE_GROUPS;
        float sums[MOET_MI][MOET_SUMS]; /* the first instruction does not read them */
        moet_multiply(&at, live, sums, ring, group, first * MOET_BLOCK_BYTES, k_blocks);
        moet_slot_unpack(&slot, &at);
        const unsigned lines = moet_lines(ring);
#if MOET_CHAIN
        if (moet_slot_is_second(&slot)) {
            moet_store_tile(sums, &at, first, second, lines);
        } else {
            moet_store_tile(sums, &at, first, job, lines);
            moet_ready_tell(at.row / MOET_READY_ROWS + at.expert);
        }
#else
        moet_store_tile(sums, &at, first, job, lines);
#endif
    }
    if ((MOET_CHAIN ? second : job)->choice.bulk_store && moet_elect()) moet_bulk_store_wait(); /* before the lines are gone */
}

/* ---- kernels ---- */

/* One warp. */
__device__ __forceinline__ void moet_schedule_products(const int *counts, const struct moet_job *job,
                                                       const struct moet_job *second, int max_rows)
{
    moet_schedule(counts, job, max_rows);
    if (MOET_CHAIN) {
        __syncwarp();
        moet_schedule(counts, second, max_rows);
    }
}

/* The first ticket, which thread 0 has. One warp. */
__device__ __forceinline__ unsigned moet_first_take(void)
{
    return threadIdx.x == 0 ? atomicAdd(&moet_taken, 1u) : 0;
}

/* second: of a chain. What a launch before may still write or read (x, w, bias, counts in memory, out, the counters) is
 * left alone until that launch is done: warp 0 waits for it, all else follows from its copies. */
__device__ __forceinline__ void moet_body(struct moet_job *job, struct moet_job *second, const int *counts,
                                          bool counts_are_values, int max_rows)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const unsigned shared = moet_shared(shared_memory);
    struct moet_ring ring;
    ring.stages = shared;
    ring.slots = shared + MOET_SLOT_OFFSET;
    ring.full = shared + MOET_BARRIER_OFFSET;
    ring.empty = ring.full + 8 * MOET_STAGES;
    ring.mail = ring.empty + 8 * MOET_STAGES;
    ring.turns = ring.mail + 8 * MOET_STAGES;
    ring.stage = 0, ring.phase = 0;
    const struct moet_gather gather = {shared + MOET_GATHER_OFFSET, shared + MOET_GATHER_OFFSET + 16,
                                       shared + MOET_GATHER_OFFSET + 32,
                                       (const unsigned short **)(shared_memory + MOET_GATHER_OFFSET + 48)};
    job->tickets = (struct moet_tickets *)(shared_memory + MOET_SHARED_OFFSET);
    job->row_starts = (int *)(job->tickets + 1);
    job->ticket_starts = job->row_starts + job->experts + 1;
    if (MOET_CHAIN) {
        second->tickets = (struct moet_tickets *)(job->ticket_starts + job->experts + 1);
        second->row_starts = job->row_starts;
        second->ticket_starts = (int *)(second->tickets + 1);
        second->n_tiles_before = (float)(job->n_tiles * job->k_blocks) / (float)second->k_blocks;
        second->ready_signals = job->n_tiles * MOET_TILE_GROUPS * MOET_MATH_WARPS;
    }
    job->order = (unsigned short *)((MOET_CHAIN ? second : job)->ticket_starts + job->experts + 1);
    if (MOET_CHAIN) second->order = job->order; /* of the same experts' rows: the same */

    /* Uniform over a warp, and the compiler sees it. */
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), warpgroup = warp / MOET_MATH_WARPS;
    if (job->choice.allows_next) moet_next_allow();
    unsigned taken = 0;
    if (warp == 0) {
        /* Counts in memory may be the launch before's; values are there at once. */
        if (!counts_are_values) {
            moet_previous_wait();
            if (MOET_CHAIN) taken = moet_first_take(); /* is there when the schedule is */
        }
        moet_schedule_products(counts, job, second, max_rows);
        if (MOET_CHAIN && counts_are_values) {
            moet_previous_wait();
            taken = moet_first_take();
        }
    }
    if (warp == 1 && moet_elect()) {
        if (!MOET_GATHER) moet_map_prefetch(job->x);
        moet_map_prefetch(job->w);
        if (MOET_CHAIN) moet_map_prefetch(second->x), moet_map_prefetch(second->w);
        for (int i = 0; i < MOET_STAGES; i++) {
            moet_barrier_init(ring.full + 8 * i, 1 + (MOET_GATHER ? 32 * MOET_GATHER_WARPS : 0));
            moet_barrier_init(ring.empty + 8 * i, MOET_CLUSTER * MOET_TILE_GROUPS * MOET_MATH_WARPS);
            moet_barrier_init(ring.mail + 8 * i, 1);
        }
        for (int i = 0; MOET_GATHER && i < 2; i++) {
            moet_barrier_init(gather.full + 8 * i, 1);
            moet_barrier_init(gather.empty + 8 * i, MOET_GATHER_WARPS);
        }
        for (int i = 0; i < MOET_MATH_GROUPS; i++) moet_barrier_init(ring.turns + 8 * i, MOET_MATH_WARPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        moet_proxy_fence(); /* the copies' proxy sees the barriers */
    }
    __syncthreads();
    if (MOET_CLUSTER > 1) moet_cluster_sync();

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(MOET_COPY_REGISTERS));
        if (warp == 0) {
            moet_previous_wait();
            moet_copy_tiles(job, second, &ring, &gather, taken);
        }
#if MOET_GATHER
        if (warp > 0) {
            moet_previous_wait();
            moet_gather_tiles(job, &gather, &ring);
        }
#endif
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MOET_MATH_REGISTERS));
        moet_math_tiles(job, second, &ring, warpgroup - 1);
    }
    if (MOET_CLUSTER > 1) moet_cluster_sync(); /* the other CTA may still write here */
}

#if MOET_CLUSTER > 1
#define MOET_CLUSTER_DIMS __cluster_dims__(MOET_CLUSTER, 1, 1)
#else
#define MOET_CLUSTER_DIMS
#endif
/* out_n: columns of out; those of w, n, are rounded up to whole tiles. prob: of each row; NULL without MOET_PROB. */
#if MOET_ACT
#define MOET_ACT_PARAMETERS , int out_n, const float *prob, float clamp
#define MOET_ACT_TAKE job.out_n = out_n, job.prob = prob, job.clamp = clamp;
#else
#define MOET_ACT_PARAMETERS
#define MOET_ACT_TAKE job.out_n = n;
#endif
#if MOET_GATHER
#define MOET_GATHER_PARAMETERS , const unsigned short *x_rows, long long x_stride, const int *source
#define MOET_GATHER_TAKE job.x_rows = x_rows, job.x_stride = x_stride, job.source = source, job.k = k;
#else
#define MOET_GATHER_PARAMETERS
#define MOET_GATHER_TAKE
#endif
#if MOET_CHAIN
#define MOET_LAST second /* the product whose rows leave */
#else
#define MOET_LAST job
#endif
#if MOET_SCATTER
#define MOET_SCATTER_PARAMETERS , unsigned short *scattered, long long scattered_stride, const int *target
#define MOET_SCATTER_TAKE MOET_LAST.scattered = scattered, MOET_LAST.scattered_stride = scattered_stride, MOET_LAST.target = target;
#else
#define MOET_SCATTER_PARAMETERS
#define MOET_SCATTER_TAKE
#endif
/* The down GEMM's; its x is the up GEMM's out. */
#if MOET_CHAIN
#define MOET_CHAIN_PARAMETERS                                                                                         \
    , const __grid_constant__ struct moet_map down_x, const __grid_constant__ struct moet_map down_w,                 \
        const __grid_constant__ struct moet_map down_out_map, const unsigned short *down_bias, unsigned short *down_out, \
        int down_n, int down_k
#define MOET_CHAIN_TAKE                                                                                               \
    second.is_second = 1, second.act = 0, second.has_bias = MOET_DOWN_BIAS, second.gathers = 0;                        \
    second.scatters = MOET_SCATTER, job.scatters = 0;                                                                  \
    second.x = &down_x, second.w = &down_w, second.out_map = &down_out_map, second.bias = down_bias;                   \
    second.out = down_out, second.out_n = down_n, second.choice = choice, second.experts = experts;                    \
    moet_job_size(&second, down_n, down_k);
#else
#define MOET_CHAIN_PARAMETERS
#define MOET_CHAIN_TAKE
#endif

__device__ __forceinline__ void moet_job_size(struct moet_job *job, int n, int k)
{
    job->n = n;
    job->k_blocks = (k + MOET_BK - 1) / MOET_BK;
    job->n_tiles = (n + MOET_TILE_COLS - 1) / MOET_TILE_COLS;
}

/* counts_memory: counts in device memory (a captured graph replays with whatever they are then); NULL: counts by value
 * (no copy before the launch). Nothing here is __restrict__: its loads could then be moved ahead of the wait for the
 * launch before. */
extern "C" __global__ void MOET_CLUSTER_DIMS __launch_bounds__(MOET_THREADS, 1)
    MOET_NAME(const __grid_constant__ struct moet_map x, const __grid_constant__ struct moet_map w,
              const __grid_constant__ struct moet_map out_map, const unsigned short *bias, unsigned short *out,
              const int *counts_memory, const __grid_constant__ struct moet_counts counts, int experts, int n, int k,
              int max_rows, struct moet_choice choice MOET_ACT_PARAMETERS MOET_GATHER_PARAMETERS MOET_SCATTER_PARAMETERS
                                MOET_CHAIN_PARAMETERS)
{
    struct moet_job job, second;
    job.is_second = 0, job.act = MOET_ACT, job.has_bias = MOET_BIAS, job.gathers = MOET_GATHER;
    job.scatters = MOET_SCATTER, job.n_tiles_before = 0.0f;
    MOET_ACT_TAKE MOET_GATHER_TAKE MOET_SCATTER_TAKE
    job.x = &x, job.w = &w, job.out_map = &out_map, job.bias = bias, job.out = out, job.choice = choice;
    job.experts = experts;
    moet_job_size(&job, n, k);
    MOET_CHAIN_TAKE
    moet_body(&job, &second, counts_memory ? counts_memory : counts.v, !counts_memory, max_rows);
}
