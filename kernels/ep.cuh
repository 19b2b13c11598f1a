/* ep.cuh: what the kernels of ep.cu begin with: the pass, numbers, other ranks' words and waits for them, a token's
 * choices. */

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
    const void *own_rows;
    const int *own_places;
    int own_split;
    int pieces, piece_tokens, spreads, awaits_ready;
    void *const *peer_tails;
    u32 *tell;
    u32 *const *peer_given;
    u32 *given_units;
    int given_pieces;
    u32 *epochs;
    const volatile int *lost;
    int *failure;
    i64 timeout_ns;
    int tokens, max_tokens;
    int rank, ranks, choices, local_experts, hidden, width, row_bytes, tail_bytes;
    int ids_int64, returns_rows, is_lsa, is_bound, is_weighted, single_plain, is_given, frozen_number;
};

/* Words of `epochs`. */
enum { WORDS, ARRIVED, READY, DISPATCHED_BLOCKS, COMBINED_BLOCKS, HAS_FAILED, BEGUN_BLOCKS, GIVE_UNITS, COMBINE_UNITS };
#define GIVEN_SLOTS 128 /* as in ep_stages.h */

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

/* For words that say all there is to say: nothing else is read because of them. Rows are stored to this rank because of
 * its word, where it has read those of the run before: its kernels that did are over when the one that stores the word
 * begins (launches_chain). */
static __device__ __forceinline__ u64 load_relaxed(const u64 *from)
{
    u64 value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
}

static __device__ __forceinline__ void store_relaxed(u64 *to, u64 value)
{
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
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

/* Not every run stores such a word: one that none has stored for long is far behind, whichever way the difference wraps.
 * A rank may be ahead of this one by runs in which it needs nothing of it. */
#define MOST_LEAD (1u << 16)
static __device__ __forceinline__ void wait_for_given(const moet_ep_pass &p, const u32 *word, u32 epoch, int rank)
{
    const i64 begin_ns = now_ns();
    u32 spins = 0;
    while (load_acquire(word) - epoch >= MOST_LEAD) {
        if (!wait_on(p, begin_ns, &spins, rank)) break;
    }
}

/* All threads. */
static __device__ __forceinline__ void tell_all(const moet_ep_pass &p, u32 *const *flags, u32 epoch)
{
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x) store_release(&flags[q][p.rank], epoch);
    __syncthreads(); /* all are told before any thread waits */
}

/* Whether this is the last of `count` times that a block gets here, and begins anew then; what the blocks wrote before
 * is then seen by it, and by those that it tells. All threads. */
static __device__ __forceinline__ bool is_last_of(u32 *counter, u32 count)
{
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) { /* its fences hold for what the block's barrier let it see */
        __threadfence_system();
        is_last = atomicAdd(counter, 1u) == count - 1;
        if (is_last) *counter = 0;
        __threadfence_system();
    }
    __syncthreads();
    return is_last;
}

static __device__ __forceinline__ bool is_last_block(u32 *counter) { return is_last_of(counter, gridDim.x); }

/* The next number of the counter, for the block. All threads. */
static __device__ __forceinline__ u32 take(u32 *counter)
{
    __shared__ u32 taken;
    __syncthreads(); /* the one before is no longer looked at */
    if (threadIdx.x == 0) taken = atomicAdd(counter, 1u);
    __syncthreads();
    return taken;
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
