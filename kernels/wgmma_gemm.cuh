/* wgmma_gemm.cuh: the tile in numbers and the instructions of wgmma_gemm.cu. The build puts this text in front of that
 * one: NVRTC sees a single source without headers. The tile comes in as macros:
 *
 *   MOET_BM, MOET_BN      tile of the output on wgmma's M side (64 ... 256) and on its N side (16 ... 256)
 *   MOET_SWAP             0: rows of x are on the M side and columns of out on the N side; 1: the other way round
 *   MOET_PINGPONG         0: the two math warpgroups share a tile; 1: they take tiles in turn, so that one stores while
 *                         the other computes
 *   MOET_STAGES           K blocks of 64 that shared memory holds
 *   MOET_CLUSTER          CTAs that work on a ticket of as many tiles and share copies: 1 or 2
 *   MOET_KN, MOET_BIAS    layout of the weights; whether there is a bias
 *   MOET_ACT, MOET_PROB   the activation of the expert path on pairs of columns (wgmma_gemm.act.cuh), 0: none; whether
 *                         its result is multiplied by a router weight of the row
 *   MOET_FAST             1: with an activation, of numerics `fast`
 *   MOET_GATHER           1: row r of the product is row source[r] of x, copied by the threads of three warps
 *                         (wgmma_gemm.x_gather.cuh) and not by the copy engine
 *   MOET_SCATTER          1: rows that have a target are stored there and not in out (wgmma_gemm.store.cuh)
 *   MOET_CHAIN            1: two products in a launch: the up GEMM, with MOET_ACT and as MOET_GATHER says, and the down
 *                         GEMM on what that stores, with MOET_DOWN_BIAS and as MOET_SCATTER says (wgmma_gemm.chain.cuh)
 *   MOET_COUNTS           most experts, as many counts the kernel takes by value
 *   MOET_NAME             the kernel's
 *   MOET_WATCHDOG         defined (by an environment variable of this name, wgmma_gemm.c): a wait that takes too long
 *                         says where and ends, to find out why a launch hangs
 *   MOET_RACECHECK        defined (likewise): what racecheck takes for races is read and written atomically */

#define MOET_BK 64
#define MOET_MATH_WARPS 4 /* of a warpgroup */
#define MOET_TICKETS_WORDS 7 /* struct moet_tickets without its mailbox; as in wgmma_gemm.c */
#define MOET_GROUP_THREADS 128
#define MOET_THREADS (3 * MOET_GROUP_THREADS)
#define MOET_MATH_GROUPS 2
#define MOET_TILE_GROUPS (MOET_PINGPONG ? 1 : MOET_MATH_GROUPS) /* that share a tile */
#define MOET_MI (MOET_BM / 64 / MOET_TILE_GROUPS)               /* m64 blocks of a warpgroup */
#define MOET_SUMS (MOET_BN / 2)                                 /* accumulators a thread of an m64 block */
#define MOET_TILE_ROWS (MOET_SWAP ? MOET_BN : MOET_BM)
#define MOET_TILE_COLS (MOET_SWAP ? MOET_BM : MOET_BN)

#ifndef MOET_ACT
#define MOET_ACT 0
#define MOET_PROB 0
#define MOET_FAST 0
#endif
#ifndef MOET_GATHER
#define MOET_GATHER 0
#endif
#ifndef MOET_SCATTER
#define MOET_SCATTER 0
#endif
#ifndef MOET_CHAIN
#define MOET_CHAIN 0
#define MOET_DOWN_BIAS 0
#endif
#define MOET_GATHER_WARPS 3 /* all of the copying warpgroup but the first */
enum { MOET_ACT_NONE, MOET_ACT_SWIGLU, MOET_ACT_SWIGLU_CLAMP, MOET_ACT_GPT_OSS };
#define MOET_OUT_COLS(act) ((act) ? MOET_TILE_COLS / 2 : MOET_TILE_COLS) /* of out, in a tile */

/* Registers a thread, by setmaxnreg: of warpgroup 0, of the others. The launch gives 168 to each of 384 threads, and
 * 24 + 2 * 240 and 40 + 2 * 232 are 3 * 168. TIGHT: the accumulators leave few. */
#define MOET_TIGHT (MOET_MI * MOET_SUMS > 176 && MOET_CLUSTER == 1)
#define MOET_COPY_REGISTERS (MOET_TIGHT ? 24 : 40)
#define MOET_MATH_REGISTERS (MOET_TIGHT ? 240 : 232)

/* A stage in shared memory: the operand of the M side, then that of the N side. K-major operands (x always, w if nk)
 * are rows of 64 K: 128 bytes. Weights of layout kn are blocks of 64 K by 64 columns: K rows of 128 bytes. Copies and
 * wgmma agree on the 128-byte swizzle: chunk of 16 bytes ^= row & 7, in lines of 128 bytes from an address that is a
 * multiple of 1024. */
#define MOET_LINE_BYTES 128
#define MOET_M_BYTES (MOET_BM * MOET_LINE_BYTES)
#define MOET_N_BYTES (MOET_BN * MOET_LINE_BYTES)
#define MOET_STAGE_BYTES (MOET_M_BYTES + MOET_N_BYTES)
#define MOET_BLOCK_BYTES (64 * MOET_LINE_BYTES) /* 64 rows, or a block of kn weights */
#define MOET_X_OFFSET (MOET_SWAP ? MOET_M_BYTES : 0)
#define MOET_W_OFFSET (MOET_SWAP ? 0 : MOET_M_BYTES)

/* Rows of x in one copy; the descriptor in wgmma_gemm.c encodes the same. Copies past the tile's rows are left out. */
#define MOET_X_BOX                                                                                                    \
    (MOET_TILE_ROWS <= 64       ? MOET_TILE_ROWS                                                                      \
     : MOET_TILE_ROWS % 64 == 0 ? 64                                                                                  \
     : MOET_TILE_ROWS % 48 == 0 ? 48                                                                                  \
     : MOET_TILE_ROWS % 32 == 0 ? 32                                                                                  \
                                : 16)

/* Columns of w in one copy, and such copies of a tile. nk: halves, for each rank of a cluster has to copy one and
 * because half a tile takes one. */
#define MOET_W_PIECE (MOET_KN ? 64 : MOET_TILE_COLS / 2)
#define MOET_W_PIECES (MOET_TILE_COLS / MOET_W_PIECE)
#define MOET_W_PIECE_BYTES (MOET_W_PIECE * MOET_LINE_BYTES)

/* Whether a tile can be cut in halves: by columns, swapped by rows (two CTAs could then differ in having any). */
#if MOET_SWAP
#define MOET_SPLIT (MOET_CLUSTER == 1 && MOET_BN >= 32)
#else
#define MOET_SPLIT (MOET_BN % 32 == 0 && (!MOET_KN || MOET_BN % (MOET_ACT ? 256 : 128) == 0))
#endif

/* wgmma's descriptors, in units of 16 bytes. Low half: bits 0..13 address (in a cluster, shared addresses have the rank
 * in higher ones), 16.. leading offset; high half: bits 0.. stride offset, 30 swizzle of 128 bytes. K-major: the stride
 * offset goes from 8 rows to the next 8, the leading one is not used. Otherwise (kn) the stride offset goes from 8 K to
 * the next 8 and the leading one from 64 columns to the next. */
#define MOET_DESCRIPTOR_HIGH (1u << 30 | 8 * MOET_LINE_BYTES / 16)
#define MOET_DESCRIPTOR_LOW(is_kn, address) ((is_kn ? MOET_BLOCK_BYTES / 16 : 1) << 16 | ((address) >> 4 & 0x3fff))
#define MOET_M_KN (MOET_KN && MOET_SWAP)
#define MOET_N_KN (MOET_KN && !MOET_SWAP)
/* From 16 K to the next 16, in units of 16 bytes. */
#define MOET_M_STEP (MOET_M_KN ? 16 * MOET_LINE_BYTES / 16 : 2)
#define MOET_N_STEP (MOET_N_KN ? 16 * MOET_LINE_BYTES / 16 : 2)

/* Shared memory after the stages: what a warpgroup stages of its output; the tile that begins in a stage; full, empty
 * and mail barriers of a stage, and one a math warpgroup for its turn; struct moet_shared; prefix sums. */
#define MOET_STORE_BYTES 8192 /* 64 lines */
#define MOET_STORE_OFFSET (MOET_STAGES * MOET_STAGE_BYTES)
#define MOET_SLOT_OFFSET (MOET_STORE_OFFSET + MOET_MATH_GROUPS * MOET_STORE_BYTES)
#define MOET_BARRIER_OFFSET (MOET_SLOT_OFFSET + 16 * MOET_STAGES)
/* Gathering: two tiles' slots, and two barriers of each; where a tile's rows begin. */
#define MOET_GATHER_OFFSET (MOET_BARRIER_OFFSET + 8 * (3 * MOET_STAGES + MOET_MATH_GROUPS))
#define MOET_GATHER_BYTES (2 * 8 + 4 * 8 + 8 * MOET_TILE_ROWS)
#define MOET_SHARED_OFFSET (MOET_GATHER_OFFSET + (MOET_GATHER ? MOET_GATHER_BYTES : 0))

#if MOET_BM % (64 * MOET_TILE_GROUPS) != 0 || MOET_BM > 256 || MOET_BN % 16 != 0 || MOET_BN < 16 || MOET_BN > 256 ||   \
    MOET_MI * MOET_SUMS > 208 || MOET_STAGES < 2 || (MOET_KN && MOET_TILE_COLS % 64 != 0) || MOET_CLUSTER < 1 ||       \
    MOET_CLUSTER > 2 || (MOET_ACT && !MOET_KN && MOET_TILE_COLS % 32 != 0) ||                                          \
    ((MOET_GATHER || MOET_CHAIN) && (MOET_CLUSTER != 1 || MOET_TIGHT)) || (MOET_CHAIN && !MOET_ACT) ||                 \
    (MOET_ACT && MOET_KN && (MOET_SWAP ? MOET_MI != 2 : MOET_BN % 128 != 0))
#error "no such tile"
#endif

#define MOET_MAX_EXPERTS 1024
#define MOET_MAX_ROWS (1 << 20)
struct moet_counts {
    int v[MOET_COUNTS];
};

/* CUtensorMap. */
struct __align__(128) moet_map {
    unsigned long long opaque[16];
};

/* ---- instructions ---- */

/* Address of shared memory as the instructions below take it. */
__device__ __forceinline__ unsigned moet_shared(const void *pointer)
{
    return (unsigned)__cvta_generic_to_shared(pointer);
}

#ifdef MOET_WATCHDOG
__device__ int moet_barked;

/* Once one wait has taken too long, all others end too: the launch ends, with wrong results. */
__device__ __noinline__ void moet_bark(unsigned barrier, unsigned phase)
{
    if (atomicAdd(&moet_barked, 1) < 256)
        printf("block %d thread %d waits for barrier %d (+ dynamic shared memory / 8), phase %u\n", blockIdx.x,
               threadIdx.x, ((int)(barrier & 0xffffff) - MOET_BARRIER_OFFSET) / 8, phase);
}
#endif

__device__ __forceinline__ void moet_barrier_init(unsigned barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Waits until the barrier's phase of this parity is complete; `scope` (text): whose writes before it are seen. */
#ifdef MOET_WATCHDOG
#define MOET_WAIT_BEGIN const long long begin = clock64();
#define MOET_WAIT_CHECK(barrier, phase)                                                                               \
    if (!done && (clock64() - begin > (1ll << 28) || *(volatile int *)&moet_barked)) {                                \
        moet_bark(barrier, phase);                                                                                    \
        break;                                                                                                        \
    }
#else
#define MOET_WAIT_BEGIN
#define MOET_WAIT_CHECK(barrier, phase)
#endif
#define MOET_WAIT_DEFINE(name, scope)                                                                                 \
    __device__ __forceinline__ void name(unsigned barrier, unsigned phase)                                            \
    {                                                                                                                 \
        MOET_WAIT_BEGIN                                                                                               \
        unsigned done;                                                                                                \
        do {                                                                                                          \
            asm volatile("{\n.reg .pred done;\n"                                                                      \
                         "mbarrier.try_wait.parity" scope ".shared::cta.b64 done, [%1], %2;\n"                        \
                         "selp.u32 %0, 1, 0, done;\n}"                                                                \
                         : "=r"(done)                                                                                 \
                         : "r"(barrier), "r"(phase)                                                                   \
                         : "memory");                                                                                 \
            MOET_WAIT_CHECK(barrier, phase)                                                                           \
        } while (!done);                                                                                              \
    }
MOET_WAIT_DEFINE(moet_barrier_wait, "")
MOET_WAIT_DEFINE(moet_barrier_wait_cluster, ".acquire.cluster")

__device__ __forceinline__ void moet_barrier_arrive(unsigned barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* So many arrivals at once. */
__device__ __forceinline__ void moet_barrier_arrive_many(unsigned barrier, int arrivals)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Arrives, and has the phase wait for this many bytes of copies too. */
__device__ __forceinline__ void moet_barrier_expect(unsigned barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/* True in one lane of a whole warp, always the same one. Copies want this: where the compiler only sees a comparison,
 * it makes their operands uniform lane by lane in a loop (and CUDA 13.0's then took one of them under a predicate that
 * was no longer set). */
__device__ __forceinline__ unsigned moet_elect(void)
{
    unsigned is_elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(is_elected));
    return is_elected;
}

/* ---- the launch before ---- */

/* Waits until it is done and its writes are seen, where this launch began under it; at once otherwise. */
__device__ __forceinline__ void moet_previous_wait(void) { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/* The next launch may take SMs that this one does not use or has left. */
__device__ __forceinline__ void moet_next_allow(void) { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

/* Written by the launch before, perhaps after this one began. */
__device__ __forceinline__ int moet_load_number(const int *from)
{
    int number;
    asm volatile("ld.global.s32 %0, [%1];" : "=r"(number) : "l"(from));
    return number;
}

/* ---- clusters ---- */

/* The address in the CTA of this rank that `address` is in the own one. */
__device__ __forceinline__ unsigned moet_at_rank(unsigned address, unsigned rank)
{
    unsigned there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

/* Says that reads are over: with the default scope, for a release to the whole cluster would wait for all of the warp's
 * memory operations at every K block (40 to 60 % of a launch's time). */
__device__ __forceinline__ void moet_barrier_arrive_at(unsigned barrier, unsigned rank)
{
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(moet_at_rank(barrier, rank)) : "memory");
}

/* Stores 4 bytes in the CTA of this rank; its barrier gets them as bytes of a copy. */
__device__ __forceinline__ void moet_mail(unsigned address, unsigned barrier, unsigned rank, int value)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.s32 [%0], %1, [%2];" ::"r"(
                     moet_at_rank(address, rank)),
                 "r"(value), "r"(moet_at_rank(barrier, rank))
                 : "memory");
}

/* All threads of all CTAs of the cluster. */
__device__ __forceinline__ void moet_cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/* ---- copies ---- */

/* Copies the box at (c0, c1[, c2]) of a map; elements out of the map's bounds arrive as zeros, and count. `to_all`:
 * to the same place in both CTAs of the cluster, and to both barriers. */
__device__ __forceinline__ void moet_copy_2d(unsigned to, const struct moet_map *map, unsigned barrier, int c0, int c1,
                                             int to_all)
{
    if (to_all)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c1), "h"((unsigned short)3)
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c1)
                     : "memory");
}

/* What L2 gives up first: high halves of the policies that createpolicy.fractional makes for all lines. */
#define MOET_L2_NORMAL 0x10000000u
#define MOET_L2_EVICT_FIRST 0x12f00000u

__device__ __forceinline__ void moet_copy_3d(unsigned to, const struct moet_map *map, unsigned barrier, int c0, int c1,
                                             int c2, int to_all, unsigned policy)
{
    if (to_all)
        asm volatile("{\n.reg .b64 policy;\nmov.b64 policy, {0, %7};\n"
                     "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, policy;\n}" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "h"((unsigned short)3), "r"(policy)
                     : "memory");
    else
        asm volatile("{\n.reg .b64 policy;\nmov.b64 policy, {0, %6};\n"
                     "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], policy;\n}" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(policy)
                     : "memory");
}

/* The same of a map of five dimensions, at 0 in the second and third. */
__device__ __forceinline__ void moet_copy_5d(unsigned to, const struct moet_map *map, unsigned barrier, int c0, int c3,
                                             int c4, int to_all, unsigned policy)
{
    if (to_all)
        asm volatile("{\n.reg .b64 policy;\nmov.b64 policy, {0, %7};\n"
                     "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %8, %8, %4, %5}], [%2], %6, policy;\n}" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c3), "r"(c4), "h"((unsigned short)3), "r"(policy), "r"(0)
                     : "memory");
    else
        asm volatile("{\n.reg .b64 policy;\nmov.b64 policy, {0, %6};\n"
                     "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1, {%3, %7, %7, %4, %5}], [%2], policy;\n}" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(c0), "r"(c3), "r"(c4), "r"(policy), "r"(0)
                     : "memory");
}

/* Writes 16 lines to the box of 16 rows by 64 columns at (column, row) of out; what is out of bounds is left out. */
__device__ __forceinline__ void moet_bulk_store(const struct moet_map *map, int column, int row, unsigned from)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(column), "r"(row), "r"(from)
                 : "memory");
}

/* The lines of the thread's bulk stores may be written again. */
__device__ __forceinline__ void moet_bulk_store_wait(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* What this thread wrote to shared memory is there for copies and bulk stores issued after the next barrier. */
__device__ __forceinline__ void moet_proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void moet_map_prefetch(const struct moet_map *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Four 8x8 matrices to shared memory; lanes 8i..8i+7 give the rows' addresses of matrix i. Lane l holds elements
 * 2(l%4), 2(l%4)+1 of row l/4; transposed, of column l/4. */
__device__ __forceinline__ void moet_store_4(unsigned to, const unsigned *v)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]),
                 "r"(v[2]), "r"(v[3])
                 : "memory");
}

__device__ __forceinline__ void moet_store_4_transposed(unsigned to, const unsigned *v)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

__device__ __forceinline__ void moet_write_16(unsigned to, int4 v)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

/* Atomic write and read of 4 bytes. */
__device__ __forceinline__ void moet_exchange(unsigned to, int value)
{
    int before;
    asm volatile("atom.shared.exch.b32 %0, [%1], %2;" : "=r"(before) : "r"(to), "r"(value) : "memory");
}

__device__ __forceinline__ int moet_look(unsigned from)
{
    int value;
    asm volatile("atom.shared.or.b32 %0, [%1], 0;" : "=r"(value) : "r"(from) : "memory");
    return value;
}

__device__ __forceinline__ uint4 moet_load_16(unsigned from)
{
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

/* Two floats to BF16, to nearest even; low goes to the lower half. */
__device__ __forceinline__ unsigned moet_pack(float low, float high)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float moet_widen(unsigned short bf16) { return __uint_as_float((unsigned)bf16 << 16); }

__device__ __forceinline__ unsigned long long moet_descriptor(unsigned low)
{
    return (unsigned long long)MOET_DESCRIPTOR_HIGH << 32 | low;
}

/* d[64, n] = a[64, 16] b[16, n] (+ d if `add`), n = 16 ... 256, asynchronously. MOET_R<n> names the n / 2 registers of
 * d in the text, MOET_D<n> lists them. */
#define MOET_R16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MOET_R32 MOET_R16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define MOET_R48 MOET_R32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define MOET_R64 MOET_R48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define MOET_R80 MOET_R64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define MOET_R96 MOET_R80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define MOET_R112 MOET_R96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define MOET_R128 MOET_R112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define MOET_R144 MOET_R128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define MOET_R160 MOET_R144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define MOET_R176 MOET_R160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define MOET_R192 MOET_R176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define MOET_R208 MOET_R192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define MOET_R224 MOET_R208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define MOET_R240 MOET_R224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define MOET_R256 MOET_R240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define MOET_D(i)                                                                                                     \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),       \
        "+f"(d[i + 7])
#define MOET_D16 MOET_D(0)
#define MOET_D32 MOET_D16, MOET_D(8)
#define MOET_D48 MOET_D32, MOET_D(16)
#define MOET_D64 MOET_D48, MOET_D(24)
#define MOET_D80 MOET_D64, MOET_D(32)
#define MOET_D96 MOET_D80, MOET_D(40)
#define MOET_D112 MOET_D96, MOET_D(48)
#define MOET_D128 MOET_D112, MOET_D(56)
#define MOET_D144 MOET_D128, MOET_D(64)
#define MOET_D160 MOET_D144, MOET_D(72)
#define MOET_D176 MOET_D160, MOET_D(80)
#define MOET_D192 MOET_D176, MOET_D(88)
#define MOET_D208 MOET_D192, MOET_D(96)
#define MOET_D224 MOET_D208, MOET_D(104)
#define MOET_D240 MOET_D224, MOET_D(112)
#define MOET_D256 MOET_D240, MOET_D(120)

/* Whether an operand is not K-major is part of the instruction. */
#if MOET_M_KN
#define MOET_MAJORS "1, 0"
#elif MOET_N_KN
#define MOET_MAJORS "0, 1"
#else
#define MOET_MAJORS "0, 0"
#endif
/* n, and the numbers of the operands after d */
#define MOET_WIDTHS(X)                                                                                                \
    X(16, 8, 9, 10) X(32, 16, 17, 18) X(48, 24, 25, 26) X(64, 32, 33, 34) X(80, 40, 41, 42) X(96, 48, 49, 50)         \
    X(112, 56, 57, 58) X(128, 64, 65, 66) X(144, 72, 73, 74) X(160, 80, 81, 82) X(176, 88, 89, 90)                    \
    X(192, 96, 97, 98) X(208, 104, 105, 106) X(224, 112, 113, 114) X(240, 120, 121, 122) X(256, 128, 129, 130)
#define MOET_MMA_DEFINE(n, a_operand, b_operand, add_operand)                                                         \
    __device__ __forceinline__ void moet_mma_##n(float *d, unsigned a, unsigned b, int add)                           \
    {                                                                                                                 \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #add_operand ", 0;\n"                                   \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" MOET_R##n "}, %" #a_operand         \
                     ", %" #b_operand ", add, 1, 1, " MOET_MAJORS ";\n}"                                              \
                     : MOET_D##n                                                                                      \
                     : "l"(moet_descriptor(a)), "l"(moet_descriptor(b)), "r"(add));                                   \
    }
MOET_WIDTHS(MOET_MMA_DEFINE)

/* a and b: low halves of descriptors. `width` is a constant at every call. */
__device__ __forceinline__ void moet_mma(int width, float *d, unsigned a, unsigned b, int add)
{
#define MOET_MMA_CASE(n, a_operand, b_operand, add_operand)                                                           \
    if (n <= MOET_BN && width == n) moet_mma_##n(d, a, b, add);
    MOET_WIDTHS(MOET_MMA_CASE)
}

/* Before the first wgmma that reads registers or shared memory touched since. */
__device__ __forceinline__ void moet_mma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void moet_mma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Wait for all groups; for all but the latest. */
__device__ __forceinline__ void moet_mma_wait(void) { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
__device__ __forceinline__ void moet_mma_wait_previous(void)
{
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}

/* Keeps the compiler from moving uses of the accumulators across this point. */
__device__ __forceinline__ void moet_mma_pin(int blocks, int width, float (*sums)[MOET_SUMS])
{
#pragma unroll
    for (int i = 0; i < blocks; i++)
#pragma unroll
        for (int j = 0; j < width / 2; j++) asm volatile("" : "+f"(sums[i][j])::"memory");
}
