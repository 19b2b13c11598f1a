/* wgmma_gemm.chain.cuh: in front of wgmma_gemm.cu: the down GEMM behind the up GEMM in one launch. Its tickets follow
 * the up GEMM's, so that nothing waits for the end of a wave between them. A tile of it needs the rows of act that the
 * up GEMM's tiles of the same rows store, all columns: these count their warps here when they have stored, and the
 * down GEMM's copies wait for the count. They wait for tickets before their own only, which running CTAs have taken:
 * this ends. */

/* Row tiles of an expert begin at least so far apart: moet_tile_height is more than half of TILE_ROWS if there are
 * two. */
#define MOET_READY_ROWS (MOET_SWAP ? MOET_TILE_ROWS / 2 : MOET_TILE_ROWS)

#if MOET_CHAIN

#define MOET_READY_SIZE(rows, experts) ((rows) / MOET_READY_ROWS + (experts))
/* Warps that have stored their part of a row tile of act. The last CTA to leave clears them. */
__device__ unsigned moet_ready[MOET_READY_SIZE(MOET_MAX_ROWS, MOET_MAX_EXPERTS) + 1];
__device__ unsigned moet_ready_all; /* the same over all row tiles */

/* The warp has stored. The fences: of each lane's stores for the copies' proxy, then of all of the warp's for other
 * SMs. */
__device__ __forceinline__ void moet_ready_tell(int row_tile)
{
    asm volatile("fence.proxy.async.global;" ::: "memory");
    __syncwarp();
    if ((threadIdx.x & 31) == 0)
        asm volatile("fence.acq_rel.gpu;\n"
                     "red.relaxed.gpu.global.add.u32 [%0], 1;\n"
                     "red.relaxed.gpu.global.add.u32 [%1], 1;" ::"l"(moet_ready + row_tile),
                     "l"(&moet_ready_all)
                     : "memory");
}

__device__ __forceinline__ unsigned moet_ready_look(const unsigned *told)
{
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(told) : "memory");
    return value;
}

/* One thread, ahead of its copies of the row tile. Whether all are there: it need not wait again, which takes the ring
 * most of what is in it. */
__device__ __forceinline__ int moet_ready_wait(int row_tile, unsigned signals, unsigned all_signals)
{
    int is_all;
    do {
        is_all = moet_ready_look(&moet_ready_all) == all_signals;
#ifdef MOET_WATCHDOG
        if (*(volatile int *)&moet_barked) break;
#endif
    } while (!is_all && moet_ready_look(moet_ready + row_tile) < signals);
    asm volatile("fence.proxy.async.global;" ::: "memory");
    return is_all;
}

/* One warp, when all have left. */
__device__ __forceinline__ void moet_ready_clear(int size)
{
    for (int i = threadIdx.x & 31; i < size; i += 32) moet_ready[i] = 0;
    if ((threadIdx.x & 31) == 0) moet_ready_all = 0;
}

#endif
