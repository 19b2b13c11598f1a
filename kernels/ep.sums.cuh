/* ep.sums.cuh: sums of rows, for give and combine of ep.cu. */

/* Lane `from`'s pointer. */
static __device__ __forceinline__ char *pointer_of(char *pointer, int from)
{
    return (char *)__shfl_sync(ALL_LANES, (u64)pointer, from);
}

#define ROWS_AT_ONCE 4
#define SUM_VECTORS 2 /* of a lane at a time */

/* Perhaps another GPU's memory, which was written while this kernel ran: not by the read-only path. */
static __device__ __forceinline__ uint4 row_load(const uint4 *from)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
    return v;
}

/* What a lane has of a sum: vectors begin, begin + 32, ... */
typedef float part_sum[SUM_VECTORS][8];

/* Adds `count` rows to zero, lane i having the i-th and its weight (1: an addition). Whole warps. */
static __device__ __forceinline__ void rows_add(char *row, float weight, int count, int begin, int end, part_sum &sum)
{
#pragma unroll
    for (int i = 0; i < SUM_VECTORS; i++) {
#pragma unroll
        for (int h = 0; h < 8; h++) sum[i][h] = 0;
    }
    for (int r = 0; r < count; r += ROWS_AT_ONCE) {
        uint4 v[ROWS_AT_ONCE][SUM_VECTORS];
#pragma unroll
        for (int j = 0; j < ROWS_AT_ONCE; j++) {
            if (r + j >= count) break;
            const uint4 *from = (const uint4 *)pointer_of(row, r + j);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) {
                if (begin + 32 * i < end) v[j][i] = row_load(from + begin + 32 * i);
            }
        }
#pragma unroll
        for (int j = 0; j < ROWS_AT_ONCE; j++) {
            if (r + j >= count) break;
            const float by = __shfl_sync(ALL_LANES, weight, r + j);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) {
                float value[8];
                widen8(v[j][i], value);
#pragma unroll
                for (int h = 0; h < 8; h++) sum[i][h] = fmaf(value[h], by, sum[i][h]);
            }
        }
    }
}

/* Part of out: the sum of `count` rows, or a copy. Whole warps. */
static __device__ __forceinline__ void rows_sum(char *row, float weight, int count, bool is_copied, uint4 *out,
                                                int part_begin, int end, int lane)
{
    for (int begin = part_begin + lane; begin - lane < end; begin += 32 * SUM_VECTORS) {
        if (is_copied) {
            const uint4 *from = (const uint4 *)pointer_of(row, 0);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) {
                if (begin + 32 * i < end) out[begin + 32 * i] = row_load(from + begin + 32 * i);
            }
            continue;
        }
        part_sum sum;
        rows_add(row, weight, count, begin, end, sum);
#pragma unroll
        for (int i = 0; i < SUM_VECTORS; i++) {
            if (begin + 32 * i < end) out[begin + 32 * i] = narrow8(sum[i]);
        }
    }
}

/* A list of rows, in lanes. */
struct row_list {
    char *row;
    float weight;
    int count;
};

/* Part of out: the sum of what ranks have for a token: that of this rank's own rows, made here and rounded, comes before
 * others' row own_at; these are read after wait(). Whole warps. */
template <typename wait_t>
static __device__ __forceinline__ void ranks_sum(const row_list &own, bool own_is_copied, const row_list &others,
                                                 int own_at, uint4 *out, int part_begin, int end, int lane,
                                                 wait_t wait)
{
    const int count = others.count + (own.count > 0);
    for (int begin = part_begin + lane; begin - lane < end; begin += 32 * SUM_VECTORS) {
        part_sum sum;
        uint4 own_sum[SUM_VECTORS], last[SUM_VECTORS];
        if (own_is_copied) {
            const uint4 *from = (const uint4 *)pointer_of(own.row, 0);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) {
                if (begin + 32 * i < end) own_sum[i] = row_load(from + begin + 32 * i);
            }
        } else {
            rows_add(own.row, own.weight, own.count, begin, end, sum);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) own_sum[i] = narrow8(sum[i]);
        }
        wait();
#pragma unroll
        for (int i = 0; i < SUM_VECTORS; i++) {
#pragma unroll
            for (int h = 0; h < 8; h++) sum[i][h] = 0;
        }
#pragma unroll 1
        for (int r = 0; r < count; r++) {
            const bool is_own = own.count > 0 && r == own_at;
            const int other = r - (own.count > 0 && r > own_at);
            const uint4 *from = (const uint4 *)pointer_of(others.row, other);
#pragma unroll
            for (int i = 0; i < SUM_VECTORS; i++) {
                if (begin + 32 * i >= end) continue;
                last[i] = is_own ? own_sum[i] : row_load(from + begin + 32 * i);
                float value[8];
                widen8(last[i], value);
#pragma unroll
                for (int h = 0; h < 8; h++) sum[i][h] += value[h];
            }
        }
#pragma unroll
        for (int i = 0; i < SUM_VECTORS; i++) {
            if (begin + 32 * i < end) out[begin + 32 * i] = count == 1 ? last[i] : narrow8(sum[i]);
        }
    }
}
