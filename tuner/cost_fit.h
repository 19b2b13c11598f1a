/* cost_fit: a device's rates as kernels reach them (moet_device_rates), fitted to measured times: what families
 * estimate by before a candidate is timed. */
#ifndef MOET_COST_FIT_H
#define MOET_COST_FIT_H

#include "../bench/bench.h"

/* Something that was measured. */
typedef struct moet_cost_point {
    moet_problem problem;
    int32_t *counts; /* [problem.experts] */
    int64_t tokens;
    moet_config config; /* of a family with estimate_ns */
    double time_ns;
} moet_cost_point;

/* What to begin with: the ceilings that were measured (zeros: a guess for such devices), and for the rest an H100's
 * rates at this number of SMs, or a processor's. */
moet_device_rates moet_cost_guess(const moet_device_info *device, const moet_ceilings *ceilings);

/* Least squares of ln(estimate / time), by Levenberg and Marquardt's method over ln of the rates. What the
 * points do not tell stays as guessed: a rate that is off its guess by a factor f costs as much as a point that is off
 * by f^MOET_COST_TRUST. *error (may
 * be NULL): root mean square of ln(estimate / time) after it. INVALID without points. */
#define MOET_COST_TRUST 0.1
moet_status moet_cost_fit(const moet_device_info *device, const moet_cost_point *points, int32_t count,
                          const moet_device_rates *guess, moet_device_rates *rates, double *error);

#endif
