/* host_tile_isa: the inner loops of host_tile for one instruction set. host_tile_kernel.c includes it once for each,
 * with these macros:
 *   ISA(name)   name with the set's suffix          TARGET   function attribute that enables the set
 *   VEC, LANES  its vector of floats                LOAD(p) STORE(p, v) ZERO() SPLAT(f)
 *   FMA(a, b, c)   a * b + c
 *
 * An output element is one chain over ascending k, from zero, whatever the tile, the block or the vector. A product of
 * two BF16 is exact in fp32 as long as it neither overflows nor underflows, so a set without fused multiply-add gives
 * the same bits too: they are the same for every configuration on every processor. */

/* c[mr][nr] (+)= a[mr][kc] * b[kc][nr]. MR and NR are constants where this is inlined, and acc lives in registers. */
static inline __attribute__((always_inline)) TARGET void ISA(micro)(const int MR, const int NR, int32_t kc,
                                                                    const float *a, size_t lda, const float *b,
                                                                    float *c, size_t ldc, bool first)
{
    VEC acc[12][64 / LANES];
    const int vectors = NR / LANES;
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) acc[i][j] = first ? ZERO() : LOAD(c + (size_t)i * ldc + (size_t)(j * LANES));
    }
    for (int32_t k = 0; k < kc; k++) {
        VEC row[64 / LANES];
        UNROLL
        for (int j = 0; j < vectors; j++) row[j] = LOAD(b + j * LANES);
        UNROLL
        for (int i = 0; i < MR; i++) {
            VEC x = SPLAT(a[(size_t)i * lda + (size_t)k]);
            UNROLL
            for (int j = 0; j < vectors; j++) acc[i][j] = FMA(x, row[j], acc[i][j]);
        }
        b += NR;
    }
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) STORE(c + (size_t)i * ldc + (size_t)(j * LANES), acc[i][j]);
    }
}

#define MICRO(MR, NR)                                                                                                  \
    static TARGET void ISA(micro_##MR##x##NR)(int32_t kc, const float *a, size_t lda, const float *b, float *c,        \
                                              size_t ldc, bool first)                                                  \
    {                                                                                                                  \
        ISA(micro)(MR, NR, kc, a, lda, b, c, ldc, first);                                                              \
    }
TILES(MICRO)
#undef MICRO

/* Eight rows of w (nk) become eight columns of a block: pairs of BF16 travel as words, so that one transposition of
 * 8 x 8 words moves 8 x 16 elements, and a shift or a mask widens each half. */
static TARGET void ISA(pack_nk)(const uint16_t *w, size_t ldw, int32_t kc, float *to, size_t ldt)
{
    int32_t k = 0;
    for (; k + 16 <= kc; k += 16) {
        words r[8], s[8], t[8];
        for (int i = 0; i < 8; i++) memcpy(&r[i], w + (size_t)i * ldw + (size_t)k, sizeof r[i]);
        for (int i = 0; i < 4; i++) {
            s[2 * i] = SHUFFLE(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
            s[2 * i + 1] = SHUFFLE(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
        }
        for (int i = 0; i < 8; i += 4) {
            t[i] = SHUFFLE(s[i], s[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            t[i + 1] = SHUFFLE(s[i], s[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            t[i + 2] = SHUFFLE(s[i + 1], s[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
            t[i + 3] = SHUFFLE(s[i + 1], s[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
        }
        for (int i = 0; i < 4; i++) {
            words low = SHUFFLE(t[i], t[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
            words high = SHUFFLE(t[i], t[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
            float *even = to + (size_t)(k + 2 * i) * ldt, *far = even + 8 * ldt;
            words parts[4] = {FIRST_OF_PAIR(low), SECOND_OF_PAIR(low), FIRST_OF_PAIR(high), SECOND_OF_PAIR(high)};
            memcpy(even, &parts[0], sizeof parts[0]);
            memcpy(even + ldt, &parts[1], sizeof parts[1]);
            memcpy(far, &parts[2], sizeof parts[2]);
            memcpy(far + ldt, &parts[3], sizeof parts[3]);
        }
    }
    for (; k < kc; k++) {
        for (int i = 0; i < 8; i++) to[(size_t)k * ldt + (size_t)i] = moet_host_widen(w[(size_t)i * ldw + (size_t)k]);
    }
}

/* Rows of w (kn) into all strips of a block at once: each is read in one go. columns is a multiple of 8. */
static TARGET void ISA(pack_kn)(const uint16_t *w, size_t ldw, int32_t kc, size_t columns, size_t nr, float *to)
{
    for (size_t k = 0; k < (size_t)kc; k++) {
        for (size_t first = 0; first < columns; first += nr) {
            const uint16_t *from = w + k * ldw + first;
            float *strip = to + first * (size_t)kc + k * nr;
            size_t count = columns - first < nr ? columns - first : nr;
            for (size_t j = 0; j < count; j += 8) {
                for (size_t i = 0; i < 8; i++) strip[j + i] = moet_host_widen(from[j + i]);
            }
        }
    }
}

static TARGET void ISA(widen)(float *to, const uint16_t *from, int32_t count) { moet_host_widen_row(to, from, count); }

/* bias may be NULL. */
static TARGET void ISA(finish)(uint16_t *to, const float *from, const uint16_t *bias, int32_t count)
{
    if (bias) {
        for (int32_t i = 0; i < count; i++) to[i] = moet_host_narrow(from[i] + moet_host_widen(bias[i]));
    } else {
        for (int32_t i = 0; i < count; i++) to[i] = moet_host_narrow(from[i]);
    }
}

#undef ISA
#undef TARGET
#undef VEC
#undef LANES
#undef LOAD
#undef STORE
#undef ZERO
#undef SPLAT
#undef FMA
