/* wgmma_gemm.ring.cuh: in front of wgmma_gemm.cu: the ring of stages between copies and math. */

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
