#include "bench.h"

/* The value that would be at `index` after sorting. Quadratic: a subject has tens of samples, and without a copy there
 * is nothing to fail. */
static int64_t value_at(const int64_t *values, int32_t n, int32_t index)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t less = 0, equal = 0;
        for (int32_t j = 0; j < n; j++) {
            less += values[j] < values[i];
            equal += values[j] == values[i];
        }
        if (less <= index && index < less + equal) return values[i];
    }
    return 0;
}

static int64_t quartile(const int64_t *values, int32_t n, int32_t i)
{
    return value_at(values, n, (int32_t)((int64_t)n * i / 4));
}

int64_t moet_stats_median(const int64_t *values, int32_t n) { return quartile(values, n, 2); }

int64_t moet_stats_iqr(const int64_t *values, int32_t n) { return quartile(values, n, 3) - quartile(values, n, 1); }

bool moet_stats_is_settled(const double *noise, int32_t n, double asked)
{
    enum { BACK = 4 };
    if (n > 0 && noise[n - 1] <= asked) return true;
    return n > BACK && noise[n - 1] > 0.95 * noise[n - 1 - BACK];
}
