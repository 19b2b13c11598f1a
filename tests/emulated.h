/* emulated: what CUDA sources need to be compiled as C++ and run on the host (emulated.cpp). A thread of a grid is a
 * fiber; all fibers of a launch take turns on the thread that launches. Included before the text that
 * cmake/emulate.cmake writes, whose instructions are the ptx_ functions below: one that is missing is added here.
 *
 * Memory is sequentially consistent here, and a launch begins when the one before it has ended: that an order is asked
 * for where a GPU needs it is not tested. */
#ifndef MOET_EMULATED_H
#define MOET_EMULATED_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <type_traits>
#include <utility>

/* ---- the scheduler: emulated.cpp ---- */

struct emulated_index {
    unsigned x, y, z;
};

/* Of the thread that runs. */
extern emulated_index threadIdx, blockIdx, blockDim, gridDim;

enum emulated_op { /* of what a warp's or a block's threads bring */
                   EMULATED_MEET,
                   EMULATED_TAKE,   /* another lane's */
                   EMULATED_BALLOT, /* bits of lanes that bring nonzero */
                   EMULATED_COUNT,
                   EMULATED_ADD,
                   EMULATED_MIN,
                   EMULATED_MAX,
                   EMULATED_AND,
                   EMULATED_OR,
                   EMULATED_XOR,
};

/* Lanes of the mask meet; lanes that have ended are not waited for. from: the lane to take from, -1 none. */
uint64_t emulated_warp(emulated_op op, unsigned mask, uint64_t value, int from);
/* All threads of the block that have not ended meet. */
uint64_t emulated_block(emulated_op op, uint64_t value);
/* A step of a wait for other blocks or ranks. */
void emulated_spin(void);
/* Where other threads may come first: now and then they do. */
void emulated_pause(void);
/* This thread has waited for the launch before. */
void emulated_follows(void);

struct emulated_kernel {
    const char *name;
    int threads, blocks; /* its launch bounds; blocks of an SM */
    void (*run)(void **args);
};

/* Runs a grid to its end; so many blocks at once as `sms` hold. Errors of the kernel end the process. is_early: as
 * launches that may begin early must, all threads wait for the one before. */
void emulated_launch(const emulated_kernel *kernel, unsigned blocks, unsigned threads, int sms, bool is_early,
                     void **args);

/* Calls a kernel with what args point to. */
template <class... T, size_t... i>
void emulated_call(void (*kernel)(T...), void **args, std::integer_sequence<size_t, i...>)
{
    kernel(*(std::remove_const_t<T> *)args[i]...);
}
template <class... T> void emulated_call(void (*kernel)(T...), void **args)
{
    emulated_call(kernel, args, std::make_integer_sequence<size_t, sizeof...(T)>());
}

/* ---- words of the language ---- */

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
/* All blocks have it at the same place: what is in the section belongs to the block that runs. */
#define __shared__ static __attribute__((section("moet_shared")))

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

/* ---- warps and blocks ---- */

enum { warpSize = 32 };

template <class T> uint64_t emulated_bits(T value)
{
    uint64_t bits = 0;
    static_assert(sizeof value <= sizeof bits, "");
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> T emulated_take(unsigned mask, T value, int from)
{
    const uint64_t bits = emulated_warp(EMULATED_TAKE, mask, emulated_bits(value), from);
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline int emulated_lane(void) { return (int)(threadIdx.x % warpSize); }
/* A lane of the same part of the warp, or the own one. */
static inline int emulated_near(int lane, int width)
{
    return lane >= 0 && lane / width == emulated_lane() / width ? lane : emulated_lane();
}
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = warpSize)
{
    return emulated_take(mask, value, emulated_lane() / width * width + (from & (width - 1)));
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize)
{
    return emulated_take(mask, value, emulated_near(emulated_lane() - (int)by, width));
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize)
{
    return emulated_take(mask, value, emulated_near(emulated_lane() + (int)by, width));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = warpSize)
{
    return emulated_take(mask, value, emulated_near(emulated_lane() ^ with, width));
}

static inline void __syncwarp(unsigned mask = ~0u) { emulated_warp(EMULATED_MEET, mask, 0, -1); }
static inline unsigned __ballot_sync(unsigned mask, int is)
{
    return (unsigned)emulated_warp(EMULATED_BALLOT, mask, is != 0, -1);
}
static inline int __any_sync(unsigned mask, int is) { return (int)emulated_warp(EMULATED_OR, mask, is != 0, -1); }
static inline int __all_sync(unsigned mask, int is) { return (int)emulated_warp(EMULATED_AND, mask, is != 0, -1); }

/* Signed ones in an order that holds for unsigned ones. */
template <class T> T emulated_extreme(emulated_op op, unsigned mask, T value)
{
    const uint64_t flip = std::is_signed<T>::value ? (uint64_t)1 << 63 : 0;
    return (T)(emulated_warp(op, mask, (uint64_t)(int64_t)value ^ flip, -1) ^ flip);
}
template <class T> T __reduce_min_sync(unsigned mask, T value) { return emulated_extreme(EMULATED_MIN, mask, value); }
template <class T> T __reduce_max_sync(unsigned mask, T value) { return emulated_extreme(EMULATED_MAX, mask, value); }
template <class T> T __reduce_add_sync(unsigned mask, T value)
{
    return (T)emulated_warp(EMULATED_ADD, mask, (uint64_t)value, -1);
}
static inline unsigned __reduce_and_sync(unsigned mask, unsigned value)
{
    return (unsigned)emulated_warp(EMULATED_AND, mask, value, -1);
}
static inline unsigned __reduce_or_sync(unsigned mask, unsigned value)
{
    return (unsigned)emulated_warp(EMULATED_OR, mask, value, -1);
}
static inline unsigned __reduce_xor_sync(unsigned mask, unsigned value)
{
    return (unsigned)emulated_warp(EMULATED_XOR, mask, value, -1);
}

static inline void __syncthreads(void) { emulated_block(EMULATED_MEET, 0); }
static inline int __syncthreads_or(int is) { return (int)emulated_block(EMULATED_OR, is != 0); }
static inline int __syncthreads_and(int is) { return (int)emulated_block(EMULATED_AND, is != 0); }
static inline int __syncthreads_count(int is) { return (int)emulated_block(EMULATED_COUNT, is != 0); }

/* ---- memory ---- */

static inline void __threadfence_system(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    emulated_pause();
}
static inline void __threadfence(void) { __threadfence_system(); }
static inline void __threadfence_block(void) { __threadfence_system(); }
static inline void __nanosleep(unsigned) { emulated_spin(); }

/* Other threads may come before it, and after it. */
#define EMULATED_ATOMIC(name, expression)                                                                              \
    template <class T> T name(T *to, std::common_type_t<T> value)                                                      \
    {                                                                                                                  \
        emulated_pause();                                                                                              \
        const T old = expression;                                                                                      \
        emulated_pause();                                                                                              \
        return old;                                                                                                    \
    }
EMULATED_ATOMIC(atomicAdd, __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST))
EMULATED_ATOMIC(atomicSub, __atomic_fetch_sub(to, value, __ATOMIC_SEQ_CST))
EMULATED_ATOMIC(atomicAnd, __atomic_fetch_and(to, value, __ATOMIC_SEQ_CST))
EMULATED_ATOMIC(atomicOr, __atomic_fetch_or(to, value, __ATOMIC_SEQ_CST))
EMULATED_ATOMIC(atomicXor, __atomic_fetch_xor(to, value, __ATOMIC_SEQ_CST))
EMULATED_ATOMIC(atomicExch, __atomic_exchange_n(to, value, __ATOMIC_SEQ_CST))
template <class T> T atomicCAS(T *to, std::common_type_t<T> expected, std::common_type_t<T> value)
{
    emulated_pause();
    __atomic_compare_exchange_n(to, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    emulated_pause();
    return expected;
}
template <class T> T emulated_swap(T *to, T value, bool (*is_better)(T, T))
{
    emulated_pause();
    T old = __atomic_load_n(to, __ATOMIC_SEQ_CST);
    while (is_better(value, old) &&
           !__atomic_compare_exchange_n(to, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    emulated_pause();
    return old;
}
template <class T> T atomicMax(T *to, std::common_type_t<T> value)
{
    return emulated_swap<T>(to, value, [](T a, T b) { return a > b; });
}
template <class T> T atomicMin(T *to, std::common_type_t<T> value)
{
    return emulated_swap<T>(to, value, [](T a, T b) { return a < b; });
}
template <class T> T __ldg(const T *from) { return *from; }
template <class T> T __ldcg(const T *from) { return *from; }
template <class T> T __ldcv(const T *from) { return *(const volatile T *)from; }

/* ---- numbers ---- */

template <class A, class B> std::common_type_t<A, B> min(A a, B b)
{
    const std::common_type_t<A, B> left = a, right = b;
    return right < left ? right : left;
}
template <class A, class B> std::common_type_t<A, B> max(A a, B b)
{
    const std::common_type_t<A, B> left = a, right = b;
    return right > left ? right : left;
}
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline int __clz(int value) { return value ? __builtin_clz((unsigned)value) : 32; }
static inline int __clzll(long long value) { return value ? __builtin_clzll((unsigned long long)value) : 64; }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __ffsll(long long value) { return __builtin_ffsll(value); }
static inline float __uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
static inline unsigned __float_as_uint(float value) { return (unsigned)emulated_bits(value); }
static inline int __float_as_int(float value) { return (int)__float_as_uint(value); }

/* To nearest, ties to even. */
static inline unsigned emulated_bf16(float value)
{
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* ---- instructions: outputs, then inputs ---- */

static inline void ptx_griddepcontrol_launch_dependents(void) {}
static inline void ptx_griddepcontrol_wait(void) { emulated_follows(); }

static inline void ptx_cvt_rn_bf16x2_f32(unsigned &pair, float high, float low)
{
    pair = emulated_bf16(high) << 16 | emulated_bf16(low);
}

template <class T> void ptx_mov_u64_globaltimer(T &ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    ns = (T)now.tv_sec * 1000000000 + (T)now.tv_nsec;
    emulated_pause();
}

/* Loads that a wait repeats, and what they wait for. */
#define EMULATED_LOAD(name, type)                                                                                      \
    template <class T> void ptx_ld_##name(T &value, const void *from)                                                  \
    {                                                                                                                  \
        emulated_spin();                                                                                               \
        value = (T)__atomic_load_n((const type *)from, __ATOMIC_SEQ_CST);                                              \
    }
#define EMULATED_STORE(name, type)                                                                                     \
    template <class T> void ptx_st_##name(void *to, T value)                                                           \
    {                                                                                                                  \
        emulated_pause();                                                                                              \
        __atomic_store_n((type *)to, (type)value, __ATOMIC_SEQ_CST);                                                   \
        emulated_pause();                                                                                              \
    }
#define EMULATED_WORD(scope, kind, type)                                                                               \
    EMULATED_LOAD(acquire_##scope##_global_##kind, type)                                                               \
    EMULATED_LOAD(relaxed_##scope##_global_##kind, type)                                                               \
    EMULATED_STORE(release_##scope##_global_##kind, type)                                                              \
    EMULATED_STORE(relaxed_##scope##_global_##kind, type)
EMULATED_WORD(sys, u32, uint32_t)
EMULATED_WORD(sys, u64, uint64_t)
EMULATED_WORD(gpu, u32, uint32_t)
EMULATED_WORD(gpu, u64, uint64_t)

static inline void ptx_ld_global_L1_no_allocate_v4_u32(unsigned &x, unsigned &y, unsigned &z, unsigned &w,
                                                       const void *from)
{
    const uint4 value = *(const uint4 *)from;
    x = value.x, y = value.y, z = value.z, w = value.w;
}

#endif
