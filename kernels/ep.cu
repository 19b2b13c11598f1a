/* ep.cu: the passes of the expert-parallel layer (docs/ep.md) for compute capability 8.0 and later. Compiled by NVRTC (or
 * nvcc -cubin): includes nothing. Launch shapes are in ep_cuda.c; ep_host.c is this in plain C.
 *
 * Pointers of `peer` arrays, of `to` and of `from` may be another GPU's memory. A word that another rank waits for is
 * stored with release, and read with acquire, at system scope. Every wait looks at the clock. */

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define ALL_LANES 0xffffffffu
#define FAILED_WAIT (1 << 16) /* as in ep_stages.h */
#define FAILED_ROUTING (2 << 16)

/* moet_ep_pass of ep_stages.h. */
struct moet_ep_pass {
    const void *x, *ids;
    const float *weights;
    void *out;
    i64 x_stride, ids_stride, weights_stride, out_stride;
    int *slot, *pair, *send_counts, *recv_counts, *frozen, *first, *pair_first, *recv_first, *recv_pair_first;
    int *recv_tokens;
    void *const *to;
    const void *const *from;
    const int *const *places;
    u64 *const *peer_words;
    u32 *const *peer_arrived, *const *peer_ready;
    void *const *peer_back;
    u32 *epochs;
    const volatile int *lost;
    int *failure;
    i64 timeout_ns;
    int tokens, max_tokens;
    int rank, ranks, choices, local_experts, hidden, width, row_bytes;
    int ids_int64, returns_rows, is_lsa, is_bound, is_weighted, single_plain, is_given;
};

/* Words of `epochs`. */
enum { WORDS, ARRIVED, READY, DISPATCHED_BLOCKS, COMBINED_BLOCKS, HAS_FAILED };

/* ---- numbers, as in stages.cu ---- */

static __device__ __forceinline__ float bf16_to_float(u32 bits) { return __uint_as_float(bits << 16); }

static __device__ __forceinline__ u32 floats_to_bf16(float low, float high)
{
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ void widen8(uint4 v, float *to)
{
    to[0] = bf16_to_float(v.x & 0xffff), to[1] = bf16_to_float(v.x >> 16);
    to[2] = bf16_to_float(v.y & 0xffff), to[3] = bf16_to_float(v.y >> 16);
    to[4] = bf16_to_float(v.z & 0xffff), to[5] = bf16_to_float(v.z >> 16);
    to[6] = bf16_to_float(v.w & 0xffff), to[7] = bf16_to_float(v.w >> 16);
}

static __device__ __forceinline__ uint4 narrow8(const float *from)
{
    return make_uint4(floats_to_bf16(from[0], from[1]), floats_to_bf16(from[2], from[3]),
                      floats_to_bf16(from[4], from[5]), floats_to_bf16(from[6], from[7]));
}

/* As in stages.cu: a launch may begin early, and then waits for the one before it. */
static __device__ __forceinline__ void launches_chain(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- other ranks' words ---- */

static __device__ __forceinline__ void store_release(u32 *to, u32 value)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

static __device__ __forceinline__ u32 load_acquire(const u32 *from)
{
    u32 value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

static __device__ __forceinline__ u64 load_acquire(const u64 *from)
{
    u64 value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
}

static __device__ __forceinline__ void store_release(u64 *to, u64 value)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

static __device__ __forceinline__ i64 now_ns(void)
{
    i64 ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
}

/* Other memory that the host or another rank writes is not cached between two reads. */
static __device__ __forceinline__ bool has_failed(const moet_ep_pass &p)
{
    return *(const volatile u32 *)&p.epochs[HAS_FAILED] != 0;
}

static __device__ __forceinline__ void fail(const moet_ep_pass &p, int what, int rank)
{
    if (atomicExch(&p.epochs[HAS_FAILED], 1u) == 0) *(volatile int *)p.failure = what | rank;
}

/* One step of a wait that began at begin_ns; false: it is over. The host's word is far away: now and then only. */
static __device__ __forceinline__ bool wait_on(const moet_ep_pass &p, i64 begin_ns, u32 *spins, int rank)
{
    if (++*spins % 256 != 0) return true;
    if (has_failed(p)) return false;
    const i64 waited_ns = now_ns() - begin_ns;
    if (waited_ns < p.timeout_ns && (*spins % 4096 != 0 || *p.lost == 0)) return true;
    fail(p, FAILED_WAIT, rank);
    return false;
}

/* Thread s of the block waits for rank s. All threads; ends with a barrier. */
static __device__ __forceinline__ void wait_for_all(const moet_ep_pass &p, const u32 *flags, u32 epoch)
{
    const i64 begin_ns = now_ns();
    for (int s = threadIdx.x; s < p.ranks; s += blockDim.x) {
        u32 spins = 0;
        while ((int)(load_acquire(&flags[s]) - epoch) < 0) {
            if (!wait_on(p, begin_ns, &spins, s)) break;
        }
    }
    __syncthreads();
}

/* All threads. */
static __device__ __forceinline__ void tell_all(const moet_ep_pass &p, u32 *const *flags, u32 epoch)
{
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x) store_release(&flags[q][p.rank], epoch);
    __syncthreads(); /* all are told before any thread waits */
}

/* Whether this block is the last of the grid to get here; what all blocks wrote before is then seen by it, and by those
 * that it tells. All threads. */
static __device__ __forceinline__ bool is_last_block(u32 *counter)
{
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) { /* its fences hold for what the block's barrier let it see */
        __threadfence_system();
        is_last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (is_last) *counter = 0;
        __threadfence_system();
    }
    __syncthreads();
    return is_last;
}

/* ---- choices ---- */

static __device__ __forceinline__ int expert_load(const moet_ep_pass &p, int token, int choice)
{
    const i64 at = token * p.ids_stride + choice;
    const i64 id = p.ids_int64 ? ((const i64 *)p.ids)[at] : ((const int *)p.ids)[at];
    return id >= 0 && id < (i64)p.local_experts * p.ranks ? (int)id : -1;
}

/* A lane's choice of a token: its expert (-1 none), the rank that has it, the place of it among the token's (ascending),
 * and among those of its rank. */
struct choice {
    int expert, rank, place, nth;
    float weight;
};

/* Lanes from k on have none. Whole warps. */
static __device__ __forceinline__ choice choice_load(const moet_ep_pass &p, int token, int lane)
{
    choice c = {-1, -1, 0, 0, 1.0f};
    if (lane < p.choices) {
        c.expert = expert_load(p, token, lane);
        if (p.weights) c.weight = p.weights[token * p.weights_stride + lane];
    }
    bool is_repeated = false;
    for (int j = 0; j < p.choices; j++) {
        const int other = __shfl_sync(ALL_LANES, c.expert, j);
        is_repeated |= j < lane && other == c.expert;
    }
    if (is_repeated) c.expert = -1;
    if (c.expert >= 0) c.rank = c.expert / p.local_experts;
    for (int j = 0; j < p.choices; j++) {
        const int other = __shfl_sync(ALL_LANES, c.expert, j), rank = __shfl_sync(ALL_LANES, c.rank, j);
        if (other < 0 || other >= c.expert) continue;
        c.place++;
        c.nth += rank == c.rank;
    }
    return c;
}

/* ---- plan ---- */

#define PLAN_THREADS 1024
#define PLAN_TOKENS 4 /* of a thread at a time */
#define PLAN_CHOICES 16

/* Rows (bits 0 to 13) and pairs (14 and up) of the threads before this one, and of all in *sum. sums [32]. */
static __device__ __forceinline__ u32 scan_before(u32 value, u32 *sums, u32 *sum)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32 upto = value;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        const u32 other = __shfl_up_sync(ALL_LANES, upto, d);
        if (lane >= d) upto += other;
    }
    if (lane == 31) sums[warp] = upto;
    __syncthreads();
    u32 before = sums[lane];
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        const u32 other = __shfl_up_sync(ALL_LANES, before, d);
        if (lane >= d) before += other;
    }
    *sum = __shfl_sync(ALL_LANES, before, 31);
    before = __shfl_sync(ALL_LANES, before, warp > 0 ? warp - 1 : 0);
    __syncthreads(); /* sums may be written again */
    return (warp > 0 ? before : 0) + upto - value;
}

/* A block finds what goes to one rank at a time. */
KERNEL(PLAN_THREADS, 1) moet_ep_plan(const moet_ep_pass p)
{
    __shared__ u32 sums[32];
    launches_chain();
    for (int q = blockIdx.x; q < p.ranks; q += gridDim.x) {
        const int low = q * p.local_experts, high = low + p.local_experts;
        int *slots = p.slot + (i64)q * p.max_tokens, *pairs = p.pair ? p.pair + (i64)q * p.max_tokens : nullptr;
        int rows = 0, all_pairs = 0;
        const int own_tokens = min(PLAN_TOKENS, (p.tokens + PLAN_THREADS - 1) / PLAN_THREADS);
        for (int begin = 0; begin < p.tokens; begin += PLAN_THREADS * own_tokens) {
            const int token = begin + threadIdx.x * own_tokens, end = min(p.tokens, token + own_tokens);
            u32 counts[PLAN_TOKENS], own = 0, sum;
#pragma unroll
            for (int i = 0; i < PLAN_TOKENS; i++) {
                int experts[PLAN_CHOICES];
                counts[i] = 0;
                if (token + i >= end) continue;
#pragma unroll
                for (int c = 0; c < PLAN_CHOICES; c++) {
                    const int e = c < p.choices ? expert_load(p, token + i, c) : -1;
                    experts[c] = e >= low && e < high ? e : -1;
                }
                bool is_hit = false;
                int distinct = 0;
#pragma unroll
                for (int c = 0; c < PLAN_CHOICES; c++) is_hit |= experts[c] >= 0;
                if (pairs) {
#pragma unroll
                    for (int c = 0; c < PLAN_CHOICES; c++) {
                        bool is_new = experts[c] >= 0;
#pragma unroll
                        for (int j = 0; j < c; j++) is_new &= experts[j] != experts[c];
                        distinct += is_new;
                    }
                }
                counts[i] = (u32)is_hit | (u32)distinct << 14;
                own += counts[i];
            }
            u32 before = scan_before(own, sums, &sum);
#pragma unroll
            for (int i = 0; i < PLAN_TOKENS; i++) {
                if (token + i >= end) continue;
                slots[token + i] = counts[i] & 1 ? rows + (int)(before & 0x3fff) : -1;
                if (pairs) pairs[token + i] = all_pairs + (int)(before >> 14);
                before += counts[i];
            }
            rows += (int)(sum & 0x3fff);
            all_pairs += (int)(sum >> 14);
        }
        if (threadIdx.x == 0) {
            p.send_counts[2 * q] = rows;
            p.send_counts[2 * q + 1] = all_pairs;
            if (p.frozen && (p.frozen[2 * q] != rows || p.frozen[2 * q + 1] != all_pairs))
                fail(p, FAILED_ROUTING, p.rank);
        }
        if (!p.is_lsa) continue;
        const u64 word = (u64)(p.epochs[WORDS] + 1) << 32 | (u32)rows;
        for (int s = threadIdx.x; s < p.ranks; s += PLAN_THREADS)
            store_release(&p.peer_words[s][p.rank * p.ranks + q], word);
    }
}

/* ---- bases ---- */

#define BASES_THREADS 256
#define MAX_RANKS 1024

/* Where received rows and pairs begin, from recv_counts; one thread. */
static __device__ __forceinline__ void bases_received(const moet_ep_pass &p)
{
    int received = 0, pairs = 0;
    for (int s = 0; s < p.ranks; s++) {
        p.recv_first[s] = p.is_bound ? s * p.max_tokens : received;
        received += p.recv_counts[2 * s];
        if (s == p.rank || p.is_lsa) continue;
        p.recv_pair_first[s] = pairs;
        pairs += p.recv_counts[2 * s + 1];
    }
    *p.recv_tokens = p.is_bound ? p.ranks * p.max_tokens : received;
}

/* Waits for all ranks' counts; first [ranks] shared. Every block does, and block 0 writes them down. All threads. */
static __device__ __forceinline__ void bases_wait(const moet_ep_pass &p, int *first)
{
    const u32 epoch = p.epochs[WORDS] + 1;
    const u64 *words = p.peer_words[p.rank];
    const i64 begin_ns = now_ns();
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x) {
        int sum = 0;
        for (int s = 0; s < p.ranks; s++) {
            u32 spins = 0;
            u64 word;
            while ((u32)((word = load_acquire(&words[s * p.ranks + q])) >> 32) != epoch) {
                if (wait_on(p, begin_ns, &spins, s)) continue;
                word = 0;
                break;
            }
            if (s < p.rank) sum += (int)(u32)word;
            if (blockIdx.x == 0 && q == p.rank) p.recv_counts[2 * s] = (int)(u32)word;
        }
        first[q] = sum;
        if (blockIdx.x == 0) p.first[q] = sum;
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == 0) bases_received(p);
}

/* One thread. Without lsa: dispatch does it there. */
KERNEL(BASES_THREADS, 1) moet_ep_bases(const moet_ep_pass p)
{
    launches_chain();
    if (threadIdx.x != 0) return;
    bases_received(p);
    int sent = 0, pairs = 0;
    for (int q = 0; q < p.ranks; q++) { /* as they lie in the buffers of this rank */
        if (q == p.rank) {
            p.first[q] = p.recv_first[q];
            continue;
        }
        p.first[q] = p.is_bound ? q * p.max_tokens : sent;
        p.pair_first[q] = pairs;
        sent += p.send_counts[2 * q];
        pairs += p.send_counts[2 * q + 1];
    }
}

/* ---- rows: a warp takes a part of a token's row, 16 bytes a lane at a time ---- */

#define ROW_THREADS 256
#define ROW_WARPS (ROW_THREADS / 32)
#define COPY_VECTORS 8 /* of a lane in flight */

/* Lane `from`'s pointer. */
static __device__ __forceinline__ char *pointer_of(char *pointer, int from)
{
    return (char *)__shfl_sync(ALL_LANES, (u64)pointer, from);
}

/* The ids and weights behind a row at `row` for `rank`, by lanes 0 to k - 1, and `pair`. */
static __device__ __forceinline__ void tail_write(const moet_ep_pass &p, const choice &c, char *row, int rank, int pair,
                                                  int lane)
{
    int *ids = (int *)(row + 2 * (i64)p.hidden);
    float *weights = (float *)(ids + p.choices);
    const bool is_mine = c.expert >= 0 && c.rank == rank;
    const int count = __popc(__ballot_sync(ALL_LANES, is_mine));
    if (is_mine) {
        ids[c.nth] = c.expert - rank * p.local_experts;
        weights[c.nth] = c.weight;
    }
    if (lane >= count && lane < p.choices) {
        ids[lane] = -1;
        weights[lane] = 0;
    }
    if (lane == 0) ((int *)weights)[p.choices] = pair;
}

/* split: parts of a row. */
KERNEL(ROW_THREADS, 3) moet_ep_dispatch(const moet_ep_pass p, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    __shared__ int shared_first[MAX_RANKS];
    launches_chain();
    const int *first = p.is_lsa ? shared_first : p.first;
    if (p.is_lsa) bases_wait(p, shared_first);
    const bool is_off = __syncthreads_or(has_failed(p)); /* where rows go is not known then */
    const i64 items = is_off ? 0 : (i64)p.tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int token = (int)(item / split), part = (int)(item - (i64)token * split);
        const choice c = choice_load(p, token, lane);
        const bool is_first = c.expert >= 0 && c.nth == 0;
        const u32 targets = __ballot_sync(ALL_LANES, is_first); /* a lane for each rank that gets the row */
        char *row = nullptr;
        int pair = 0;
        if (is_first) {
            const i64 at = (i64)c.rank * p.max_tokens + token;
            row = (char *)p.to[c.rank] + (i64)(first[c.rank] + p.slot[at]) * p.row_bytes;
            if (p.pair) pair = p.pair[at];
        }
        if (targets == 0) continue;
        const uint4 *from = (const uint4 *)((const u16 *)p.x + token * p.x_stride);
        const int end = min(vectors, (part + 1) * part_vectors);
        for (int begin = part * part_vectors + lane; begin - lane < end; begin += 32 * COPY_VECTORS) {
            uint4 v[COPY_VECTORS];
#pragma unroll
            for (int i = 0; i < COPY_VECTORS; i++) {
                if (begin + 32 * i < end) v[i] = from[begin + 32 * i];
            }
            for (u32 left = targets; left; left &= left - 1) {
                uint4 *to = (uint4 *)pointer_of(row, __ffs(left) - 1);
#pragma unroll
                for (int i = 0; i < COPY_VECTORS; i++) {
                    if (begin + 32 * i < end) to[begin + 32 * i] = v[i];
                }
            }
        }
        for (u32 left = part == 0 ? targets : 0; left; left &= left - 1) {
            const int at = __ffs(left) - 1;
            tail_write(p, c, pointer_of(row, at), __shfl_sync(ALL_LANES, c.rank, at), __shfl_sync(ALL_LANES, pair, at),
                       lane);
        }
    }
    if (p.is_bound && !is_off) { /* slots that nobody has */
        const choice none = {-1, -1, 0, 0, 0};
        for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < (i64)p.ranks * p.max_tokens;
             item += gridDim.x * ROW_WARPS) {
            const int q = (int)(item / p.max_tokens), i = (int)(item - (i64)q * p.max_tokens);
            if (i < p.send_counts[2 * q]) continue;
            tail_write(p, none, (char *)p.to[q] + (i64)(first[q] + i) * p.row_bytes, q, 0, lane);
        }
    }
    if (!p.is_lsa || !is_last_block(&p.epochs[DISPATCHED_BLOCKS])) return;
    const u32 epoch = p.epochs[ARRIVED] + 1;
    const bool has_any_failed = __syncthreads_or(has_failed(p));
    if (threadIdx.x == 0) { /* all blocks have read them */
        p.epochs[ARRIVED] = epoch;
        p.epochs[WORDS]++;
    }
    if (has_any_failed) return;
    tell_all(p, p.peer_arrived, epoch);
    wait_for_all(p, p.peer_arrived[p.rank], epoch);
}

/* ---- sums of rows, for give and combine ---- */

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

/* Part of out: the sum of `count` rows, lane i having the i-th and its weight (1: an addition), or a copy. Whole warps. */
static __device__ __forceinline__ void rows_sum(char *row, float weight, int count, bool is_copied, uint4 *out,
                                                int part_begin, int end, int lane)
{
    for (int begin = part_begin + lane; begin - lane < end; begin += 32 * SUM_VECTORS) {
        float sum[SUM_VECTORS][8] = {};
        uint4 v[ROWS_AT_ONCE][SUM_VECTORS];
        for (int r = 0; r < count; r += ROWS_AT_ONCE) {
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
#pragma unroll
        for (int i = 0; i < SUM_VECTORS; i++) {
            if (begin + 32 * i < end) out[begin + 32 * i] = is_copied ? v[0][i] : narrow8(sum[i]);
        }
    }
}

/* The rank that a received row came from: whose rows there are at r. Whole warps. */
static __device__ __forceinline__ int source_of(const moet_ep_pass &p, int r, int lane)
{
    int source = -1;
    for (int s = lane; s < p.ranks; s += 32) {
        if (p.recv_first[s] <= r && r < p.recv_first[s] + p.recv_counts[2 * s]) source = s;
    }
    return (int)__reduce_max_sync(ALL_LANES, (u32)(source + 1)) - 1;
}

/* ---- pack: other ranks' pairs in their order ---- */

KERNEL(ROW_THREADS, 4)
moet_ep_pack(const moet_ep_pass p, const char *received, const uint4 *rows, const int *places, uint4 *packed)
{
    launches_chain();
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8, count = *p.recv_tokens;
    for (int r = blockIdx.x * ROW_WARPS + threadIdx.x / 32; r < count; r += gridDim.x * ROW_WARPS) {
        const int source = source_of(p, r, lane);
        if (source == p.rank || source < 0) continue;
        const int pair = *(const int *)(received + (i64)r * p.row_bytes + 2 * (i64)p.hidden + 8 * p.choices);
        const int mine = lane < p.width ? places[(i64)r * p.width + lane] : -1;
        const int pairs = __popc(__ballot_sync(ALL_LANES, mine >= 0));
        for (int i = 0; i < pairs; i++) {
            const uint4 *from = rows + (i64)__shfl_sync(ALL_LANES, mine, i) * vectors;
            uint4 *to = packed + (i64)(p.recv_pair_first[source] + pair + i) * vectors;
            for (int begin = lane; begin - lane < vectors; begin += 32 * 4) {
                uint4 v[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (begin + 32 * j < vectors) v[j] = from[begin + 32 * j];
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (begin + 32 * j < vectors) to[begin + 32 * j] = v[j];
                }
            }
        }
    }
}

/* ---- give ---- */

KERNEL(ROW_THREADS, 3)
moet_ep_give(const moet_ep_pass p, const char *received, const char *rows, const int *places, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    launches_chain();
    const i64 items = has_failed(p) ? 0 : (i64)*p.recv_tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int r = (int)(item / split), part = (int)(item - (i64)r * split);
        const int source = source_of(p, r, lane);
        if (source < 0) continue;
        const int mine = lane < p.width ? places[(i64)r * p.width + lane] : -1;
        const int count = __popc(__ballot_sync(ALL_LANES, mine >= 0));
        const bool is_weighted = p.is_weighted && !(p.single_plain && count == 1);
        float weight = 1.0f; /* they stand in the order of places */
        if (is_weighted && mine >= 0)
            weight = ((const float *)(received + (i64)r * p.row_bytes + 2 * (i64)p.hidden + 4 * p.choices))[lane];
        char *row = mine >= 0 ? (char *)rows + (i64)mine * p.hidden * 2 : nullptr;
        const i64 slot = (i64)p.rank * p.max_tokens + (r - p.recv_first[source]);
        rows_sum(row, weight, count, count == 1 && !is_weighted,
                 (uint4 *)p.peer_back[source] + slot * vectors, part * part_vectors,
                 min(vectors, (part + 1) * part_vectors), lane);
    }
    if (!is_last_block(&p.epochs[COMBINED_BLOCKS])) return;
    const u32 epoch = p.epochs[READY] + 1;
    const bool has_any_failed = __syncthreads_or(has_failed(p));
    if (threadIdx.x == 0) p.epochs[READY] = epoch;
    if (has_any_failed) return;
    tell_all(p, p.peer_ready, epoch);
    wait_for_all(p, p.peer_ready[p.rank], epoch);
}

/* ---- combine ---- */

/* Where the row of the lane's choice came back; null: it has none. */
static __device__ __forceinline__ char *returned(const moet_ep_pass &p, const choice &c, int token)
{
    if (c.expert < 0 || (!p.returns_rows && c.nth > 0)) return nullptr;
    const i64 at = (i64)c.rank * p.max_tokens + token;
    const i64 slot = (p.is_given ? 0 : p.first[c.rank]) + p.slot[at];
    i64 row = slot;
    if (p.returns_rows) {
        const int *places = p.places[c.rank];
        row = places ? ((const volatile int *)places)[slot * p.width + c.nth] : p.pair_first[c.rank] + p.pair[at] + c.nth;
    }
    return (char *)p.from[c.rank] + row * p.hidden * 2;
}

KERNEL(ROW_THREADS, 3) moet_ep_combine(const moet_ep_pass p, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    launches_chain();
    const bool is_waiting = p.is_lsa && !p.is_given, is_weighted = p.is_weighted && p.returns_rows;
    u32 epoch = 0;
    if (is_waiting) {
        epoch = p.epochs[READY] + 1;
        if (!__syncthreads_or(has_failed(p))) {
            if (blockIdx.x == 0) tell_all(p, p.peer_ready, epoch);
            wait_for_all(p, p.peer_ready[p.rank], epoch);
        }
    }
    /* After a failure what would be read is not there. */
    const i64 items = __syncthreads_or(has_failed(p)) ? 0 : (i64)p.tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int token = (int)(item / split), part = (int)(item - (i64)token * split);
        const choice c = choice_load(p, token, lane);
        char *const unordered = returned(p, c, token);
        char *row = nullptr; /* lane i has the i-th, by ascending expert, or rank */
        float weight = 1.0f;
        int count = 0;
        for (int i = 0; i < p.choices; i++) {
            const u32 found = __ballot_sync(ALL_LANES, unordered && c.place == i);
            if (!found) continue;
            char *const pointer = pointer_of(unordered, __ffs(found) - 1);
            const float by = __shfl_sync(ALL_LANES, c.weight, __ffs(found) - 1);
            if (lane == count) row = pointer, weight = is_weighted ? by : 1.0f;
            count++;
        }
        /* A sum would turn -0 into +0. */
        rows_sum(row, weight, count, count == 1 && !is_weighted,
                 (uint4 *)((u16 *)p.out + token * p.out_stride), part * part_vectors,
                 min(vectors, (part + 1) * part_vectors), lane);
    }
    if (!is_waiting || !is_last_block(&p.epochs[COMBINED_BLOCKS])) return;
    if (threadIdx.x == 0) p.epochs[READY] = epoch;
}
