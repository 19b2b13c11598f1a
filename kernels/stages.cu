/* stages.cu: permute, gather, activation and combine of the expert path (docs/ffn.md) for compute capability 8.0 and
 * later. Compiled by NVRTC (or nvcc -cubin): includes nothing. Launch shapes are in stages_cuda.c.
 *
 * Every kernel allows the launch after it to begin early, and waits for the launch before it ahead of its first look at
 * memory: what it writes may still be read there. All blocks wait, so that a launch that is done tells that those
 * before it are done too. */

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define ALL_LANES 0xffffffffu

static __device__ __forceinline__ void launches_chain(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ float bf16_to_float(u32 bits) { return __uint_as_float(bits << 16); }

/* Rounds to nearest even; the first is the low half. */
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

/* Tokens of this launch: at most `bound`, and that many where the device does not say. */
static __device__ __forceinline__ int token_count(const int *device_tokens, int bound)
{
    return device_tokens ? max(0, min(*device_tokens, bound)) : bound;
}

/* ---- permute ----
 *
 * A stable counting sort. 32 tokens make a group. masks[group][expert] has a bit for each token of the group that chose
 * the expert, set by atomic OR, whose order does not matter; so a row's number is
 *   rows of all experts before + rows of this expert in groups before + bits below the token's own.
 * A thread has one choice: a token's choices, padded to 2^lanes_log, are neighbours in a warp. A tile is what a block
 * of 1024 threads holds so, 256 tokens at most.
 *
 * Few tokens: moet_stage_permute. Each block counts all tokens, which is cheap, and writes its own tile: no block waits
 * for another. Many: moet_stage_permute_many. Each block writes how many rows it has of each expert, waits for all
 * others, and adds up what is before its own. */

#define PERMUTE_THREADS 1024
#define TILE_TOKENS 256 /* at most */
#define FEW_PASSES 8    /* choices a thread of moet_stage_permute */
#define MAX_EXPERTS 1024 /* as MOET_MAX_EXPERTS */
#define PLACE_DIRECT -2 /* MOET_STAGES_DIRECT of stages.h */

/* As in stages_cuda.c. */
struct moet_route {
    const void *ids;
    i64 ids_stride;
    const float *weights; /* or null */
    i64 weights_stride;
    const int *device_tokens; /* or null */
    int *counts, *places, *rowmap, *source, *target;
    float *prob;    /* null: not asked for, as the five before it */
    int *histogram; /* [blocks, experts] */
    int tokens;     /* or their bound */
    int is_int64, choices, lanes_log, experts, width, max_rows;
    int tiles; /* of a block */
};

extern __shared__ u32 dynamic_words[];

/* The id of a choice; past the last token or choice it is the last one's, so that nothing hangs on the load and many
 * can be in flight. */
static __device__ __forceinline__ i64 id_load(const moet_route *route, int token, int choice, int tokens)
{
    if (tokens == 0) return -1; /* there need be no ids then */
    const i64 at = min(token, tokens - 1) * route->ids_stride + min(choice, route->choices - 1);
    return route->is_int64 ? ((const i64 *)route->ids)[at] : ((const int *)route->ids)[at];
}

/* -1 for an id that is none of ours. */
static __device__ __forceinline__ int expert_of(const moet_route *route, i64 id, bool is_choice)
{
    return is_choice && id >= 0 && id < route->experts ? (int)id : -1;
}

static __device__ __forceinline__ void mask_clear(u32 *masks, int words)
{
    for (int i = threadIdx.x; i < words; i += PERMUTE_THREADS) masks[i] = 0;
}

/* `in` counts tokens from the first of masks. A repeated expert sets its bit again. */
static __device__ __forceinline__ void mask_set(u32 *masks, int experts, int in, int expert)
{
    if (expert >= 0) atomicOr(&masks[(in >> 5) * experts + expert], 1u << (in & 31));
}

/* The sum of the values of all threads before this one. All 1024 threads; sums [32]. */
static __device__ __forceinline__ int sum_before(int value, int *sums)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int sum = value;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        const int other = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        const int own = sums[lane];
        int before = own;
#pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            const int other = __shfl_up_sync(ALL_LANES, before, d);
            if (lane >= d) before += other;
        }
        sums[lane] = before - own;
    }
    __syncthreads();
    return sum - value + sums[warp];
}

/* Rows from max_rows on are left out. */
static __device__ __forceinline__ void count_write(const moet_route *route, int expert, int start, int count)
{
    if (route->counts && expert < route->experts)
        route->counts[expert] = min(start + count, route->max_rows) - min(start, route->max_rows);
}

/* Writes what follows from the tile's masks; bases [groups][experts] are the rows where each group begins. `expert` is
 * the thread's choice, `weight` its router weight. Whole warps. */
static __device__ __forceinline__ void tile_write(const moet_route *route, const u32 *masks, const int *bases,
                                                  int first, int tile_tokens, int tokens, int expert, float weight)
{
    const int experts = route->experts, lanes = 1 << route->lanes_log;
    const int in = threadIdx.x >> route->lanes_log, choice = threadIdx.x & (lanes - 1), token = first + in;
    const u32 lane = threadIdx.x & 31, segment = lane & ~(u32)(lanes - 1);
    const u32 members = ((1u << lanes) - 1) << segment; /* of 16 at most */
    const bool is_choice = in < tile_tokens && token < tokens && choice < route->choices;

    /* The first of a repeated expert counts. A token's rows ascend as its experts do. */
    bool is_repeated = false;
    int place = 0, row = -1;
    for (int j = 0; j < lanes; j++) {
        const int other = __shfl_sync(ALL_LANES, expert, segment + j);
        is_repeated |= j < choice && other == expert;
    }
    if (is_repeated) expert = -1;
    for (int j = 0; j < lanes; j++) {
        const int other = __shfl_sync(ALL_LANES, expert, segment + j);
        place += other >= 0 && other < expert;
    }
    const u32 ours = __ballot_sync(ALL_LANES, expert >= 0) & members;
    if (expert >= 0) {
        const int at = (in >> 5) * experts + expert;
        row = bases[at] + __popc(masks[at] & ((1u << (in & 31)) - 1));
        if (row >= route->max_rows) {
            row = -1;
        } else {
            if (route->source) route->source[row] = token;
            if (route->prob) route->prob[row] = weight;
            if (route->target) { /* the only row of its token goes there, and combine leaves the token out */
                const bool is_only = __popc(ours) == 1;
                route->target[row] = is_only ? token : -1;
                if (is_only) row = PLACE_DIRECT;
            }
        }
    } else { /* behind the rows, in the order of choices: there are at least as many choices as places */
        place = __popc(ours) + __popc(members & ~ours & ((1u << lane) - 1));
    }
    if (route->places && is_choice && place < route->width) route->places[(i64)token * route->width + place] = row;

    if (!route->rowmap) return;
    const int end = min(tile_tokens, tokens - first);
    for (int t = threadIdx.x >> 5; t < end; t += PERMUTE_THREADS / 32) { /* a warp a token */
        int *to = route->rowmap + (i64)(first + t) * experts;
        const u32 *mask = masks + (t >> 5) * experts;
        const int *base = bases + (t >> 5) * experts;
        const int bit = t & 31;
        for (int e = lane; e < experts; e += 32) {
            int at = -1;
            if (mask[e] >> bit & 1) {
                at = base[e] + __popc(mask[e] & ((1u << bit) - 1));
                if (at >= route->max_rows) at = -1;
            }
            to[e] = at;
        }
    }
}

/* The router weight of the thread's own choice in the tile that begins at token `first`; as with ids, of the last token
 * or choice past these. */
static __device__ __forceinline__ float tile_weight(const moet_route *route, int first, int tokens)
{
    if (!route->prob || !route->weights || tokens == 0) return 1.0f;
    const int in = threadIdx.x >> route->lanes_log, choice = threadIdx.x & ((1 << route->lanes_log) - 1);
    return route->weights[min(first + in, tokens - 1) * route->weights_stride + min(choice, route->choices - 1)];
}

/* The thread's own choice in the tile that begins at token `first`: its id, and the expert that this is. */
static __device__ __forceinline__ i64 tile_load(const moet_route *route, int first, int tokens)
{
    const int in = threadIdx.x >> route->lanes_log, choice = threadIdx.x & ((1 << route->lanes_log) - 1);
    return id_load(route, first + in, choice, tokens);
}

static __device__ __forceinline__ int tile_expert(const moet_route *route, i64 id, int first, int tile_tokens,
                                                  int tokens)
{
    const int in = threadIdx.x >> route->lanes_log, choice = threadIdx.x & ((1 << route->lanes_log) - 1);
    return expert_of(route, id, in < tile_tokens && first + in < tokens && choice < route->choices);
}

static __device__ __forceinline__ int tile_size(const moet_route *route)
{
    return min(PERMUTE_THREADS >> route->lanes_log, TILE_TOKENS);
}

/* tokens << lanes_log at most 8192, tokens at most 1024. A block a tile. Shared: masks of all groups, bases of a
 * tile's. */
KERNEL(PERMUTE_THREADS, 1) moet_stage_permute(const moet_route route)
{
    __shared__ int sums[32];
    launches_chain();
    const int tokens = token_count(route.device_tokens, route.tokens), experts = route.experts;
    const int tile_tokens = tile_size(&route), first = blockIdx.x * tile_tokens;
    if (blockIdx.x > 0 && first >= tokens) return; /* block 0 writes counts in any case */

    const int groups = (tokens + 31) >> 5, own_group = first >> 5, tid = threadIdx.x;
    const int own_groups = min(tile_tokens >> 5, groups - own_group);
    u32 *masks = dynamic_words;
    int *bases = (int *)masks + ((route.tokens + 31) >> 5) * experts;
    mask_clear(masks, groups * experts);

    const int pairs = tokens << route.lanes_log, choice = tid & ((1 << route.lanes_log) - 1);
    i64 ids[FEW_PASSES]; /* all in flight at once */
#pragma unroll
    for (int i = 0; i < FEW_PASSES; i++)
        ids[i] = id_load(&route, (tid + i * PERMUTE_THREADS) >> route.lanes_log, choice, tokens);
    const i64 own_id = tile_load(&route, first, tokens);
    const float weight = tile_weight(&route, first, tokens);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < FEW_PASSES; i++) {
        const int pair = tid + i * PERMUTE_THREADS;
        mask_set(masks, experts, pair >> route.lanes_log,
                 expert_of(&route, ids[i], pair < pairs && choice < route.choices));
    }
    __syncthreads();

    int count = 0, next = 0; /* of expert tid: its rows, those before the tile */
    if (tid < experts) {
        for (int g = 0; g < groups; g++) {
            if (g == own_group) next = count;
            count += __popc(masks[g * experts + tid]);
        }
    }
    const int start = sum_before(count, sums);
    if (blockIdx.x == 0) count_write(&route, tid, start, count);
    if (tid < experts) {
        next += start;
        for (int g = 0; g < own_groups; g++) {
            bases[g * experts + tid] = next;
            next += __popc(masks[(own_group + g) * experts + tid]);
        }
    }
    __syncthreads();
    tile_write(&route, masks + own_group * experts, bases, first, tile_tokens, tokens,
               tile_expert(&route, own_id, first, tile_tokens, tokens), weight);
}

/* Blocks that have written their counts, and how often all had: the last one to come clears the former for the next
 * launch. Launches of one loaded module must follow each other. */
__device__ unsigned moet_came, moet_rounds;

/* What all threads of all blocks wrote before is seen by those of this block after, which wait unless `leaves`. All
 * blocks run at the same time: the launch is a cooperative one. */
static __device__ __forceinline__ void blocks_meet(bool leaves)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned round, now;
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(round) : "l"(&moet_rounds) : "memory");
        __threadfence();
        if (atomicAdd(&moet_came, 1u) == gridDim.x - 1) {
            moet_came = 0;
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&moet_rounds) : "memory");
        } else if (!leaves) {
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(&moet_rounds) : "memory");
            } while (now == round);
        }
    }
    __syncthreads();
}

static __device__ __forceinline__ int count_load(const int *from)
{
    int count;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(from) : "memory");
    return count;
}

/* Block b has the tiles b * tiles to (b + 1) * tiles - 1: counts the rows of each expert in these, and when all blocks
 * have, writes them. Shared: masks and bases of a tile's groups. */
KERNEL(PERMUTE_THREADS, 1) moet_stage_permute_many(const moet_route route)
{
    __shared__ int sums[32];
    launches_chain();
    const int tokens = token_count(route.device_tokens, route.tokens), experts = route.experts, tid = threadIdx.x;
    const int tile_tokens = tile_size(&route), groups = tile_tokens >> 5;
    const int block_first = blockIdx.x * route.tiles * tile_tokens;
    u32 *masks = dynamic_words;
    int *bases = (int *)masks + groups * experts;

    int count = 0, first = block_first, own = -1;
    i64 next_id = tile_load(&route, first, tokens); /* a tile ahead */
    float next_weight = tile_weight(&route, block_first, tokens);
    for (int i = 0; i < route.tiles && first < tokens; i++, first += tile_tokens) {
        const i64 id = next_id;
        next_id = tile_load(&route, first + tile_tokens, tokens);
        own = tile_expert(&route, id, first, tile_tokens, tokens);
        __syncthreads(); /* the tile before is counted */
        mask_clear(masks, groups * experts);
        __syncthreads();
        mask_set(masks, experts, tid >> route.lanes_log, own);
        __syncthreads();
        if (tid < experts) {
            for (int g = 0; g < groups; g++) count += __popc(masks[g * experts + tid]);
        }
    }
    if (tid < experts) route.histogram[blockIdx.x * experts + tid] = count;
    next_id = tile_load(&route, block_first, tokens); /* from the first tile again */
    const bool is_done = blockIdx.x > 0 && block_first >= tokens; /* block 0 writes counts in any case */
    blocks_meet(is_done);
    if (is_done) return;

    /* Columns of the histogram added up: of all blocks, and of those before this one. Integers: any order. */
    __shared__ int total[MAX_EXPERTS], before[MAX_EXPERTS];
    if (tid < experts) total[tid] = before[tid] = 0;
    __syncthreads();
    const int columns_log = 32 - __clz(max(experts, 32) - 1), column = tid & ((1 << columns_log) - 1);
    const int blocks = gridDim.x, own_block = blockIdx.x;
    if (column < experts) {
        int sum = 0, part = 0;
#pragma unroll 8
        for (int b = tid >> columns_log; b < blocks; b += PERMUTE_THREADS >> columns_log) {
            const int rows = count_load(route.histogram + b * experts + column);
            sum += rows;
            part += b < own_block ? rows : 0;
        }
        if (sum) atomicAdd(&total[column], sum);
        if (part) atomicAdd(&before[column], part);
    }
    __syncthreads();
    const int all = tid < experts ? total[tid] : 0;
    int next = tid < experts ? before[tid] : 0; /* of expert tid: the row that comes next */
    const int start = sum_before(all, sums);
    if (blockIdx.x == 0) count_write(&route, tid, start, all);
    next += start;

    first = block_first;
    for (int i = 0; i < route.tiles && first < tokens; i++, first += tile_tokens) {
        const float weight = next_weight;
        next_weight = tile_weight(&route, first + tile_tokens, tokens);
        if (route.tiles > 1) { /* else the masks are there */
            const i64 id = next_id;
            next_id = tile_load(&route, first + tile_tokens, tokens);
            own = tile_expert(&route, id, first, tile_tokens, tokens);
            __syncthreads(); /* the tile before is written */
            mask_clear(masks, groups * experts);
            __syncthreads();
            mask_set(masks, experts, tid >> route.lanes_log, own);
            __syncthreads();
        }
        if (tid < experts) {
            for (int g = 0; g < groups; g++) {
                bases[g * experts + tid] = next;
                next += __popc(masks[g * experts + tid]);
            }
        }
        __syncthreads();
        tile_write(&route, masks, bases, first, tile_tokens, tokens, own, weight);
    }
}

/* ---- rows: a warp takes a piece of a row; pieces are dealt to all warps of the grid in turn ---- */

#define ROW_THREADS 256
#define ROW_WARPS (ROW_THREADS / 32)

/* Rows of all experts, `bound` at most. Whole warps. */
static __device__ __forceinline__ int row_count(const int *counts, int experts, int bound)
{
    int rows = 0;
    for (int e = threadIdx.x & 31; e < experts; e += 32) rows += counts[e];
    return min(__reduce_add_sync(ALL_LANES, rows), bound);
}

/* to [rows, hidden] = rows of x by source. A piece is 4 vectors of 16 bytes a lane. */
KERNEL(ROW_THREADS, 6)
moet_stage_gather(const u16 *x, i64 x_stride, const int *source, const int *counts, int experts, int bound, int hidden,
                  uint4 *to)
{
    launches_chain();
    const u32 rows = row_count(counts, experts, bound), lane = threadIdx.x & 31;
    const u32 vectors = hidden / 8, pieces = (vectors + 127) / 128, total = rows * pieces; /* 2^30 at most */
    for (u32 piece = blockIdx.x * ROW_WARPS + threadIdx.x / 32; piece < total; piece += gridDim.x * ROW_WARPS) {
        const u32 row = piece / pieces, at = (piece - row * pieces) * 128 + lane;
        const uint4 *from = (const uint4 *)(x + source[row] * x_stride) + at;
        uint4 *into = to + (i64)row * vectors + at;
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (at + 32 * i < vectors) v[i] = from[32 * i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (at + 32 * i < vectors) into[32 * i] = v[i];
        }
    }
}

/* No fused multiplication and addition: the roundings are part of the result. NaN passes the clamps. */
static __device__ __forceinline__ float activated(bool is_gpt_oss, float gate, float up, float limit, float weight)
{
    float value;
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    if (is_gpt_oss) {
        const float sigmoid = __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-__fmul_rn(1.702f, gate))));
        value = __fmul_rn(__fmul_rn(gate, sigmoid), __fadd_rn(up, 1.0f));
    } else {
        value = __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, expf(-gate))), up);
    }
    return __fmul_rn(value, weight); /* a weight of 1 changes nothing */
}

/* up [rows, 2 inter] to [rows, inter]; prob null: weights of 1. A piece is 2 vectors of gate and of up a lane. */
static __device__ __forceinline__ void activate(bool is_gpt_oss, const uint4 *up, const float *prob, const int *counts,
                                                int experts, int bound, int inter, float limit, uint4 *to)
{
    launches_chain();
    const u32 rows = row_count(counts, experts, bound), lane = threadIdx.x & 31;
    const u32 vectors = inter / 8, pieces = (vectors + 63) / 64, total = rows * pieces; /* 2^31 at most */
    for (u32 piece = blockIdx.x * ROW_WARPS + threadIdx.x / 32; piece < total; piece += gridDim.x * ROW_WARPS) {
        const u32 row = piece / pieces, at = (piece - row * pieces) * 64 + lane;
        const uint4 *gates = up + (i64)row * 2 * vectors + at, *ups = gates + vectors;
        uint4 *into = to + (i64)row * vectors + at;
        const float weight = prob ? prob[row] : 1.0f;
        uint4 g[2], u[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (at + 32 * i < vectors) g[i] = gates[32 * i], u[i] = ups[32 * i];
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (at + 32 * i >= vectors) continue;
            float gate[8], value[8];
            widen8(g[i], gate);
            widen8(u[i], value);
#pragma unroll
            for (int j = 0; j < 8; j++) value[j] = activated(is_gpt_oss, gate[j], value[j], limit, weight);
            into[32 * i] = narrow8(value);
        }
    }
}

#define ACTIVATION(name, is_gpt_oss)                                                                                   \
    KERNEL(ROW_THREADS, 4)                                                                                             \
    name(const uint4 *up, const float *prob, const int *counts, int experts, int bound, int inter, float limit,        \
         uint4 *to)                                                                                                    \
    {                                                                                                                  \
        activate(is_gpt_oss, up, prob, counts, experts, bound, inter, limit, to);                                      \
    }
ACTIVATION(moet_stage_swiglu, false)
ACTIVATION(moet_stage_gpt_oss, true)

/* Rows that a token has at most, and are read at a time. */
#define MAX_CHOICES 16
#define ROWS_AT_ONCE 4

/* A token's row at `at`, a vector: the sum of its rows (lane i has row i in `mine`, of `count`) by their weights. */
static __device__ __forceinline__ uint4 rows_combine(const uint4 *rows, int mine, int count, float weight,
                                                     bool is_copied, u32 vectors, u32 at, bool is_inside)
{
    float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    uint4 v[ROWS_AT_ONCE];
    for (int begin = 0; begin < count; begin += ROWS_AT_ONCE) {
#pragma unroll
        for (int j = 0; j < ROWS_AT_ONCE; j++) {
            if (begin + j >= count) break;
            const int row = __shfl_sync(ALL_LANES, mine, begin + j);
            if (is_inside) v[j] = rows[(i64)row * vectors + at];
        }
#pragma unroll
        for (int j = 0; j < ROWS_AT_ONCE; j++) {
            if (begin + j >= count) break;
            const float by = __shfl_sync(ALL_LANES, weight, begin + j);
            float value[8];
            widen8(v[j], value);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] = fmaf(value[i], by, sum[i]); /* by 1: an addition */
        }
    }
    return is_copied ? v[0] : narrow8(sum);
}

/* out [tokens, hidden] = sums of rows by map [tokens, span]: places, or (is_rowmap) the rowmap. prob null: not
 * weighted. single_plain: a token's only row is not weighted. A warp takes a piece, a vector a lane, of the rows of
 * `group` tokens (32 at most) at a time: that none of them has anything to combine is one look. */
KERNEL(ROW_THREADS, 5)
moet_stage_combine(const uint4 *rows, const int *map, int span, int is_rowmap, const float *prob, int single_plain,
                   const int *device_tokens, int bound, int hidden, int group, u16 *out, i64 out_stride)
{
    launches_chain();
    const u32 tokens = token_count(device_tokens, bound), lane = threadIdx.x & 31;
    const u32 vectors = hidden / 8, pieces = (vectors + 31) / 32;
    const u64 total = (u64)((tokens + group - 1) / group) * pieces; /* 2^32 at most */
    for (u64 item = blockIdx.x * ROW_WARPS + threadIdx.x / 32; item < total; item += gridDim.x * ROW_WARPS) {
        const u32 first = (u32)item / pieces * group, at = ((u32)item % pieces) * 32 + lane; /* items are below 2^32 */
        const bool is_left = lane < (u32)group && first + lane < tokens &&
                             (is_rowmap || map[(i64)(first + lane) * span] != PLACE_DIRECT);
        for (u32 left_tokens = __ballot_sync(ALL_LANES, is_left); left_tokens; left_tokens &= left_tokens - 1) {
            const u32 token = first + __ffs(left_tokens) - 1;
            const int *own = map + (i64)token * span;
            int mine = -1, count = 0; /* lane i has the token's row i */
            if (is_rowmap) {
                for (int e = 0; e < span; e += 32) {
                    const int found = e + (int)lane < span ? own[e + lane] : -1;
                    for (u32 left = __ballot_sync(ALL_LANES, found >= 0); left && count < MAX_CHOICES;
                         left &= left - 1) {
                        const int row = __shfl_sync(ALL_LANES, found, __ffs(left) - 1);
                        if ((int)lane == count) mine = row;
                        count++;
                    }
                }
            } else {
                if ((int)lane < span) mine = own[lane];
                count = __popc(__ballot_sync(ALL_LANES, mine >= 0));
            }
            const bool is_weighted = prob && !(single_plain && count == 1);
            const float weight = is_weighted && mine >= 0 ? prob[mine] : 1.0f;
            const bool is_copied = count == 1 && !is_weighted; /* a sum would turn -0 into +0 */
            const uint4 value = rows_combine(rows, mine, count, weight, is_copied, vectors, at, at < vectors);
            if (at < vectors) ((uint4 *)(out + token * out_stride))[at] = value;
        }
    }
}
