/* ops.cu: the device work behind ops.h on CUDA. Compiled by NVRTC (or nvcc -cubin): includes nothing. Launch shapes are
 * in ops_cuda.c. */

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

/* Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014); the same in ops_host.c. */
static __device__ __forceinline__ u64 mix64(u64 z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static __device__ __forceinline__ float bf16_to_float(u32 bits) { return __uint_as_float(bits << 16); }

/* Rounds to nearest even; never called with NaN. */
static __device__ __forceinline__ u16 float_to_bf16(float value)
{
    u32 wide = __float_as_uint(value);
    return (u16)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

static __device__ __forceinline__ i64 thread_index(void) { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ __forceinline__ i64 thread_total(void) { return (i64)gridDim.x * blockDim.x; }

/* to[count] bf16: scale * normal(0, 1) by Box and Muller; seed is mixed already. */
KERNEL(256, 4) moet_random(u16 *to, i64 count, u64 seed, float scale)
{
    for (i64 i = thread_index(); i < count; i += thread_total()) {
        u64 h = mix64(seed + (u64)i * 0x9e3779b97f4a7c15ull);
        float u = (float)((h >> 40) + 1) * 5.9604644775390625e-8f; /* 2^-24: (0, 1] */
        float v = (float)(h & 0xffffff) * 5.9604644775390625e-8f;  /* [0, 1) */
        to[i] = float_to_bf16(scale * (sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v)));
    }
}

/* As spread_range of ops_host.c; seed is mixed already. */
KERNEL(256, 4) moet_spread(u16 *to, const u16 *from, i64 rows, int K, u64 seed)
{
    for (i64 i = thread_index(); i < rows * K; i += thread_total()) {
        i64 row = i / K, k = i % K;
        int kind = (int)(row % 5);
        i64 at = row * K + (kind == 0 && k >= K / 2 ? k - K / 2 : k);
        int own = (int)(mix64(seed + (u64)at * 0x9e3779b97f4a7c15ull) % 13) - 6;
        int exponent = kind == 1 ? 6 : kind == 2 ? -6 : kind == 4 ? 0 : own;
        to[i] = float_to_bf16(bf16_to_float(from[at]) * __uint_as_float((u32)(127 + exponent) << 23));
    }
}

/* As host_mirror: of every eighth column of w, whose elements are k_step apart. */
KERNEL(256, 4) moet_mirror(u16 *w, int experts, int N, int K, int kn)
{
    i64 columns = N / 8, half = K / 2, k_step = kn ? N : 1;
    for (i64 i = thread_index(); i < experts * columns * half; i += thread_total()) {
        i64 e = i / (columns * half), c = i / half % columns, k = i % half;
        u16 *column = w + e * N * K + (8 * c + 7) * (kn ? 1 : K);
        column[(half + k) * k_step] = column[k * k_step] ^ 0x8000;
    }
}

/* ---- reference GEMM: a 128 x 128 tile a block, 8 x 8 outputs a thread, k ascending in steps of 16 ---- */

#define TILE 128
#define STEP 16
#define PITCH (TILE + 4) /* floats; keeps float4 alignment */
#define MAX_EXPERTS 1024

/* Eight bf16 of p, or zeros. p is 16-byte aligned. */
static __device__ __forceinline__ uint4 load8(const u16 *p, bool valid)
{
    return valid ? *(const uint4 *)p : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ void widen8(uint4 v, float *to)
{
    to[0] = bf16_to_float(v.x & 0xffff), to[1] = bf16_to_float(v.x >> 16);
    to[2] = bf16_to_float(v.y & 0xffff), to[3] = bf16_to_float(v.y >> 16);
    to[4] = bf16_to_float(v.z & 0xffff), to[5] = bf16_to_float(v.z >> 16);
    to[6] = bf16_to_float(v.w & 0xffff), to[7] = bf16_to_float(v.w >> 16);
}

/* Eight k of one row or column: one float a k-line. */
static __device__ __forceinline__ void put_column(float (*tile)[PITCH], int k, int at, uint4 v)
{
    float f[8];
    widen8(v, f);
#pragma unroll
    for (int i = 0; i < 8; i++) tile[k + i][at] = f[i];
}

/* x [M, K], w [E, N, K] or (kn) [E, K, N], bias [E, N] or null, counts [E] -> reference, magnitude [M, N] fp32.
 * Grid: (columns / 128, at least the sum over experts of rows / 128, rounded up); 256 threads. Blocks past the last
 * tile leave. K and N are multiples of 8. */
KERNEL(256, 1)
moet_reference_gemm(const u16 *x, const u16 *w, const u16 *bias, const int *counts, int experts, int N, int K, int kn,
                    float *reference, float *magnitude)
{
    __shared__ int count_of[MAX_EXPERTS];
    __shared__ int found_expert, found_rows;
    __shared__ i64 found_row;
    __shared__ __align__(16) float xs[STEP][PITCH], ws[STEP][PITCH];
    int tid = threadIdx.x;

    /* Which expert's rows are this block's tile? */
    for (int e = tid; e < experts; e += 256) count_of[e] = counts[e];
    __syncthreads();
    if (tid == 0) {
        int tile = blockIdx.y, e = 0;
        i64 row = 0;
        for (; e < experts; e++) {
            int tiles = (count_of[e] + TILE - 1) / TILE;
            if (tile < tiles) break;
            tile -= tiles;
            row += count_of[e];
        }
        found_expert = e;
        if (e < experts) {
            found_row = row + (i64)tile * TILE;
            found_rows = min(TILE, count_of[e] - tile * TILE);
        }
    }
    __syncthreads();
    int expert = found_expert;
    if (expert == experts) return;
    int rows = found_rows;
    i64 row0 = found_row;
    int n0 = blockIdx.x * TILE;

    /* Loading: a thread brings 8 k of one row of x, and of w 8 k of one column (nk) or 8 columns of one k (kn). */
    int line = tid & 127, line_k = (tid >> 7) * 8;
    int kn_k = tid >> 4, kn_n = (tid & 15) * 8;
    const u16 *we = w + (i64)expert * N * K;
    const u16 *xp = x + (row0 + line) * K + line_k;
    const u16 *wp = kn ? we + (i64)kn_k * N + n0 + kn_n : we + (i64)(n0 + line) * K + line_k;
    i64 wp_step = kn ? (i64)STEP * N : STEP;
    bool x_valid = line < rows, w_valid = kn ? n0 + kn_n < N : n0 + line < N;
    int w_k = kn ? kn_k : line_k;

    /* Computing: rows ty * 4 + i and 64 + ty * 4 + i, columns tx * 4 + j and 64 + tx * 4 + j. */
    int tx = tid & 15, ty = tid >> 4;
    float sum[8][8], size[8][8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) sum[i][j] = size[i][j] = 0.0f;
    }

    uint4 xv = load8(xp, x_valid && line_k < K), wv = load8(wp, w_valid && w_k < K);
    for (int k0 = 0; k0 < K; k0 += STEP) {
        __syncthreads();
        put_column(xs, line_k, line, xv);
        if (kn) {
            float f[8];
            widen8(wv, f);
            *(float4 *)&ws[kn_k][kn_n] = make_float4(f[0], f[1], f[2], f[3]);
            *(float4 *)&ws[kn_k][kn_n + 4] = make_float4(f[4], f[5], f[6], f[7]);
        } else {
            put_column(ws, line_k, line, wv);
        }
        __syncthreads();
        int next = k0 + STEP;
        xp += STEP, wp += wp_step;
        xv = load8(xp, x_valid && next + line_k < K), wv = load8(wp, w_valid && next + w_k < K);
#pragma unroll
        for (int k = 0; k < STEP; k++) { /* past K both tiles hold zeros */
            float a[8], b[8];
            *(float4 *)&a[0] = *(const float4 *)&xs[k][ty * 4];
            *(float4 *)&a[4] = *(const float4 *)&xs[k][64 + ty * 4];
            *(float4 *)&b[0] = *(const float4 *)&ws[k][tx * 4];
            *(float4 *)&b[4] = *(const float4 *)&ws[k][64 + tx * 4];
#pragma unroll
            for (int i = 0; i < 8; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
                    size[i][j] = fmaf(fabsf(a[i]), fabsf(b[j]), size[i][j]);
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 8; i++) {
        int r = (i / 4) * 64 + ty * 4 + i % 4;
        if (r >= rows) continue;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int n = n0 + h * 64 + tx * 4;
            if (n >= N) continue; /* N is a multiple of 8: all four columns or none */
            float s[4], m[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float b = bias ? bf16_to_float(bias[(i64)expert * N + n + j]) : 0.0f;
                s[j] = sum[i][h * 4 + j] + b;
                m[j] = size[i][h * 4 + j] + fabsf(b);
            }
            i64 at = (row0 + r) * N + n;
            *(float4 *)&reference[at] = make_float4(s[0], s[1], s[2], s[3]);
            *(float4 *)&magnitude[at] = make_float4(m[0], m[1], m[2], m[3]);
        }
    }
}

/* ---- compare ---- */

/* As ops_cuda.c downloads it. */
struct compare_result {
    u64 error_bits; /* of the largest error as fp32; not negative, so that integer order is float order */
    u64 wrong;
    u64 first_wrong; /* all ones: none */
    u64 hash;
};

extern "C" __global__ void moet_compare_begin(compare_result *result)
{
    result->error_bits = 0;
    result->wrong = 0;
    result->first_wrong = ~0ull;
    result->hash = 0;
}

KERNEL(256, 4)
moet_compare(const u16 *out, const float *reference, const float *magnitude, i64 count, float gamma,
             compare_result *result)
{
    const float infinity = __uint_as_float(0x7f800000);
    float worst = 0.0f;
    u64 wrong = 0, first = ~0ull, hash = 0;
    for (i64 i = thread_index(); i < count; i += thread_total()) {
        u32 bits = out[i];
        float ref = reference[i];
        float bound = 0.00390625f * fabsf(ref) + gamma * magnitude[i] + 1e-38f; /* 2^-8 */
        float error = fabsf(bf16_to_float(bits) - ref) / bound;
        if (!(error <= infinity)) error = infinity; /* NaN */
        worst = fmaxf(worst, error);
        if (error > 1.0f) {
            wrong++;
            if ((u64)i < first) first = (u64)i;
        }
        hash += mix64((u64)i << 16 | bits);
    }
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        worst = fmaxf(worst, __shfl_xor_sync(~0u, worst, d));
        wrong += __shfl_xor_sync(~0u, wrong, d);
        first = min(first, __shfl_xor_sync(~0u, first, d));
        hash += __shfl_xor_sync(~0u, hash, d);
    }
    if (threadIdx.x % 32 == 0) {
        atomicMax(&result->error_bits, (u64)__float_as_uint(worst));
        if (wrong) atomicAdd(&result->wrong, wrong);
        if (wrong) atomicMin(&result->first_wrong, first);
        atomicAdd(&result->hash, hash);
    }
}

/* ---- gather, copy, read ---- */

/* gathered[i, K] = column columns[i] of w [N, K] or (kn) [K, N]; one block a column. */
KERNEL(256, 4) moet_gather(const u16 *w, const int *columns, int N, int K, int kn, u16 *gathered)
{
    i64 column = columns[blockIdx.x];
    for (i64 k = threadIdx.x; k < K; k += blockDim.x)
        gathered[blockIdx.x * (i64)K + k] = kn ? w[k * N + column] : w[column * K + k];
}

/* Four loads in flight a thread. */
KERNEL(512, 1) moet_copy(uint4 *to, const uint4 *from, i64 count)
{
    i64 total = thread_total(), i = thread_index();
    for (; i + 3 * total < count; i += 4 * total) {
        uint4 a = __ldcs(from + i), b = __ldcs(from + i + total);
        uint4 c = __ldcs(from + i + 2 * total), d = __ldcs(from + i + 3 * total);
        __stcs(to + i, a), __stcs(to + i + total, b);
        __stcs(to + i + 2 * total, c), __stcs(to + i + 3 * total, d);
    }
    for (; i < count; i += total) to[i] = from[i];
}

/* sink[blocks]: something that depends on every word read. */
KERNEL(512, 1) moet_read(u32 *sink, const uint4 *from, i64 count)
{
    i64 total = thread_total(), i = thread_index();
    u32 sum = 0;
    for (; i + 3 * total < count; i += 4 * total) {
        uint4 a = __ldcs(from + i), b = __ldcs(from + i + total);
        uint4 c = __ldcs(from + i + 2 * total), d = __ldcs(from + i + 3 * total);
        sum += (a.x + a.y + a.z + a.w) + (b.x + b.y + b.z + b.w);
        sum += (c.x + c.y + c.z + c.w) + (d.x + d.y + d.z + d.w);
    }
    for (; i < count; i += total) sum += from[i].x + from[i].y + from[i].z + from[i].w;
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    __shared__ u32 warp_sum[16];
    if (threadIdx.x % 32 == 0) warp_sum[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < 16; i++) sum += warp_sum[i];
        sink[blockIdx.x] = sum;
    }
}

KERNEL(1, 1) moet_spin(i64 cycles)
{
    const i64 begin = clock64();
    while (clock64() - begin < cycles) {
    }
}
