/* cublas_grouped.cu: writes the pointer arrays of a grouped product into device memory. The routing comes by value in
 * the kernel's parameters, so that there is no host buffer to keep until a copy has read it. */

#define MOET_CHUNK 256

/* Experts with rows, `first` to `first + count` of them; as in cublas_grouped.c. */
struct moet_pointer_chunk {
    int first;
    int count;
    int row[MOET_CHUNK];      /* first row of x and out */
    short expert[MOET_CHUNK]; /* whose weights */
};

/* pointers: three arrays of `capacity` each, of w, x and out. One block of MOET_CHUNK threads. */
extern "C" __global__ void moet_write_pointers(unsigned long long *pointers, int capacity, unsigned long long w,
                                               unsigned long long x, unsigned long long out,
                                               unsigned long long w_expert_bytes, unsigned long long x_row_bytes,
                                               unsigned long long out_row_bytes, moet_pointer_chunk chunk)
{
    int i = threadIdx.x;
    if (i >= chunk.count) return;
    unsigned long long *slot = pointers + chunk.first + i;
    unsigned long long row = chunk.row[i];
    slot[0] = w + w_expert_bytes * chunk.expert[i];
    slot[capacity] = x + x_row_bytes * row;
    slot[2 * capacity] = out + out_row_bytes * row;
}
