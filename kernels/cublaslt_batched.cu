/* cublaslt_batched.cu: copies rows between the experts' own places, one behind the other, and a strided batch, in which
 * each expert has as many rows as the longest. Padding is neither written nor read. */

/* As in cublaslt_batched.c. */
struct moet_batch_counts {
    int v[1024];
};

struct moet_batch_copy {
    const uint4 *from;
    uint4 *to;
    int experts, height; /* of this batch; rows of each in it */
    int packs;           /* uint4 a row */
    int pads;            /* 1: into the batch; 0: out of it */
};

/* A block row (y) an expert; its blocks share the rows of the expert. */
extern "C" __global__ void __launch_bounds__(256)
    moet_batch_rows(const __grid_constant__ struct moet_batch_copy copy,
                    const __grid_constant__ struct moet_batch_counts counts)
{
    const int expert = blockIdx.y;
    __shared__ int first;
    if (threadIdx.x == 0) first = 0;
    __syncthreads();
    int before = 0;
    for (int e = threadIdx.x; e < expert; e += 256) before += counts.v[e];
    if (before) atomicAdd(&first, before);
    __syncthreads();
    const long long packs = (long long)counts.v[expert] * copy.packs;
    const long long own = (long long)first * copy.packs, batch = (long long)expert * copy.height * copy.packs;
    const uint4 *from = copy.from + (copy.pads ? own : batch);
    uint4 *to = copy.to + (copy.pads ? batch : own);
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < packs; i += gridDim.x * 256ll) to[i] = from[i];
}
