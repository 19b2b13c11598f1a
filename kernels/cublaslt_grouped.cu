/* cublaslt_grouped.cu: describes a grouped product in device memory: the rows of each group and the addresses of its
 * matrices, from the counts of the experts. One group an expert; an expert without rows is a group without columns. */

/* As in cublaslt_grouped.c. */
#define MOET_THREADS 1024

struct moet_lt_counts {
    int v[MOET_THREADS];
};

/* What a launch's description is made of; in bytes. */
struct moet_lt_job {
    unsigned long long x, w, out;
    unsigned long long x_row_bytes, w_expert_bytes, out_row_bytes;
    int *rows;                    /* [experts] */
    unsigned long long *pointers; /* [3][experts]: w, x, out */
    int experts, max_rows;
};

/* One block of MOET_THREADS threads, one an expert. Counts that say more than max_rows are cut off there. */
__device__ __forceinline__ void moet_describe(const struct moet_lt_job *job, const int *counts)
{
    __shared__ int warp_rows[MOET_THREADS / 32];
    const int e = threadIdx.x, lane = e & 31;
    int own = e < job->experts ? counts[e] : 0;
    if (own < 0) own = 0;
    if (own > job->max_rows) own = job->max_rows; /* so that no sum overflows */
    int last = own;                               /* rows of the experts up to this one */
    for (int step = 1; step < 32; step *= 2) {
        int before = __shfl_up_sync(0xffffffffu, last, step);
        if (lane >= step) last += before;
    }
    if (lane == 31) warp_rows[e / 32] = last;
    __syncthreads();
    for (int warp = 0; warp < e / 32; warp++) last += warp_rows[warp];
    if (e >= job->experts) return;
    int first = last - own;
    if (first > job->max_rows) first = job->max_rows;
    if (own > job->max_rows - first) own = job->max_rows - first;
    if (own == 0) first = 0; /* an address that is surely inside */
    job->rows[e] = own;
    job->pointers[e] = job->w + job->w_expert_bytes * e;
    job->pointers[job->experts + e] = job->x + job->x_row_bytes * first;
    job->pointers[2 * job->experts + e] = job->out + job->out_row_bytes * first;
}

/* Counts in device memory: a captured graph replays with whatever they are then. */
extern "C" __global__ void moet_lt_describe_d(const __grid_constant__ struct moet_lt_job job, const int *counts)
{
    moet_describe(&job, counts);
}

/* Counts by value: no copy before the launch. */
extern "C" __global__ void moet_lt_describe_h(const __grid_constant__ struct moet_lt_job job,
                                              const __grid_constant__ struct moet_lt_counts counts)
{
    moet_describe(&job, counts.v);
}
