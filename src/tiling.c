/* The model of kernels/tile_cost.c with less arithmetic: SMs that are busy equally long are one group, and a polynomial
 * stands for the norm that joins what goes on at the same time. */
#include "tiling.h"

/* floor(x / d) for 0 <= x < 2^21 and 0 < d < 2^10 is x * inverse >> 40: the inverse is less than 1 above 2^40 / d, and
 * x times that less than 2^40 / d. */
static uint64_t inverse_of(int32_t d) { return (1ULL << 40) / (uint64_t)d + 1; }
static int32_t divide(int32_t x, uint64_t inverse) { return (int32_t)((uint64_t)x * inverse >> 40); }

/* (a^6 + b^6)^(1/6): for the larger 1 and the smaller r, 1 + 0.1225 r^6 within 0.3 %. */
static double joined(double a, double b)
{
    const double most = a > b ? a : b, r = (a > b ? b : a) / most, cube = r * r * r;
    return most + most * 0.1225 * cube * cube;
}

/* Slots that are busy until the same moment, the first free ones first. Each kind of tile adds at most one group. */
typedef struct slots {
    int32_t count;
    struct {
        double until, slots;
    } groups[MOET_MAX_TILE_STEPS + 1];
} slots;

/* `count` of the first group's slots are busy for `seconds` more. */
static void occupy(slots *s, double count, double seconds)
{
    const double until = s->groups[0].until + seconds;
    int32_t at = s->count;
    if (count < s->groups[0].slots) {
        s->groups[0].slots -= count;
        s->count++;
    } else {
        for (int32_t i = 1; i < s->count; i++) s->groups[i - 1] = s->groups[i];
        at--;
    }
    for (; at > 0 && s->groups[at - 1].until > until; at--) s->groups[at] = s->groups[at - 1];
    s->groups[at].until = until;
    s->groups[at].slots = count;
}

/* When the last tile ends. Tiles go to the slot that is free first, the longest first. counts[i]: tiles of i + 1 steps
 * in a column. */
static double makespan(const moet_tiling *t, const int32_t *counts)
{
    slots s = {.count = 1, .groups = {{0, t->slots}}};
    double all = 0, longest = 0;
    for (int32_t i = t->rows / t->row_step - 1; i >= 0; i--) {
        if (counts[i] == 0) continue;
        const double seconds = t->seconds[i];
        double left = counts[i] * t->column_tiles;
        all += left * seconds / t->slots;
        if (longest == 0) longest = seconds;
        while (left > 0) {
            const double low = s.groups[0].until, high = s.groups[s.count - 1].until;
            if (left >= t->slots && high - low <= seconds) { /* a whole wave, or more */
                const double waves = (double)(int64_t)(left / t->slots);
                for (int32_t g = 0; g < s.count; g++) s.groups[g].until += waves * seconds;
                left -= waves * t->slots;
                continue;
            }
            const double count = left < s.groups[0].slots ? left : s.groups[0].slots;
            occupy(&s, count, seconds);
            left -= count;
        }
    }
    const double last = s.groups[s.count - 1].until;
    if (!t->splits_last) return last;
    const double waves = all / longest, whole = (double)(int64_t)waves, halved = (whole + 0.5) * longest;
    return waves > whole && waves <= whole + 0.5 && halved < last ? halved : last;
}

double moet_tiling_seconds(const moet_tiling *t, const int32_t *counts, int32_t experts)
{
    const uint64_t by_rows = inverse_of(t->rows), by_step = inverse_of(t->row_step);
    const uint64_t by_band = t->band_tiles > 0 ? inverse_of(t->band_tiles) : 0;
    const double share = t->column_tiles / t->slots;
    int32_t tiles[MOET_MAX_TILE_STEPS] = {0};
    double busy = 0, together = 0;
    for (int32_t e = 0; e < experts; e++) {
        const int32_t rows = counts[e];
        if (rows <= 0) continue;
        const int32_t row_tiles = divide(rows + t->rows - 1, by_rows);
        int32_t height = t->rows, full = row_tiles - (row_tiles * height != rows);
        if (t->is_even) {
            const int32_t even = (int32_t)((uint32_t)(rows + row_tiles - 1) / (uint32_t)row_tiles);
            height = divide(even + t->row_step - 1, by_step) * t->row_step;
            full = (int32_t)((uint32_t)rows / (uint32_t)height);
        }
        const int32_t rest = rows - full * height;
        double own = 0;
        if (full > 0) {
            const int32_t kind = divide(height, by_step) - 1;
            tiles[kind] += full;
            own += full * t->seconds[kind];
        }
        if (rest > 0) {
            const int32_t kind = divide(rest - 1, by_step);
            tiles[kind]++;
            own += t->seconds[kind];
        }
        own *= share;
        const int32_t bands = by_band ? divide(row_tiles + t->band_tiles - 1, by_band) : 1;
        const double x = rows * t->x_seconds * (rows > t->x_rows * bands ? t->x_reads : 1);
        const int32_t readers = row_tiles < MOET_MOST_READERS ? row_tiles : MOET_MOST_READERS;
        busy += own;
        together += joined(own, bands * t->weight_seconds[readers - 1] + x + rows * t->out_seconds);
    }
    if (busy <= 0) return t->launch_seconds;
    if (t->is_followed) return together + t->launch_seconds;
    const double idle = makespan(t, tiles) - busy, math_part = busy / together;
    return together + (idle > 0 ? idle * math_part * math_part : 0) + t->launch_seconds;
}
