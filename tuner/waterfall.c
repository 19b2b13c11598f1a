/* waterfall.c: see waterfall.h. */
#include "waterfall.h"

#include <math.h>
#include <string.h>

#define NS 1e9

static const char *const part_texts[] = {
#define MOET_X(name, text) text,
    MOET_WATERFALL_TABLE(MOET_X)
#undef MOET_X
};
const char *moet_waterfall_text(moet_waterfall_part part) { return part_texts[part]; }

/* What tiles add to the floor. Whatever goes on at the same time takes as long as the longest of it: each part is what
 * the longest grows by when one thing more is looked at. */
static moet_status explain(const moet_waterfall_point *p, const moet_ceilings *ceilings, const moet_device_rates *rates,
                           double parts_ns[MOET_WATERFALL_PART_COUNT])
{
    const moet_tile_shape *shape = p->shape;
    const double n = moet_problem_n(p->problem), k = moet_problem_k(p->problem);
    const double hbm_rate = fmax(ceilings->copy_bytes_per_s, ceilings->read_bytes_per_s);
    moet_schedule schedule;
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(p->counts, p->problem->experts, &routing));
    MOET_TRY(moet_schedule_of(p->problem, p->counts, shape, p->sm_count, &schedule));
    if (schedule.tiles == 0) {
        return MOET_OK;
    }
    const double rows = (double)routing.rows, busy = 1 - schedule.tail_share; /* of the SMs' time */
    const double hbm = NS * moet_problem_bytes(p->problem, &routing) / hbm_rate;
    const double math = NS * moet_problem_flops(p->problem, &routing) / ceilings->dense_flops_per_s;
    const double padded = math / (1 - schedule.padding_share), waiting = padded / busy;
    parts_ns[MOET_WATERFALL_PADDING] = fmax(padded, hbm) - fmax(math, hbm);
    parts_ns[MOET_WATERFALL_TAIL] = fmax(waiting, hbm) - fmax(padded, hbm);

    /* Beside tiles that wait for copies and stores the tensor pipe has the rate that such tiles reach: where that is
     * below the dense ceiling, the difference hides them, and is itself not explained. */
    const double elements = rows * n / (1 - schedule.padding_share); /* that tiles compute */
    const double tensor = NS * 2 * elements * k / (rates->rate[MOET_RATE_TENSOR] * shape->tensor_fraction) / busy;
    const double hidden = fmax(fmax(waiting, tensor), hbm);
    /* A tile loads its rows of x and its columns of w; beyond each operand once that is again. */
    const double byte_ns = NS * k * shape->element_bytes / rates->rate[MOET_RATE_L2] / busy; /* of a row or column */
    const double loads =
        elements / shape->cols / shape->x_shared + (double)schedule.tiles * shape->cols / shape->w_shared;
    const double again = fmax(0, loads - rows - routing.active * n);
    const double l2 = fmin(fmax(0, loads * byte_ns - hidden), again * byte_ns);
    /* Copies run ahead under a store; what multiplies waits for it, or another group does that meanwhile. */
    const double store = NS * 2 * elements / rates->rate[MOET_RATE_STORE] / busy;
    const double stored = shape->hides_store ? store : fmax(waiting, tensor) + store;
    parts_ns[MOET_WATERFALL_L2] = l2;
    parts_ns[MOET_WATERFALL_EPILOGUE] = fmax(0, stored - (hidden + l2));
    return MOET_OK;
}

moet_status moet_waterfall_of(const moet_waterfall_point *point, const moet_ceilings *ceilings,
                              const moet_device_rates *rates, double parts_ns[MOET_WATERFALL_PART_COUNT])
{
    double parts[MOET_WATERFALL_PART_COUNT] = {[MOET_WATERFALL_FLOOR] = point->floor_ns}, sum = 0;
    if (point->shape != NULL) {
        MOET_TRY(explain(point, ceilings, rates, parts));
    }
    for (int32_t i = 0; i < MOET_WATERFALL_UNEXPLAINED; i++) {
        sum += parts[i];
    }
    parts[MOET_WATERFALL_UNEXPLAINED] = point->time_ns - sum;
    memcpy(parts_ns, parts, sizeof parts);
    return MOET_OK;
}
