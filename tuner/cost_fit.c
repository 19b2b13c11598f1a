/* cost_fit.c: see cost_fit.h. */
#include "cost_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RATES = MOET_RATE_COUNT, MOST_STEPS = 60 };

moet_device_rates moet_cost_guess(const moet_device_info *device, const moet_ceilings *ceilings)
{
    const double sms = device->sm_count > 0 ? device->sm_count : 1, h100_clock = 1.6e9;
    moet_device_rates guess;
    if (strcmp(device->backend, "host") == 0) {
        guess = (moet_device_rates){{[MOET_RATE_TENSOR] = 40e9 * sms,
                                     [MOET_RATE_L2] = 60e9 * sms,
                                     [MOET_RATE_HBM] = 20e9,
                                     [MOET_RATE_STORE] = 10e9 * sms,
                                     [MOET_RATE_LAUNCH] = 1e5}};
    } else {
        /* docs/wgmma.md, "Model": 46.6 B/clk from L2, a tile of 128x256 stored in 600 to 1000 clk, 3 us a launch. */
        guess = (moet_device_rates){{[MOET_RATE_TENSOR] = 4096 * h100_clock * sms,
                                     [MOET_RATE_L2] = 46.6 * h100_clock * sms,
                                     [MOET_RATE_HBM] = 3e12,
                                     [MOET_RATE_STORE] = 82 * h100_clock * sms,
                                     [MOET_RATE_LAUNCH] = 1 / 3e-6}};
    }
    if (ceilings->dense_flops_per_s > 0) guess.rate[MOET_RATE_TENSOR] = ceilings->dense_flops_per_s;
    const double hbm = fmax(ceilings->copy_bytes_per_s, ceilings->read_bytes_per_s);
    if (hbm > 0) guess.rate[MOET_RATE_HBM] = hbm;
    return guess;
}

/* ---- least squares ---- */

typedef struct fit {
    const moet_device_info *device;
    const moet_cost_point *points;
    int32_t count;
    double prior[RATES]; /* ln */
} fit;

static double residual(const fit *f, int32_t point, const double logs[RATES])
{
    const moet_cost_point *p = &f->points[point];
    moet_device_rates rates;
    for (int32_t i = 0; i < RATES; i++) rates.rate[i] = exp(logs[i]);
    return log(p->config.family->estimate_ns(&p->problem, p->counts, p->tokens, &p->config, f->device, &rates) /
               p->time_ns);
}

static double prior_residual(const fit *f, int32_t rate, const double logs[RATES])
{
    return MOET_COST_TRUST * (logs[rate] - f->prior[rate]);
}

static double squares(const fit *f, const double logs[RATES])
{
    double sum = 0;
    for (int32_t i = 0; i < f->count; i++) sum += pow(residual(f, i, logs), 2);
    for (int32_t i = 0; i < RATES; i++) sum += pow(prior_residual(f, i, logs), 2);
    return sum;
}

/* a x = b by Gauss's elimination; a is symmetric and positive definite. */
static void solve(double a[RATES][RATES], double b[RATES], double x[RATES])
{
    for (int32_t i = 0; i < RATES; i++) {
        for (int32_t j = i + 1; j < RATES; j++) {
            const double factor = a[j][i] / a[i][i];
            for (int32_t k = i; k < RATES; k++) a[j][k] -= factor * a[i][k];
            b[j] -= factor * b[i];
        }
    }
    for (int32_t i = RATES - 1; i >= 0; i--) {
        x[i] = b[i];
        for (int32_t k = i + 1; k < RATES; k++) x[i] -= a[i][k] * x[k];
        x[i] /= a[i][i];
    }
}

/* Normal equations J'J and J'r, slopes by differences. */
static void make_normal(const fit *f, const double logs[RATES], double a[RATES][RATES], double b[RATES])
{
    const double step = 1e-3;
    memset(a, 0, RATES * sizeof a[0]);
    memset(b, 0, RATES * sizeof b[0]);
    for (int32_t p = 0; p < f->count; p++) {
        const double own = residual(f, p, logs);
        double slopes[RATES];
        for (int32_t i = 0; i < RATES; i++) {
            double moved[RATES];
            memcpy(moved, logs, sizeof moved);
            moved[i] += step;
            slopes[i] = (residual(f, p, moved) - own) / step;
        }
        for (int32_t i = 0; i < RATES; i++) {
            b[i] -= slopes[i] * own;
            for (int32_t j = 0; j < RATES; j++) a[i][j] += slopes[i] * slopes[j];
        }
    }
    for (int32_t i = 0; i < RATES; i++) {
        b[i] -= MOET_COST_TRUST * prior_residual(f, i, logs);
        a[i][i] += MOET_COST_TRUST * MOET_COST_TRUST;
    }
}

moet_status moet_cost_fit(const moet_device_info *device, const moet_cost_point *points, int32_t count,
                          const moet_device_rates *guess, moet_device_rates *rates, double *error)
{
    if (count <= 0) return moet_fail(MOET_INVALID, "cost model: no measured times to fit it to");
    fit f = {.device = device, .points = points, .count = count};
    double logs[RATES], a[RATES][RATES], b[RATES], damping = 1e-2;
    for (int32_t i = 0; i < RATES; i++) logs[i] = f.prior[i] = log(guess->rate[i]);
    double best = squares(&f, logs);
    for (int32_t step = 0; step < MOST_STEPS; step++) {
        double change[RATES], tried[RATES];
        make_normal(&f, logs, a, b);
        for (int32_t i = 0; i < RATES; i++) a[i][i] *= 1 + damping;
        solve(a, b, change);
        for (int32_t i = 0; i < RATES; i++) tried[i] = logs[i] + fmax(-1, fmin(1, change[i]));
        const double sum = squares(&f, tried);
        if (sum < best) {
            const double gain = (best - sum) / best;
            memcpy(logs, tried, sizeof logs);
            best = sum;
            damping = fmax(damping / 4, 1e-9);
            if (gain < 1e-7) break;
        } else {
            damping *= 8;
            if (damping > 1e8) break;
        }
    }
    for (int32_t i = 0; i < RATES; i++) rates->rate[i] = exp(logs[i]);
    if (error) {
        double sum = 0;
        for (int32_t i = 0; i < count; i++) sum += pow(residual(&f, i, logs), 2);
        *error = sqrt(sum / count);
    }
    return MOET_OK;
}
