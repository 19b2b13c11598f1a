/* wgmma_gemm.x_gather.cuh: in front of wgmma_gemm.cu: rows of x from where they are. Three warps of the copying warpgroup
 * copy 16 bytes a thread, 8 threads a line of 64 K, to where the copy engine would put them. A stage is full when their
 * copies have arrived and are there for wgmma, and the copy engine's have. */

/* Slots tell the tiles: {row, rows}, rows -1 after the last. Two of them, with a full and an empty barrier each. */
struct moet_gather {
    unsigned slots, full, empty;
};

#if MOET_GATHER

#define MOET_GATHER_ROWS (MOET_GATHER_WARPS * 32 / 8) /* that the threads cover at a time */
#define MOET_GATHER_BATCH 4                           /* rows of a thread whose numbers are in flight together */

/* `bytes` of the 16 are read, the others are zeros. */
__device__ __forceinline__ void moet_copy_16(unsigned to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void moet_copy_16_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All of the thread's groups are there; all but the latest. */
__device__ __forceinline__ void moet_copy_16_wait(void) { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ void moet_copy_16_wait_previous(void) { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

/* Written by the launch before, perhaps after this one began. */
__device__ __forceinline__ int moet_load_source(const int *from)
{
    int source;
    asm volatile("ld.global.s32 %0, [%1];" : "=r"(source) : "l"(from));
    return source;
}

__device__ __forceinline__ void moet_gather_tell(const struct moet_gather *gather, int tile, int row, int rows)
{
    const unsigned slot = tile & 1, to = gather->slots + 8 * slot;
    moet_barrier_wait(gather->empty + 8 * slot, (tile >> 1 & 1) ^ 1);
    moet_exchange(to, row), moet_exchange(to + 4, rows);
    moet_barrier_arrive(gather->full + 8 * slot);
}

/* What this warp copied to a stage is there for wgmma. */
__device__ __forceinline__ void moet_gather_arrive(unsigned full)
{
    moet_proxy_fence();
    __syncwarp();
    if ((threadIdx.x & 31) == 0) moet_barrier_arrive(full);
}

/* The K block's lines of a tile, for one thread: rows first, first + GATHER_ROWS, ... */
__device__ __forceinline__ void moet_gather_block(const struct moet_job *job, const int *source, int rows, int k,
                                                  unsigned to)
{
    const int thread = threadIdx.x - 32, chunk = thread & 7, first = thread >> 3;
    const int element = k + chunk * 8, bytes = element < job->k ? 16 : 0;
    const unsigned short *from = job->x_rows + (bytes ? element : 0);
    for (int begin = first; begin < rows; begin += MOET_GATHER_BATCH * MOET_GATHER_ROWS) {
        int number[MOET_GATHER_BATCH];
#pragma unroll
        for (int i = 0; i < MOET_GATHER_BATCH; i++) {
            const int row = begin + i * MOET_GATHER_ROWS;
            number[i] = row < rows ? moet_load_source(source + row) : -1;
        }
#pragma unroll
        for (int i = 0; i < MOET_GATHER_BATCH; i++) {
            const int row = begin + i * MOET_GATHER_ROWS;
            if (number[i] >= 0)
                moet_copy_16(to + row * MOET_LINE_BYTES + ((chunk ^ (row & 7)) << 4), from + number[i] * job->x_stride,
                             bytes);
        }
    }
}

/* A gathering warp's whole life. All of a tile has arrived before the next tile is waited for, which may depend on it. */
__device__ __forceinline__ void moet_gather_tiles(const struct moet_job *job, const struct moet_gather *gather,
                                                  struct moet_ring *ring)
{
    for (int tile = 0;; tile++) {
        const unsigned slot = tile & 1, from = gather->slots + 8 * slot;
        moet_barrier_wait(gather->full + 8 * slot, tile >> 1 & 1);
        const int row = moet_look(from), rows = moet_look(from + 4);
        __syncwarp();
        if ((threadIdx.x & 31) == 0) moet_barrier_arrive(gather->empty + 8 * slot);
        if (rows < 0) { /* the stage that tells math warps the end */
            moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
            moet_gather_arrive(ring->full + 8 * ring->stage);
            break;
        }
        unsigned before = 0; /* full barrier of the stage before this one */
        for (int block = 0; block < job->k_blocks; block++) {
            const unsigned full = ring->full + 8 * ring->stage;
            moet_barrier_wait(ring->empty + 8 * ring->stage, ring->phase ^ 1);
            moet_gather_block(job, job->source + row, rows, block * MOET_BK,
                              ring->stages + ring->stage * MOET_STAGE_BYTES + MOET_X_OFFSET);
            moet_copy_16_commit();
            if (block > 0) {
                moet_copy_16_wait_previous();
                moet_gather_arrive(before);
            }
            before = full;
            moet_ring_step(ring);
        }
        moet_copy_16_wait();
        moet_gather_arrive(before);
    }
}

#endif
