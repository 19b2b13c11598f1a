/* wgmma_gemm.cu: grouped GEMM on BF16 tensor cores for sm_90a: TMA loads, mbarrier pipeline, wgmma; warp-specialised.
 *
 *   out[r, :] = bf16(x[r, :] * w[e]^T + bias[e])   for the rows r of expert e, rows of experts in ascending order
 *   x [M, K], w [E, N, K] (nk) or [E, K, N] (kn), bias [E, N], out [M, N]; BF16, row major; N and K multiples of 8
 *
 * A fixed grid of one CTA an SM works on the output tiles of all experts. They are given out as tickets: the first by
 * number of the CTA, the next ones by a counter in device memory, so that a CTA whose tiles are partial takes more of
 * them. In a cluster a ticket is two tiles that share an operand: each CTA copies half of it to both. One warp of
 * warpgroup 0 takes tickets and copies the K blocks of its CTA's tiles, one stream through the ring of stages; what tile
 * begins in a stage stands beside it. Warpgroups 1 and 2 multiply and store. An output element is one accumulator over
 * ascending K from zero, whatever the tile and whoever computes it: all configurations give the same bits. */

/* ---- tickets ---- */

/* How the tiles are walked; from the configuration. */
struct moet_choice {
    int group;      /* row tiles of a band */
    int by_columns; /* clusters: pair column tiles (share x) first, not row tiles (share w) */
    int light_rows; /* experts of fewer rows are walked beside the others, not after them; 0: all in their order */
    int bulk_store; /* full 16 x 64 blocks of out are stored by the copy engine */
};

/* In shared memory. A ticket is MOET_CLUSTER tiles of one expert, or one tile where it has no other left. */
struct moet_tickets {
    int whole;             /* of all experts, before any is cut */
    int split;             /* the last ones: each becomes two tickets of half a tile */
    int heavy_places;      /* experts that are not light, and their tickets: these come first in order[] */
    int heavy;
    unsigned light_share;  /* light tickets / whole, in units of 2^-32, rounded up */
    int done;              /* ping-pong: the last tile is seen */
    int mailbox[MOET_STAGES]; /* clusters: tickets that rank 0 took, for rank 1 */
};

struct moet_job {
    const struct moet_map *x, *w, *out_map;
    const unsigned short *bias;
    unsigned short *out;
    struct moet_choice choice;
    struct moet_tickets *tickets;
    int *row_starts;       /* [experts + 1]: rows of expert e from row_starts[e] to row_starts[e + 1] */
    int *ticket_starts;    /* [experts + 1]: tickets of the expert order[p] from ticket_starts[p] to the next */
    unsigned short *order; /* [experts] */
    int experts, n, k_blocks, n_tiles;
};

struct moet_tile {
    int expert;
    int row;     /* first row in x and out */
    int rows;    /* that are to be computed, at most TILE_ROWS; 0: none, the CTA only keeps step with its cluster */
    int col;     /* first column */
    int is_half; /* half of the columns; swapped, of the rows */
    int share;   /* what both CTAs of the cluster need: nothing, w or x */
};
enum { MOET_SHARE_NOTHING, MOET_SHARE_W, MOET_SHARE_X };

/* Counter of the tickets taken beyond the first of each cluster, and of the clusters that found none left: the last of
 * these clears both for the next launch. Launches of one loaded module must follow each other. */
__device__ unsigned moet_taken, moet_left;

__device__ __forceinline__ int moet_clusters(void) { return gridDim.x / MOET_CLUSTER; }

__device__ __forceinline__ int moet_row_tiles(int rows) { return (rows + MOET_TILE_ROWS - 1) / MOET_TILE_ROWS; }

/* Rows of a row tile of an expert with this many rows. Swapped, the width of the instruction follows the tile, in
 * steps of 16: the tiles of an expert are made equal. */
__device__ __forceinline__ int moet_tile_height(int rows)
{
    if (!MOET_SWAP) return MOET_TILE_ROWS;
    const int tiles = moet_row_tiles(rows);
    return ((rows + tiles - 1) / tiles + 15) / 16 * 16;
}

/* Row tiles of a band, at most `group` of them, in bands of equal height; in clusters even. */
__device__ __forceinline__ int moet_band_height(int row_tiles, int group)
{
    const int bands = (row_tiles + group - 1) / group;
    const int height = (row_tiles + bands - 1) / bands;
    return MOET_CLUSTER == 1 ? height : (height + 1) / 2 * 2;
}

/* Tickets of a block of tiles; clusters: pairs of row tiles of one column and of column tiles of the last row, or the
 * other way round. */
__device__ __forceinline__ int moet_tickets_of(int row_tiles, int n_tiles, int by_columns)
{
    if (MOET_CLUSTER == 1) return row_tiles * n_tiles;
    if (by_columns) return n_tiles / 2 * row_tiles + (n_tiles & 1) * ((row_tiles + 1) / 2);
    return row_tiles / 2 * n_tiles + (row_tiles & 1) * ((n_tiles + 1) / 2);
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

__device__ __forceinline__ int moet_sum(int value) { return __shfl_sync(0xffffffffu, moet_scan(value), 31); }

/* How many of the last whole tickets are cut in halves: those of a last wave that fills at most half of the CTAs. Then
 * they take half the time on all. padded_rows: what is computed, full tiles or not. */
__device__ __forceinline__ int moet_split_of(int padded_rows, int n_tiles, int whole)
{
    if (!MOET_SPLIT) return 0;
    const float waves = (float)padded_rows * (float)n_tiles / ((float)MOET_TILE_ROWS * (float)gridDim.x);
    const float last = waves - floorf(waves);
    return last > 0.5f ? 0 : min((int)ceilf(last * (float)moet_clusters()), whole);
}

/* One warp fills *job->tickets and the three arrays. Counts are not to be trusted: negative ones are 0, and rows past
 * max_rows (at most 2^20) do not exist. */
__device__ __forceinline__ void moet_schedule(const int *counts, const struct moet_job *job, int max_rows)
{
    /* Each lane has some experts in a row. */
    const int experts = job->experts, lane = threadIdx.x & 31, each = (experts + 31) / 32;
    const int first = min(lane * each, experts), end = min(first + each, experts);
    int *const row_starts = job->row_starts, *const ticket_starts = job->ticket_starts;
    int rows = 0;
    for (int e = first; e < end; e++) {
        const int count = min(max(counts[e], 0), max_rows);
        row_starts[e + 1] = count;
        rows += count;
    }
    int row = moet_scan(rows) - rows;
    int padded = 0, heavy = 0, light = 0, heavy_tickets = 0, light_tickets = 0;
    for (int e = first; e < end; e++) {
        const int begin = min(row, max_rows);
        row += row_starts[e + 1];
        const int stop = min(row, max_rows), own = stop - begin;
        const int tickets = moet_tickets_of(moet_row_tiles(own), job->n_tiles, job->choice.by_columns);
        const int step = MOET_SWAP ? 16 : 64;
        row_starts[e + 1] = stop;
        padded += (own + step - 1) / step * step;
        if (own < job->choice.light_rows)
            light++, light_tickets += tickets;
        else
            heavy++, heavy_tickets += tickets;
    }
    if (lane == 0) row_starts[0] = ticket_starts[0] = 0;
    __syncwarp();

    const int all_heavy = moet_sum(heavy), all_heavy_tickets = moet_sum(heavy_tickets);
    const int all_light_tickets = moet_sum(light_tickets), all_padded = moet_sum(padded);
    heavy = moet_scan(heavy) - heavy, heavy_tickets = moet_scan(heavy_tickets) - heavy_tickets;
    light = all_heavy + moet_scan(light) - light;
    light_tickets = all_heavy_tickets + moet_scan(light_tickets) - light_tickets;
    for (int e = first; e < end; e++) {
        const int own = row_starts[e + 1] - row_starts[e];
        const int tickets = moet_tickets_of(moet_row_tiles(own), job->n_tiles, job->choice.by_columns);
        if (own < job->choice.light_rows) {
            job->order[light] = (unsigned short)e;
            ticket_starts[++light] = light_tickets += tickets;
        } else {
            job->order[heavy] = (unsigned short)e;
            ticket_starts[++heavy] = heavy_tickets += tickets;
        }
    }
    if (lane == 0) {
        struct moet_tickets *tickets = job->tickets;
        const int whole = all_heavy_tickets + all_light_tickets;
        const int is_mixed = all_heavy_tickets > 0 && all_light_tickets > 0;
        tickets->whole = whole;
        tickets->split = moet_split_of(all_padded, job->n_tiles, whole);
        tickets->heavy_places = is_mixed ? all_heavy : 0; /* else one walk from the first place */
        tickets->heavy = is_mixed ? all_heavy_tickets : 0;
        tickets->light_share =
            is_mixed ? (unsigned)((((unsigned long long)all_light_tickets << 32) + whole - 1) / whole) : 0xffffffffu;
        tickets->done = 0;
    }
}

/* Where each walk is: places in order[] before which it does not come back. */
struct moet_walk {
    int heavy, light;
};

/* The tile that this ticket gives to this rank, for a whole warp. Tickets ascend from call to call. Inside an expert,
 * bands of row tiles are walked with rows innermost: CTAs that run at the same time share tiles of w and of x. */
__device__ __forceinline__ void moet_locate(const struct moet_job *job, int ticket, int rank, struct moet_walk *walk,
                                            struct moet_tile *at)
{
    const struct moet_tickets *tickets = job->tickets;
    int half = 0;
    if (MOET_SPLIT && ticket >= tickets->whole - tickets->split) {
        const int cut = ticket - (tickets->whole - tickets->split);
        half = 1 + (cut & 1);
        ticket -= (cut + 1) / 2;
    }
    /* Light tickets are spread evenly over the heavy ones; the share is rounded up: none is left at the end. */
    const unsigned share = tickets->light_share;
    const int heavy = tickets->heavy;
    const int light_before = heavy ? (int)__umulhi((unsigned)ticket, share) : ticket;
    const int is_light = heavy == 0 || (int)__umulhi((unsigned)ticket + 1, share) > light_before;
    const int index = is_light ? heavy + light_before : ticket - light_before;

    /* A warp looks at 32 places at a time. ticket_starts ascends and its last entry is past `index`: this ends. */
    int place = is_light ? walk->light : walk->heavy, passed;
    do {
        const int next = place + 1 + (int)(threadIdx.x & 31);
        const int is_passed = next <= job->experts && job->ticket_starts[next] <= index;
        passed = __popc(__ballot_sync(0xffffffffu, is_passed));
        place += passed;
    } while (passed == 32);
    if (is_light)
        walk->light = place;
    else
        walk->heavy = place;

    at->expert = job->order[place];
    const int row_first = job->row_starts[at->expert], row_end = job->row_starts[at->expert + 1];
    const int row_tiles = moet_row_tiles(row_end - row_first), n_tiles = job->n_tiles;
    const int in_expert = index - job->ticket_starts[place];
    const int band_height = moet_band_height(row_tiles, job->choice.group);
    const int band_tickets = band_height * n_tiles / MOET_CLUSTER, band = in_expert / band_tickets;
    const int in_band = in_expert - band * band_tickets;
    const int height = min(band_height, row_tiles - band * band_height);
    int row_tile, n_tile;
    at->share = MOET_SHARE_NOTHING;
    if (MOET_CLUSTER == 1) {
        n_tile = in_band / height;
        row_tile = in_band - n_tile * height;
    } else if (job->choice.by_columns) {
        const int pairs = n_tiles / 2;
        if (in_band < pairs * height) {
            n_tile = in_band / height;
            row_tile = in_band - n_tile * height;
            n_tile = 2 * n_tile + rank;
            at->share = MOET_SHARE_X;
        } else {
            n_tile = 2 * pairs;
            row_tile = 2 * (in_band - pairs * height) + rank;
            if (row_tile - rank + 1 < height) at->share = MOET_SHARE_W;
        }
    } else {
        /* Two columns at a time, for the last row tile of an odd height has its pair in the other column. */
        const int pairs = height / 2, of_two = 2 * pairs + (height & 1), two = in_band / of_two;
        const int in_two = in_band - two * of_two, is_second = in_two >= pairs && 2 * two + 1 < n_tiles;
        n_tile = 2 * two + is_second;
        row_tile = 2 * (in_two - (is_second ? pairs : 0)) + rank;
        if (row_tile - rank + 1 < height) {
            at->share = MOET_SHARE_W;
        } else {
            row_tile -= rank;
            n_tile = 2 * two + rank;
            if (2 * two + 1 < n_tiles) at->share = MOET_SHARE_X;
        }
    }
    const int rows_of_tile = moet_tile_height(row_end - row_first);
    at->row = row_first + (band * band_height + row_tile) * rows_of_tile;
    at->rows = row_tile < height && n_tile < n_tiles ? min(row_end - at->row, rows_of_tile) : 0;
    at->col = n_tile * MOET_TILE_COLS;
    at->is_half = half != 0;
    if (MOET_SPLIT && half) {
        if (MOET_SWAP) {
            const int upper = ((at->rows + 1) / 2 + 15) / 16 * 16;
            at->row += half == 2 ? upper : 0;
            at->rows = half == 2 ? max(at->rows - upper, 0) : min(at->rows, upper);
        } else {
            at->col += half == 2 ? MOET_TILE_COLS / 2 : 0;
            if (MOET_CLUSTER == 1 && at->col >= job->n) at->rows = 0;
        }
    }
}

/* Past the tile's last column. */
__device__ __forceinline__ int moet_col_end(const struct moet_job *job, const struct moet_tile *at)
{
    return min(job->n, at->col + (!MOET_SWAP && at->is_half ? MOET_TILE_COLS / 2 : MOET_TILE_COLS));
}

/* ---- the ring of stages ---- */

/* One warpgroup's place in it. */
struct moet_ring {
    unsigned stages, slots, full, empty, mail; /* shared addresses of stage 0's; those of the next stage follow */
    unsigned turns;                            /* barriers for the math warpgroups' turns */
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

/* A warp is done with what a stage holds. All CTAs that copy to it are told. */
__device__ __forceinline__ void moet_release(unsigned empty)
{
    const int lane = threadIdx.x & 31;
    if (MOET_CLUSTER == 1) {
        if (lane == 0) moet_barrier_arrive(empty);
    } else if (lane < MOET_CLUSTER) {
        moet_barrier_arrive_at(empty, (unsigned)lane);
    }
}

/* What stands beside the stage where a tile begins. `word`: rows; is_half; expert; or -1 after the last tile. */
struct moet_slot {
    int row, col, word;
};

__device__ __forceinline__ void moet_slot_write(unsigned to, const struct moet_tile *at)
{
    moet_write_16(to, make_int4(at->row, at->col, at->rows | at->is_half << 15 | at->expert << 16, 0));
}

__device__ __forceinline__ void moet_slot_write_end(unsigned to) { moet_write_16(to, make_int4(0, 0, -1, 0)); }

__device__ __forceinline__ void moet_slot_read(unsigned from, struct moet_slot *slot)
{
    const uint4 v = moet_load_16(from);
    __syncwarp(); /* no lane reads after another released the stage */
    slot->row = (int)v.x, slot->col = (int)v.y, slot->word = (int)v.z;
}

/* The tile of a slot, from registers that are made here: they are not needed before, in the K loop. */
__device__ __forceinline__ void moet_slot_unpack(const struct moet_slot *slot, struct moet_tile *at)
{
    int word = slot->word;
    asm volatile("" : "+r"(word));
    at->row = slot->row, at->col = slot->col;
    at->rows = word & 0x7fff, at->is_half = word >> 15 & 1, at->expert = word >> 16;
}

/* ---- copies ---- */

/* Copies one K block: the tile's own boxes, and of a shared operand every second one, to both CTAs. */
__device__ __forceinline__ void moet_copy_block(const struct moet_job *job, const struct moet_tile *at, int rank,
                                                int boxes, int pieces, int k, unsigned stage, unsigned full)
{
    const unsigned x = stage + MOET_X_OFFSET, w = stage + MOET_W_OFFSET;
    const int share_x = MOET_CLUSTER > 1 && at->share == MOET_SHARE_X;
    const int share_w = MOET_CLUSTER > 1 && at->share == MOET_SHARE_W;
#pragma unroll
    for (int i = 0; i < MOET_TILE_ROWS / MOET_X_BOX; i++)
        if (i < boxes && (!share_x || (i & 1) == rank))
            moet_copy_2d(x + i * MOET_X_BOX * MOET_LINE_BYTES, job->x, full, k, at->row + i * MOET_X_BOX, share_x);
#pragma unroll
    for (int i = 0; i < MOET_W_PIECES; i++) {
        const int col = at->col + i * MOET_W_PIECE;
        if (i < pieces && (!share_w || (i & 1) == rank))
            moet_copy_3d(w + i * MOET_W_PIECE_BYTES, job->w, full, MOET_KN ? col : k, MOET_KN ? k : col, at->expert,
                         share_w);
    }
}

/* All K blocks of a tile, by one thread, from the stage at `ring`. Shortly before the end a ticket is taken, so that it
 * is there when the next tile begins. */
__device__ __forceinline__ int moet_copy_tile(const struct moet_job *job, const struct moet_tile *at, int rank,
                                              struct moet_ring ring)
{
    /* Rows up to the box's end may be the next expert's: they are computed into rows that nobody stores. */
    const int boxes = (at->rows + MOET_X_BOX - 1) / MOET_X_BOX;
    const int pieces = !MOET_SWAP && at->is_half ? MOET_W_PIECES / 2 : MOET_W_PIECES;
    const unsigned bytes = boxes * MOET_X_BOX * MOET_LINE_BYTES + pieces * MOET_W_PIECE_BYTES;
    const int ask = rank == 0 ? max(job->k_blocks - 4, 0) : -1;
    int next = 0;
    for (int block = 0; block < job->k_blocks; block++) {
        const unsigned full = ring.full + 8 * ring.stage;
        moet_barrier_wait(ring.empty + 8 * ring.stage, ring.phase ^ 1); /* the first pass does not wait */
        if (block == 0) moet_slot_write(ring.slots + 16 * ring.stage, at);
        if (block == ask) next = moet_clusters() + (int)atomicAdd(&moet_taken, 1u);
        if (MOET_CLUSTER > 1 && at->rows == 0) {
            moet_barrier_arrive(full);
        } else {
            moet_barrier_expect(full, bytes);
            moet_copy_block(job, at, rank, boxes, pieces, block * MOET_BK, ring.stages + ring.stage * MOET_STAGE_BYTES,
                            full);
        }
        moet_ring_step(&ring);
    }
    return next;
}

/* The copying warp's whole life. */
__device__ __forceinline__ void moet_copy_tiles(const struct moet_job *job, struct moet_ring *ring)
{
    const int rank = blockIdx.x % MOET_CLUSTER;
    const int end = job->tickets->whole + job->tickets->split;
    struct moet_walk walk = {0, job->tickets->heavy_places};
    unsigned mail_phases = 0; /* a bit a stage */
    int ticket = blockIdx.x / MOET_CLUSTER;
    while (ticket < end) {
        struct moet_tile at;
        moet_locate(job, ticket, rank, &walk, &at);
        int next = 0;
        if (MOET_CLUSTER == 1 && at.rows == 0) { /* half a tile, with nothing in it */
            if (moet_elect()) next = moet_clusters() + (int)atomicAdd(&moet_taken, 1u);
        } else {
            if (moet_elect()) next = moet_copy_tile(job, &at, rank, *ring);
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
    if (moet_elect()) {
        moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
        moet_slot_write_end(ring->slots + 16 * ring->stage);
        moet_barrier_arrive(ring->full + 8 * ring->stage);
        if (rank == 0) {
            __threadfence();
            if (atomicAdd(&moet_left, 1u) == (unsigned)moet_clusters() - 1) moet_taken = moet_left = 0;
        }
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
    unsigned before = 0; /* empty barrier of the stage before this one */
    moet_mma_pin(blocks, width, sums);
    for (int block = 0; block < k_blocks; block++) {
        const unsigned stage = ring->stages + ring->stage * MOET_STAGE_BYTES, empty = ring->empty + 8 * ring->stage;
        const int gives_turn = MOET_PINGPONG && block == k_blocks - 1 && (threadIdx.x & 31) == 0;
        moet_barrier_wait(ring->full + 8 * ring->stage, ring->phase);
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

/* ---- store ---- */

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

/* A math warpgroup's whole life. group: 0 or 1. */
__device__ __forceinline__ void moet_math_tiles(const struct moet_job *job, struct moet_ring *ring, int group,
                                                unsigned lines)
{
    const int first = MOET_PINGPONG ? 0 : group; /* m64 blocks first, first + TILE_GROUPS, ... of the tile */
    volatile int *const done = &job->tickets->done;
    if (MOET_PINGPONG && group == 1) moet_ring_skip(ring, job->k_blocks);
    /* turn: number of the tile among the CTA's */
    for (int turn = MOET_PINGPONG ? group : 0;; turn += MOET_PINGPONG ? MOET_MATH_GROUPS : 1) {
        struct moet_slot slot;
        struct moet_tile at;
        /* Blocks are waited for in the order of the ring: parities do not tell a pass from the one before the last.
         * Turn 0 does not wait. */
        if (MOET_PINGPONG) {
            moet_barrier_wait(ring->turns + 8 * group, (turn / MOET_MATH_GROUPS + (group == 0)) & 1);
            if (*done) break;
        }
        moet_barrier_wait(ring->full + 8 * ring->stage, ring->phase);
        moet_slot_read(ring->slots + 16 * ring->stage, &slot);
        if (slot.word < 0) {
            if (MOET_PINGPONG && (threadIdx.x & 31) == 0) {
                *done = 1; /* the other warpgroup does not look into the ring again */
                moet_barrier_arrive(ring->turns + 8 * (group ^ 1));
            }
            break;
        }
        moet_slot_unpack(&slot, &at);
        const int extent = min(MOET_SWAP ? job->n - at.col : at.rows, MOET_BM);
        const int live = at.rows == 0 ? 0 : ((extent + 63) / 64 - first + MOET_TILE_GROUPS - 1) / MOET_TILE_GROUPS;
        float sums[MOET_MI][MOET_SUMS]; /* the first instruction does not read them */
        moet_multiply(&at, live, sums, ring, group, first * MOET_BLOCK_BYTES, job->k_blocks);
        moet_slot_unpack(&slot, &at);
        /* Not a loop: one that is not unrolled would put the sums into local memory. */
        moet_store_block(sums[0], &at, first, job, lines);
        if (MOET_MI > 1) moet_store_block(sums[MOET_MI > 1 ? 1 : 0], &at, first + MOET_TILE_GROUPS, job, lines);
        if (MOET_MI > 2) moet_store_block(sums[MOET_MI > 2 ? 2 : 0], &at, first + 2 * MOET_TILE_GROUPS, job, lines);
        if (MOET_MI > 3) moet_store_block(sums[MOET_MI > 3 ? 3 : 0], &at, first + 3 * MOET_TILE_GROUPS, job, lines);
        if (MOET_PINGPONG) moet_ring_skip(ring, job->k_blocks);
    }
    if (job->choice.bulk_store && moet_elect()) moet_bulk_store_wait(); /* before the lines are gone */
}

/* ---- kernels ---- */

__device__ __forceinline__ void moet_body(struct moet_job *job, const int *counts, int k, int max_rows)
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
    job->tickets = (struct moet_tickets *)(shared_memory + MOET_SHARED_OFFSET);
    job->row_starts = (int *)(job->tickets + 1);
    job->ticket_starts = job->row_starts + job->experts + 1;
    job->order = (unsigned short *)(job->ticket_starts + job->experts + 1);
    job->k_blocks = (k + MOET_BK - 1) / MOET_BK;
    job->n_tiles = (job->n + MOET_TILE_COLS - 1) / MOET_TILE_COLS;

    /* Uniform over a warp, and the compiler sees it. */
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), warpgroup = warp / MOET_MATH_WARPS;
    if (warp == 0) moet_schedule(counts, job, max_rows);
    if (warp == 1 && moet_elect()) {
#ifdef MOET_WATCHDOG
        if (shared % 1024 != 0) moet_bark(2, shared, 0);
#endif
        moet_map_prefetch(job->x);
        moet_map_prefetch(job->w);
        for (int i = 0; i < MOET_STAGES; i++) {
            moet_barrier_init(ring.full + 8 * i, 1);
            moet_barrier_init(ring.empty + 8 * i, MOET_CLUSTER * MOET_TILE_GROUPS * MOET_MATH_WARPS);
            moet_barrier_init(ring.mail + 8 * i, 1);
        }
        for (int i = 0; i < MOET_MATH_GROUPS; i++) moet_barrier_init(ring.turns + 8 * i, MOET_MATH_WARPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        moet_proxy_fence(); /* the copies' proxy sees the barriers */
    }
    __syncthreads();
    if (MOET_CLUSTER > 1) moet_cluster_sync();

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(MOET_COPY_REGISTERS));
        if (warp == 0) moet_copy_tiles(job, &ring);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MOET_MATH_REGISTERS));
        moet_math_tiles(job, &ring, warpgroup - 1, shared + MOET_STORE_OFFSET + (warpgroup - 1) * MOET_STORE_BYTES);
    }
    if (MOET_CLUSTER > 1) moet_cluster_sync(); /* the other CTA may still write here */
}

#define MOET_JOIN_(a, b) a##b
#define MOET_JOIN(a, b) MOET_JOIN_(a, b)
#if MOET_CLUSTER > 1
#define MOET_CLUSTER_DIMS __cluster_dims__(MOET_CLUSTER, 1, 1)
#else
#define MOET_CLUSTER_DIMS
#endif
/* counts: in device memory (a captured graph replays with whatever they are then), or by value (no copy before the
 * launch). */
#define MOET_KERNEL(suffix, counts_parameter, counts_pointer)                                                         \
    extern "C" __global__ void MOET_CLUSTER_DIMS __launch_bounds__(MOET_THREADS, 1) MOET_JOIN(MOET_NAME, suffix)(     \
        const __grid_constant__ struct moet_map x, const __grid_constant__ struct moet_map w,                         \
        const __grid_constant__ struct moet_map out_map, const unsigned short *__restrict__ bias,                     \
        unsigned short *__restrict__ out, counts_parameter, int experts, int n, int k, int max_rows,                  \
        struct moet_choice choice)                                                                                    \
    {                                                                                                                 \
        struct moet_job job;                                                                                          \
        job.x = &x, job.w = &w, job.out_map = &out_map, job.bias = bias, job.out = out, job.choice = choice;          \
        job.experts = experts, job.n = n;                                                                             \
        moet_body(&job, counts_pointer, k, max_rows);                                                                 \
    }

MOET_KERNEL(_d, const int *__restrict__ counts, counts)
MOET_KERNEL(_h, const __grid_constant__ struct moet_counts counts, counts.v)
