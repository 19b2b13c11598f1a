/* ep.cu: the passes of the expert-parallel layer (docs/ep.md) for compute capability 8.0 and later. Compiled by NVRTC (or
 * nvcc -cubin of all parts): includes nothing; ep.cuh and ep.*.cuh are put in front. Launch shapes are in ep_cuda.c;
 * ep_host.c is this in plain C.
 *
 * Pointers of `peer` arrays, of `to` and of `from` may be another GPU's memory. A word that another rank waits for is
 * stored with release, and read with acquire, at system scope; counts are their own words and need neither (ep.cuh).
 * Every wait looks at the clock. */

/* ---- plan ---- */

#define PLAN_THREADS 1024
#define PLAN_WARPS (PLAN_THREADS / 32)
#define MOST_LOADS 16 /* of a lane for 32 tokens: choices, padded to a power of two */

/* Whether lane t's token, `begin` + t, has experts of a rank, and how many of them. Lanes load neighbouring choices,
 * which lie in few lines: 2^choices_log lanes a token, so that 32 tokens are as many loads of a lane. Whole warps. */
static __device__ __forceinline__ bool token_load(const moet_ep_pass &p, int begin, int low, int choices_log,
                                                  int *distinct)
{
    const int lane = threadIdx.x & 31, loads = 1 << choices_log, tokens_log = 5 - choices_log; /* tokens of a load */
    const int choice = lane & (loads - 1), first = lane - choice; /* of the lanes that share the token */
    int experts[MOST_LOADS];
#pragma unroll
    for (int i = 0; i < MOST_LOADS; i++) { /* all in flight at once */
        const int token = begin + (i << tokens_log) + (lane >> choices_log);
        const bool is_choice = i < loads && token < p.tokens && choice < p.choices;
        experts[i] = is_choice ? expert_load(p, token, choice) - low : -1;
    }
    u32 hits = 0, news = 0;
#pragma unroll
    for (int i = 0; i < MOST_LOADS; i++) {
        if (i >= loads) break;
        const bool is_hit = experts[i] >= 0 && experts[i] < p.local_experts;
        bool is_new = is_hit;
        for (int j = 0; p.pair && j < loads; j++) { /* the first of a repeated one counts */
            const int other = __shfl_sync(ALL_LANES, experts[i], first + j);
            is_new &= j >= choice || other != experts[i];
        }
        const u32 all_hits = __ballot_sync(ALL_LANES, is_hit), all_news = __ballot_sync(ALL_LANES, is_new);
        if (lane >> tokens_log == i) hits = all_hits, news = all_news;
    }
    const int own = (lane & ((1 << tokens_log) - 1)) << choices_log; /* first of the lanes that loaded lane's token */
    const u32 members = ((1u << loads) - 1) << own;
    *distinct = __popc(news & members);
    return hits & members;
}

/* A block finds what goes to one rank at a time. Each warp counts tokens that follow each other, then all add what the
 * warps before have. */
KERNEL(PLAN_THREADS, 1) moet_ep_plan(const moet_ep_pass p)
{
    __shared__ int warp_rows[PLAN_WARPS], warp_pairs[PLAN_WARPS];
    launches_chain();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int choices_log = p.choices > 1 ? 32 - __clz(p.choices - 1) : 0;
    const int groups = (p.tokens + 31) / 32, own_groups = (groups + PLAN_WARPS - 1) / PLAN_WARPS;
    const int first = min(p.tokens, warp * own_groups * 32), end = min(p.tokens, first + own_groups * 32);
    for (int q = blockIdx.x; q < p.ranks; q += gridDim.x) {
        int *slots = p.slot + (i64)q * p.max_tokens, *pairs = p.pair ? p.pair + (i64)q * p.max_tokens : nullptr;
        int rows = 0, all_pairs = 0;
        for (int begin = first; begin < end; begin += 32) {
            int distinct, upto;
            const int token = begin + lane;
            const bool is_hit = token_load(p, begin, q * p.local_experts, choices_log, &distinct);
            const u32 hits = __ballot_sync(ALL_LANES, is_hit);
            if (token < end) slots[token] = is_hit ? rows + __popc(hits & ((1u << lane) - 1)) : -1;
            rows += __popc(hits);
            if (!pairs) continue;
            upto = distinct;
#pragma unroll
            for (int d = 1; d < 32; d <<= 1) {
                const int other = __shfl_up_sync(ALL_LANES, upto, d);
                if (lane >= d) upto += other;
            }
            if (token < end) pairs[token] = all_pairs + upto - distinct;
            all_pairs += __shfl_sync(ALL_LANES, upto, 31);
        }
        if (lane == 0) warp_rows[warp] = rows, warp_pairs[warp] = all_pairs;
        __syncthreads();
        rows = warp_rows[lane], all_pairs = warp_pairs[lane];
        const int rows_before = __reduce_add_sync(ALL_LANES, lane < warp ? rows : 0);
        const int pairs_before = __reduce_add_sync(ALL_LANES, lane < warp ? all_pairs : 0);
        rows = __reduce_add_sync(ALL_LANES, rows), all_pairs = __reduce_add_sync(ALL_LANES, all_pairs);
        const u64 word = (u64)(p.epochs[WORDS] + 1) << 32 | (u32)rows;
        /* As soon as can be: all wait for it. */
        for (int s = threadIdx.x; s < p.ranks && p.is_lsa; s += PLAN_THREADS)
            store_relaxed(&p.peer_words[s][p.rank * p.ranks + q], word);
        for (int token = first + lane; token < end; token += 32) { /* what this lane wrote */
            if (slots[token] >= 0) slots[token] += rows_before;
            if (pairs) pairs[token] += pairs_before;
        }
        __syncthreads(); /* the sums may be written again */
        if (threadIdx.x == 0) {
            p.send_counts[2 * q] = rows;
            p.send_counts[2 * q + 1] = all_pairs;
            if (p.frozen && (p.frozen[2 * q] != rows || p.frozen[2 * q + 1] != all_pairs ||
                             p.frozen[2 * p.ranks] != p.frozen_number))
                fail(p, FAILED_ROUTING, p.rank);
        }
    }
}

/* ---- for a library that dispatches itself ---- */

#define FLAT_THREADS 256

/* A warp a token. */
KERNEL(FLAT_THREADS, 4) moet_ep_choices(const moet_ep_pass p, int *ids, float *weights)
{
    const int lane = threadIdx.x & 31, warps = FLAT_THREADS / 32;
    launches_chain();
    for (int token = blockIdx.x * warps + threadIdx.x / 32; token < p.tokens; token += gridDim.x * warps) {
        const choice c = choice_load(p, token, lane);
        if (lane >= p.choices) continue;
        ids[(i64)token * p.choices + lane] = c.expert;
        weights[(i64)token * p.choices + lane] = c.weight;
    }
}

/* Strides in vectors of 16 bytes. */
KERNEL(FLAT_THREADS, 4) moet_ep_copy(uint4 *to, i64 to_stride, const uint4 *from, i64 from_stride, i64 rows, int vectors)
{
    launches_chain();
    for (i64 i = (i64)blockIdx.x * FLAT_THREADS + threadIdx.x; i < rows * vectors; i += (i64)gridDim.x * FLAT_THREADS) {
        const i64 row = i / vectors, at = i - row * vectors;
        to[row * to_stride + at] = from[row * from_stride + at];
    }
}

/* The last expert whose slots begin no later: those in between have none. */
KERNEL(FLAT_THREADS, 4) moet_ep_slots(const int *first, int experts, const int *total, int *ids, int bound)
{
    launches_chain();
    const int end = *total;
    for (int slot = blockIdx.x * FLAT_THREADS + threadIdx.x; slot < bound; slot += gridDim.x * FLAT_THREADS) {
        int low = 0, high = experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first[middle] <= slot)
                low = middle;
            else
                high = middle;
        }
        ids[slot] = slot < end ? low : -1;
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
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x) first[q] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < p.ranks * p.ranks; i += blockDim.x) { /* a thread a word: the loads do not add up */
        const int s = i / p.ranks, q = i - s * p.ranks;
        u32 spins = 0;
        u64 word;
        while ((u32)((word = load_relaxed(&words[i])) >> 32) != epoch) {
            if (wait_on(p, begin_ns, &spins, s)) continue;
            word = 0;
            break;
        }
        if (s < p.rank) atomicAdd(&first[q], (int)(u32)word);
        if (blockIdx.x == 0 && q == p.rank) p.recv_counts[2 * s] = (int)(u32)word;
    }
    __syncthreads();
    if (blockIdx.x > 0) return;
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x) p.first[q] = first[q];
    if (threadIdx.x == 0) bases_received(p);
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

/* The k ids and k weights of a row for `rank`, and `pair`; 0 behind them, as far as the first 128 of its room_bytes go.
 * A word a lane, in one store: to another GPU each part of a line would travel by itself. */
static __device__ __forceinline__ void tail_write(const moet_ep_pass &p, const choice &c, char *tail, int room_bytes,
                                                  int rank, int pair, int lane)
{
    const bool is_mine = c.expert >= 0 && c.rank == rank, is_id = lane < p.choices;
    const int count = __popc(__ballot_sync(ALL_LANES, is_mine)), nth = is_id ? lane : lane - p.choices;
    int from = -1; /* the lane that has the row's nth choice */
    for (int i = 0; i < count; i++) {
        const u32 found = __ballot_sync(ALL_LANES, is_mine && c.nth == i);
        if (nth == i) from = __ffs(found) - 1;
    }
    const int expert = __shfl_sync(ALL_LANES, c.expert, max(from, 0)) - rank * p.local_experts;
    const float weight = __shfl_sync(ALL_LANES, c.weight, max(from, 0));
    int word = lane == 2 * p.choices ? pair : 0;
    if (is_id)
        word = from >= 0 ? expert : -1;
    else if (from >= 0)
        word = __float_as_int(weight);
    if (4 * lane < room_bytes) ((int *)tail)[lane] = word;
    if (2 * p.choices == 32 && lane == 0) ((int *)tail)[32] = pair;
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
            tail_write(p, c, pointer_of(row, at) + 2 * (i64)p.hidden, p.row_bytes - 2 * p.hidden,
                       __shfl_sync(ALL_LANES, c.rank, at), __shfl_sync(ALL_LANES, pair, at), lane);
        }
    }
    if (p.is_bound && !is_off) { /* slots that nobody has */
        const choice none = {-1, -1, 0, 0, 0};
        for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < (i64)p.ranks * p.max_tokens;
             item += gridDim.x * ROW_WARPS) {
            const int q = (int)(item / p.max_tokens), i = (int)(item - (i64)q * p.max_tokens);
            if (i < p.send_counts[2 * q]) continue;
            tail_write(p, none, (char *)p.to[q] + (i64)(first[q] + i) * p.row_bytes + 2 * (i64)p.hidden,
                       p.row_bytes - 2 * p.hidden, q, 0, lane);
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
moet_ep_pack(const moet_ep_pass p, const char *tails, const uint4 *rows, const int *places, uint4 *packed)
{
    launches_chain();
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8, count = *p.recv_tokens;
    for (int r = blockIdx.x * ROW_WARPS + threadIdx.x / 32; r < count; r += gridDim.x * ROW_WARPS) {
        const int source = source_of(p, r, lane);
        if (source == p.rank || source < 0) continue;
        const int pair = *(const int *)(tails + (i64)r * p.tail_bytes + 8 * p.choices);
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

/* Part of the sum of received row r, that a rank sent as its slot, to the back of that rank. Whole warps. */
static __device__ __forceinline__ void give_row(const moet_ep_pass &p, const char *tails, const char *rows,
                                                const int *places, int r, int source, int slot, int part_begin, int end,
                                                int lane)
{
    const int mine = lane < p.width ? places[(i64)r * p.width + lane] : -1;
    const int count = __popc(__ballot_sync(ALL_LANES, mine >= 0));
    if (count == 0) return; /* its rank knows */
    const bool is_weighted = p.is_weighted && !(p.single_plain && count == 1);
    float weight = 1.0f; /* they stand in the order of places */
    if (is_weighted && mine >= 0) weight = ((const float *)(tails + (i64)r * p.tail_bytes + 4 * p.choices))[lane];
    char *row = mine >= 0 ? (char *)rows + (i64)mine * p.hidden * 2 : nullptr;
    rows_sum(row, weight, count, count == 1 && !is_weighted,
             (uint4 *)p.peer_back[source] + ((i64)p.rank * p.max_tokens + slot) * (p.hidden / 8), part_begin, end, lane);
}

KERNEL(ROW_THREADS, 3)
moet_ep_give(const moet_ep_pass p, const char *tails, const char *rows, const int *places, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    launches_chain();
    const i64 items = has_failed(p) ? 0 : (i64)*p.recv_tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int r = (int)(item / split), part = (int)(item - (i64)r * split);
        const int source = source_of(p, r, lane);
        if (source < 0 || source == p.rank) continue; /* own ones: combine adds them up */
        give_row(p, tails, rows, places, r, source, r - p.recv_first[source], part * part_vectors,
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

/* ---- allgather ---- */

/* As moet_ep_slot_of in ep_stages.h, for this rank's tokens. */
static __device__ __forceinline__ i64 slot_at(const moet_ep_pass &p, int receiver, int token)
{
    const int others = p.ranks - 1, piece = token / p.piece_tokens;
    if (receiver == p.rank) return (i64)p.pieces * others * p.piece_tokens + token;
    const int nth = p.rank > receiver ? p.rank - receiver - 1 : p.rank - receiver - 1 + p.ranks;
    return ((i64)piece * others + nth) * p.piece_tokens + (token - piece * p.piece_tokens);
}

enum { SPREADS_NONE, SPREADS_OWN, SPREADS_ALL, SPREADS_AND_WAITS }; /* as in ep_stages.h */

KERNEL(ROW_THREADS, 3) moet_ep_spread(const moet_ep_pass p, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    const bool to_others = p.spreads >= SPREADS_ALL, to_own = p.spreads == SPREADS_OWN || p.spreads == SPREADS_AND_WAITS;
    launches_chain();
    const bool is_off = __syncthreads_or(has_failed(p));
    const i64 items = is_off ? 0 : (i64)p.pieces * p.piece_tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int token = (int)(item / split), part = (int)(item - (i64)token * split);
        const bool is_there = token < p.tokens;
        if (part == 0) {
            choice c = {-1, -1, 0, 0, 0};
            if (is_there) c = choice_load(p, token, lane);
            for (int q = 0; q < p.ranks; q++)
                tail_write(p, c, (char *)p.peer_tails[q] + slot_at(p, q, token) * p.tail_bytes, p.tail_bytes, q, 0,
                           lane);
        }
        if (!is_there || p.spreads == SPREADS_NONE) continue;
        const uint4 *from = (const uint4 *)((const u16 *)p.x + token * p.x_stride);
        const int end = min(vectors, (part + 1) * part_vectors);
        for (int begin = part * part_vectors + lane; begin - lane < end; begin += 32 * COPY_VECTORS) {
            uint4 v[COPY_VECTORS];
#pragma unroll
            for (int i = 0; i < COPY_VECTORS; i++) {
                if (begin + 32 * i < end) v[i] = from[begin + 32 * i];
            }
            for (int q = 0; q < p.ranks; q++) {
                if (q == p.rank ? !to_own : !to_others) continue;
                uint4 *to = (uint4 *)p.to[q] + slot_at(p, q, token) * vectors;
#pragma unroll
                for (int i = 0; i < COPY_VECTORS; i++) {
                    if (begin + 32 * i < end) to[begin + 32 * i] = v[i];
                }
            }
        }
    }
    if (!is_last_block(&p.epochs[DISPATCHED_BLOCKS])) return;
    const u32 arrived = p.epochs[ARRIVED] + p.pieces, ready = p.epochs[READY] + 1;
    const bool has_any_failed = __syncthreads_or(has_failed(p)); /* all threads have read the epochs */
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.pieces; i++) p.tell[i] = arrived - p.pieces + 1 + i;
        p.epochs[ARRIVED] = arrived;
        store_release(&p.peer_arrived[p.rank][p.rank], arrived);
        if (p.awaits_ready) {
            p.tell[p.pieces] = p.epochs[READY] = ready;
            store_release(&p.peer_ready[p.rank][p.rank], ready);
        }
    }
    if (has_any_failed) return;
    if (to_others) tell_all(p, p.peer_arrived, arrived);
    if (p.spreads == SPREADS_AND_WAITS) wait_for_all(p, p.peer_arrived[p.rank], arrived);
}

/* One block: so small that it finds a place beside any GEMM. */
#define AWAIT_THREADS 32

KERNEL(AWAIT_THREADS, 1) moet_ep_await(const moet_ep_pass p, int piece)
{
    launches_chain();
    if (!__syncthreads_or(has_failed(p))) wait_for_all(p, p.peer_arrived[p.rank], p.tell[piece]);
}

/* ---- combine ---- */

/* Where a token's row, or sum, is in what came back from rank q. */
static __device__ __forceinline__ i64 back_slot(const moet_ep_pass &p, int q, int token)
{
    if (!p.slot) return token;
    return (p.is_given ? 0 : p.first[q]) + p.slot[(i64)q * p.max_tokens + token];
}

/* Where the row of the lane's choice came back; null: it has none. */
static __device__ __forceinline__ char *returned(const moet_ep_pass &p, const choice &c, int token)
{
    if (c.expert < 0 || (!p.returns_rows && c.nth > 0)) return nullptr;
    const i64 at = (i64)c.rank * p.max_tokens + token;
    const i64 slot = back_slot(p, c.rank, token);
    i64 row = slot;
    if (p.returns_rows) {
        const int *places = p.places[c.rank];
        row = places ? ((const volatile int *)places)[slot * p.width + c.nth] : p.pair_first[c.rank] + p.pair[at] + c.nth;
    }
    return (char *)p.from[c.rank] + row * p.hidden * 2;
}

/* The row of the lane's choice where it is this rank's own; else null. */
static __device__ __forceinline__ char *own_row(const moet_ep_pass &p, const choice &c, int token)
{
    if (c.expert < 0 || c.rank != p.rank) return nullptr;
    const i64 r = back_slot(p, p.rank, token) + (p.slot ? p.recv_first[p.rank] : 0);
    const i64 behind = token >= p.own_split ? (i64)p.own_split * p.width : 0;
    return (char *)p.own_rows + (behind + p.own_places[r * p.width + c.nth]) * p.hidden * 2;
}

/* The lanes' rows, null where a lane has none, by ascending expert. Whole warps. */
static __device__ __forceinline__ row_list list_rows(const moet_ep_pass &p, const choice &c, char *row)
{
    row_list list = {nullptr, 1.0f, 0};
    const int lane = threadIdx.x & 31;
    for (int i = 0; i < p.choices; i++) {
        const u32 found = __ballot_sync(ALL_LANES, row && c.place == i);
        if (!found) continue;
        char *const pointer = pointer_of(row, __ffs(found) - 1);
        const float by = __shfl_sync(ALL_LANES, c.weight, __ffs(found) - 1);
        if (lane == list.count) list.row = pointer, list.weight = by;
        list.count++;
    }
    return list;
}

KERNEL(ROW_THREADS, 3) moet_ep_combine(const moet_ep_pass p, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    launches_chain();
    const bool is_weighted = p.is_weighted && p.returns_rows;
    u32 epoch = 0;
    if (p.is_lsa) {
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
        row_list rows = list_rows(p, c, returned(p, c, token));
        if (!is_weighted) rows.weight = 1.0f;
        /* A sum of one would turn -0 into +0. */
        rows_sum(rows.row, rows.weight, rows.count, rows.count == 1 && !is_weighted,
                 (uint4 *)((u16 *)p.out + token * p.out_stride), part * part_vectors,
                 min(vectors, (part + 1) * part_vectors), lane);
    }
    if (!p.is_lsa || !is_last_block(&p.epochs[COMBINED_BLOCKS])) return;
    if (threadIdx.x == 0) p.epochs[READY] = epoch;
}

/* Part of out of a token, of sums that were given; wait() before others' are read. Whole warps. */
template <typename wait_t>
static __device__ __forceinline__ void combine_given(const moet_ep_pass &p, const choice &c, int token, int part_begin,
                                                     int end, int lane, wait_t wait)
{
    const bool is_own = c.expert >= 0 && c.rank == p.rank;
    row_list own = list_rows(p, c, own_row(p, c, token));
    const row_list others = list_rows(p, c, is_own ? nullptr : returned(p, c, token));
    const bool is_weighted = p.is_weighted && !(p.single_plain && own.count == 1);
    if (!is_weighted) own.weight = 1.0f;
    const int before = __popc(__ballot_sync(ALL_LANES, c.expert >= 0 && c.rank < p.rank && c.nth == 0));
    ranks_sum(own, own.count == 1 && !is_weighted, others, before, (uint4 *)((u16 *)p.out + token * p.out_stride),
              part_begin, end, lane, wait);
}

/* Of sums that were given: nobody waits for this rank. */
KERNEL(ROW_THREADS, 2) moet_ep_combine_given(const moet_ep_pass p, int split)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    launches_chain();
    if (p.awaits_ready && !__syncthreads_or(has_failed(p)))
        wait_for_all(p, p.peer_ready[p.rank], p.tell[p.pieces]);
    const i64 items = __syncthreads_or(has_failed(p)) ? 0 : (i64)p.tokens * split;
    for (i64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < items; item += gridDim.x * ROW_WARPS) {
        const int token = (int)(item / split), part = (int)(item - (i64)token * split);
        combine_given(p, choice_load(p, token, lane), token, part * part_vectors,
                      min(vectors, (part + 1) * part_vectors), lane, [] {});
    }
}

/* ---- give and combine at once ----
 *
 * The link carries sums to other ranks while the own rows' sums are read here. A unit of work is ROW_WARPS parts of
 * rows, and belongs to the block that takes it: units of give are those of piece 0 for all ranks, of piece 1, ...; units
 * of combine are in the order of tokens, whose sums others give in the same order. Every second block that begins gives
 * first and combines then, the others the other way round. The first to begin gives, and units of give wait for nothing:
 * so all is given however few blocks there are, and what is waited for comes. */

/* All threads. */
static __device__ __forceinline__ void give_unit(const moet_ep_pass &p, const char *tails, const char *rows,
                                                 const int *places, u32 unit, u32 rank_units, int split, u32 epoch)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, vectors = p.hidden / 8;
    const int part_vectors = (vectors + split - 1) / split;
    const u32 piece_units = (p.ranks - 1) * rank_units, piece = unit / piece_units, of_piece = unit - piece * piece_units;
    const int nth = of_piece / rank_units, source = (p.rank + 1 + nth) % p.ranks; /* each rank begins with another */
    const int item = (of_piece - nth * rank_units) * ROW_WARPS + warp, in_piece = item / split;
    const int slot = piece * GIVEN_SLOTS + in_piece, part = item - in_piece * split;
    if (in_piece < GIVEN_SLOTS && slot < p.recv_counts[2 * source])
        give_row(p, tails, rows, places, p.recv_first[source] + slot, source, slot, part * part_vectors,
                 min(vectors, (part + 1) * part_vectors), lane);
    if (!is_last_of(&p.given_units[piece], piece_units)) return;
    for (int q = threadIdx.x; q < p.ranks; q += blockDim.x)
        if (q != p.rank) store_release(&p.peer_given[q][p.rank * p.given_pieces + piece], epoch);
}

static __device__ __forceinline__ void combine_unit(const moet_ep_pass &p, u32 unit, int split, u32 epoch)
{
    const int lane = threadIdx.x & 31, vectors = p.hidden / 8, part_vectors = (vectors + split - 1) / split;
    const i64 item = (i64)unit * ROW_WARPS + threadIdx.x / 32;
    const int token = (int)(item / split), part = (int)(item - (i64)token * split);
    if (token >= p.tokens) return;
    const choice c = choice_load(p, token, lane);
    const u32 *given = nullptr; /* the word of the piece with the sum that this lane's choice comes back in */
    if (c.expert >= 0 && c.rank != p.rank && c.nth == 0)
        given = p.peer_given[p.rank] + c.rank * p.given_pieces +
                p.slot[(i64)c.rank * p.max_tokens + token] / GIVEN_SLOTS;
    combine_given(p, c, token, part * part_vectors, min(vectors, (part + 1) * part_vectors), lane, [&] {
        if (given) wait_for_given(p, given, epoch, c.rank);
        given = nullptr;
        __syncwarp();
    });
}

KERNEL(ROW_THREADS, 2)
moet_ep_give_and_combine(const moet_ep_pass p, const char *tails, const char *rows, const int *places, int split)
{
    launches_chain();
    const u32 epoch = p.epochs[READY] + 1;
    const bool is_off = __syncthreads_or(has_failed(p));
    int received = 0; /* rows of another rank, at most */
    for (int s = 0; s < p.ranks; s++) received = max(received, s == p.rank ? 0 : p.recv_counts[2 * s]);
    const u32 rank_units = (GIVEN_SLOTS * split + ROW_WARPS - 1) / ROW_WARPS; /* of one rank's piece */
    const u32 give_units = (u32)((received + GIVEN_SLOTS - 1) / GIVEN_SLOTS) * (p.ranks - 1) * rank_units;
    const u32 combine_units = (u32)(((i64)p.tokens * split + ROW_WARPS - 1) / ROW_WARPS);
    const u32 combines_first = take(&p.epochs[BEGUN_BLOCKS]) & 1;
    for (u32 i = 0; i < 2 && !is_off; i++) {
        const bool combines = i != combines_first;
        for (;;) {
            const u32 unit = take(&p.epochs[combines ? COMBINE_UNITS : GIVE_UNITS]);
            if (unit >= (combines ? combine_units : give_units)) break;
            if (combines)
                combine_unit(p, unit, split, epoch);
            else
                give_unit(p, tails, rows, places, unit, rank_units, split, epoch);
        }
    }
    if (!is_last_block(&p.epochs[COMBINED_BLOCKS]) || threadIdx.x != 0) return;
    p.epochs[READY] = epoch;
    p.epochs[BEGUN_BLOCKS] = p.epochs[GIVE_UNITS] = p.epochs[COMBINE_UNITS] = 0;
}
