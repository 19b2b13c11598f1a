/* random: numbers that are the same on every machine. */
#ifndef MOET_RANDOM_H
#define MOET_RANDOM_H

#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t moet_random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, bound), without bias: draws from the incomplete last block are repeated. */
static inline uint64_t moet_random_below(uint64_t *state, uint64_t bound)
{
    uint64_t excess = (UINT64_MAX - bound + 1) % bound; /* 2^64 mod bound */
    uint64_t value;
    do {
        value = moet_random_next(state);
    } while (value > UINT64_MAX - excess);
    return value % bound;
}

/* Uniform in (0, 1), of 53 bits. */
static inline double moet_random_uniform(uint64_t *state)
{
    return ((double)(moet_random_next(state) >> 11) + 0.5) * 0x1p-53;
}

#endif
