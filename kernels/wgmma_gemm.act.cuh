/* wgmma_gemm.act.cuh: in front of wgmma_gemm.cu: the activation of a gate and an up (docs/ffn.md). With MOET_ACT, w's
 * columns are gates and ups of I columns of out, and a tile takes as many of either, so that both are in one thread:
 *
 *   nk           8 gates, then their 8 ups, and so on: a copy's box has a dimension for it
 *   kn           blocks of 64 columns: gates and ups in turn; swapped: all gates, then all ups, so that each warpgroup
 *                has one block of either
 *
 * at->col and job->n count such columns, twice those of out. */

#if MOET_ACT

#define MOET_INFINITY __int_as_float(0x7f800000)

/* n / d for d >= 1, correctly rounded, without the branch and the call of a division: Markstein's iteration, on a
 * quarter of either, which keeps the reciprocal normal. */
__device__ __forceinline__ float moet_quotient(float n, float d)
{
    float start;
    n *= 0.25f, d *= 0.25f;
    asm("rcp.approx.f32 %0, %1;" : "=f"(start) : "f"(d));
    const float r = __fmaf_rn(start, __fmaf_rn(-d, start, 1.0f), start);
    float q = __fmul_rn(n, r);
    q = __fmaf_rn(__fmaf_rn(-d, q, n), r, q);
    q = copysignf(__fmaf_rn(__fmaf_rn(-d, q, n), r, q), n); /* -0 / d would be +0 */
    /* A gate of -inf or NaN gives d inf or NaN. */
    if (MOET_ACT == MOET_ACT_GPT_OSS) return d < MOET_INFINITY ? q : n * start;
    return fabsf(n) < MOET_INFINITY && d < MOET_INFINITY ? q : n * start;
}

/* Of what the GEMM gives, rounded to BF16 as its output would be, and of a router weight. NaN passes the clamps. FAST:
 * not rounded before, and by the hardware's approximations, 2^-20 or so of the result. */
__device__ __forceinline__ float moet_activate(float gate, float up, float prob, float clamp)
{
    const unsigned pair = moet_pack(gate, up);
    float g = MOET_FAST ? gate : __uint_as_float(pair << 16), u = MOET_FAST ? up : __uint_as_float(pair & 0xffff0000u);
    float value;
    if (MOET_ACT != MOET_ACT_SWIGLU) {
        const float limit = MOET_ACT == MOET_ACT_GPT_OSS ? 7.0f : clamp;
        g = g > limit ? limit : g;
        u = u < -limit ? -limit : u > limit ? limit : u;
    }
    if (MOET_FAST) {
        const float scale = MOET_ACT == MOET_ACT_GPT_OSS ? 1.702f : 1.0f;
        value = __fdividef(g, 1.0f + __expf(-scale * g)) * (MOET_ACT == MOET_ACT_GPT_OSS ? u + 1.0f : u);
    } else if (MOET_ACT != MOET_ACT_GPT_OSS) {
        value = __fmul_rn(moet_quotient(g, __fadd_rn(1.0f, expf(-g))), u);
    } else {
        const float sigmoid = moet_quotient(1.0f, __fadd_rn(1.0f, expf(-__fmul_rn(1.702f, g))));
        value = __fmul_rn(__fmul_rn(g, sigmoid), __fadd_rn(u, 1.0f));
    }
    return MOET_PROB ? __fmul_rn(value, prob) : value;
}

#endif
