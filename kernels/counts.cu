/* counts.cu: what counts in device memory look like (src/counts.h). Compiled by NVRTC (or nvcc -cubin): includes nothing.
 * One block of 256 threads, launched by counts.c. */

typedef long long i64;

/* As moet_routing of moet.h. */
struct routing {
    int experts, active;
    i64 rows;
    int max;
    double max_over_mean;
    i64 tokens;
};

extern "C" __global__ void __launch_bounds__(256) moet_summarize_counts(const int *counts, int experts, routing *result)
{
    __shared__ i64 warp_rows[8];
    __shared__ int warp_active[8], warp_max[8];
    i64 rows = 0;
    int active = 0, most = 0;
    for (int e = threadIdx.x; e < experts; e += 256) {
        int count = max(counts[e], 0);
        rows += count;
        active += count > 0;
        most = max(most, count);
    }
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        rows += __shfl_xor_sync(~0u, rows, d);
        active += __shfl_xor_sync(~0u, active, d);
        most = max(most, __shfl_xor_sync(~0u, most, d));
    }
    if (threadIdx.x % 32 == 0) {
        warp_rows[threadIdx.x / 32] = rows;
        warp_active[threadIdx.x / 32] = active;
        warp_max[threadIdx.x / 32] = most;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < 8; i++) {
        rows += warp_rows[i];
        active += warp_active[i];
        most = max(most, warp_max[i]);
    }
    result->experts = experts;
    result->active = active;
    result->rows = rows;
    result->max = most;
    result->max_over_mean = rows > 0 ? (double)most * experts / (double)rows : 1.0;
    result->tokens = rows;
}
