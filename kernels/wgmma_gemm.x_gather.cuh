/* wgmma_gemm.x_gather.cuh: in front of wgmma_gemm.cu: rows of x from where they are. Three warps of the copying
 * warpgroup copy 16 bytes a thread, 8 threads a line of 64 K, to where the copy engine would put them. A thread's arrival
 * at a stage's full barrier comes by itself when its copies are there, so that the warps run ahead as far as the ring is
 * free; math warps then fence, for wgmma reads by another proxy than cp.async writes. */

/* Slots tell the tiles: {row, rows}, rows -1 after the last. Two of them, with a full and an empty barrier each. */
struct moet_gather {
    unsigned slots, full, empty;
    const unsigned short **begins; /* [TILE_ROWS] of the tile at hand */
};

#if MOET_GATHER

#define MOET_GATHER_ROWS (MOET_GATHER_WARPS * 32 / 8) /* that the threads cover at a time */
#define MOET_GATHER_BATCH 4                           /* rows of a thread at a time; even */
static_assert(MOET_GATHER_ROWS % 8 == 4, "moet_gather_batch");

/* `bytes` of the 16 are read, the others are zeros. */
__device__ __forceinline__ void moet_copy_16(unsigned to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/* The thread's arrival at the barrier, one that it counts, once all of its copies so far are there. */
__device__ __forceinline__ void moet_copy_16_arrive(unsigned barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void moet_gather_tell(const struct moet_gather *gather, int tile, int row, int rows)
{
    const unsigned slot = tile & 1, to = gather->slots + 8 * slot;
    moet_barrier_wait(gather->empty + 8 * slot, (tile >> 1 & 1) ^ 1);
    moet_exchange(to, row), moet_exchange(to + 4, rows);
    moet_barrier_arrive(gather->full + 8 * slot);
}

/* Rows first, first + GATHER_ROWS, ... of a tile are a thread's. Where they begin in x goes to shared memory, for the
 * warp's own use: a K block leaves a warp time for few instructions. */
__device__ __forceinline__ int moet_gather_first(void) { return (int)(threadIdx.x - 32) >> 3; }

__device__ __forceinline__ void moet_gather_begins(const struct moet_job *job, int row_first, int rows,
                                                   const unsigned short **begins)
{
    __syncwarp(); /* the tile before is copied */
    if ((threadIdx.x & 7) == 0) {
        for (int row = moet_gather_first(); row < rows; row += MOET_GATHER_ROWS)
            begins[row] = job->x_rows + moet_load_number(job->source + row_first + row) * job->x_stride;
    }
    __syncwarp();
}

/* A batch of the thread's rows from `row` on, to `to` for the first; checked: those below `rows`. GATHER_ROWS is an odd
 * multiple of 4: from one row to the next, row & 7 changes by 4. */
__device__ __forceinline__ void moet_gather_batch(const unsigned short *const *begins, int row, int rows, int checked,
                                                  int element, int bytes, unsigned to)
{
    const unsigned short *from[MOET_GATHER_BATCH];
#pragma unroll
    for (int i = 0; i < MOET_GATHER_BATCH; i++)
        if (!checked || row + i * MOET_GATHER_ROWS < rows) from[i] = begins[row + i * MOET_GATHER_ROWS];
#pragma unroll
    for (int i = 0; i < MOET_GATHER_BATCH; i++)
        if (!checked || row + i * MOET_GATHER_ROWS < rows)
            moet_copy_16((i & 1 ? to ^ 64 : to) + i * MOET_GATHER_ROWS * MOET_LINE_BYTES, from[i] + element, bytes);
}

/* The K block's lines of a tile. */
__device__ __forceinline__ void moet_gather_block(const struct moet_job *job, const unsigned short *const *begins,
                                                  int rows, int k, unsigned to)
{
    const int chunk = threadIdx.x & 7, whole = MOET_GATHER_BATCH * MOET_GATHER_ROWS;
    const int bytes = k + chunk * 8 < job->k ? 16 : 0, element = bytes ? k + chunk * 8 : 0;
    int row = moet_gather_first();
    to += row * MOET_LINE_BYTES + ((chunk ^ (row & 7)) << 4);
    for (; row + whole - MOET_GATHER_ROWS < rows; row += whole, to += whole * MOET_LINE_BYTES)
        moet_gather_batch(begins, row, rows, 0, element, bytes, to);
    moet_gather_batch(begins, row, rows, 1, element, bytes, to);
}

/* A gathering warp's whole life. */
__device__ __forceinline__ void moet_gather_tiles(const struct moet_job *job, const struct moet_gather *gather,
                                                  struct moet_ring *ring)
{
    for (int tile = 0;; tile++) {
        const unsigned slot = tile & 1, from = gather->slots + 8 * slot;
        moet_barrier_wait(gather->full + 8 * slot, tile >> 1 & 1);
        const int row = moet_look(from), rows = moet_look(from + 4);
        __syncwarp();
        if ((threadIdx.x & 31) == 0) moet_barrier_arrive(gather->empty + 8 * slot);
        if (rows < 0) {
            if (!MOET_CHAIN) { /* the stage that tells math warps the end */
                moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
                moet_barrier_arrive(ring->full + 8 * ring->stage);
            } /* else the copying warp arrives for these warps from here on */
            break;
        }
        moet_gather_begins(job, row, rows, gather->begins);
        for (int block = 0; block < job->k_blocks; block++) {
            moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
            moet_gather_block(job, gather->begins, rows, block * MOET_BK,
                              ring->stages + ring->stage * MOET_STAGE_BYTES + MOET_X_OFFSET);
            moet_copy_16_arrive(ring->full + 8 * ring->stage);
            moet_ring_step(ring);
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory"); /* nothing is written after the end */
}

#endif
