/* wgmma_gemm.act.cuh: in front of wgmma_gemm.cu: the activation of a gate and an up (docs/ffn.md). With MOET_ACT, w's
 * columns are gates and ups of I columns of out, and a tile takes as many of either, so that both are in one thread:
 *
 *   nk           8 gates, then their 8 ups, and so on: a copy's box has a dimension for it
 *   kn           blocks of 64 columns: gates and ups in turn; swapped: all gates, then all ups, so that each warpgroup
 *                has one block of either
 *
 * at->col and job->n count such columns, twice those of out. */

#if MOET_ACT

/* d = (1 + expf(x)) / 4 with the bits of expf and of the sum: CUDA's expf (2^j times the power of a fraction) but for the
 * quarter, which goes into 2^j and keeps the reciprocal of d normal. x from -87 to 89, not included; NaN stays. */
__device__ __forceinline__ float moet_quarter_sum(float x)
{
    float power;
    const float j = __fmaf_rd(__saturatef(__fmaf_rn(x, 0x1.77313ap-8f, 0.5f)), 252.0f, 12582913.0f);
    const float fraction = __fmaf_rn(x, 0x1.4ae0c0p-26f, __fmaf_rn(x, 0x1.715476p0f, -__fadd_rn(j, -12583039.0f)));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fraction));
    return __fmaf_rn(power, __int_as_float((__float_as_int(j) << 23) - (2 << 23)), 0.25f);
}

/* n / d, both a quarter of theirs. Of a n that is 1 or a BF16 and its own d one correction gives the correctly rounded
 * quotient for every BF16 (tests/test_act.c); what a clamp puts in its place may be any float, and gets Markstein's
 * whole iteration. The remainder's sign is such that a quotient of -0 stays. */
__device__ __forceinline__ float moet_quotient(float n, float d)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    if (MOET_ACT == MOET_ACT_SWIGLU_CLAMP) r = __fmaf_rn(r, __fmaf_rn(-d, r, 1.0f), r);
    float q = __fmul_rn(n, r);
    if (MOET_ACT == MOET_ACT_SWIGLU_CLAMP) q = __fmaf_rn(-__fmaf_rn(d, q, -n), r, q);
    return __fmaf_rn(-__fmaf_rn(d, q, -n), r, q);
}

/* g / (1 + expf(-g)). From 87 on that is g; from -89 down, where expf is infinite, -0; of -infinity it is NaN. */
__device__ __forceinline__ float moet_silu(float g)
{
    const float q = moet_quotient(__fmul_rn(g, 0.25f), moet_quarter_sum(-g));
    return fabsf(__fadd_rn(g, 1.0f)) < 88.0f ? q : __fmul_rn(g, __saturatef(g));
}

/* 1 / (1 + expf(-x)), for x up to 12; 0 where expf is infinite. */
__device__ __forceinline__ float moet_sigmoid(float x)
{
    const float q = moet_quotient(0.25f, moet_quarter_sum(-x));
    return x < -0x1.62e43p6f ? 0.0f : q;
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
        value = __fmul_rn(moet_silu(g), u);
    } else {
        value = __fmul_rn(__fmul_rn(g, moet_sigmoid(__fmul_rn(1.702f, g))), __fadd_rn(u, 1.0f));
    }
    return MOET_PROB ? __fmul_rn(value, prob) : value;
}

#endif
