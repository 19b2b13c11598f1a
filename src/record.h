/* record: what moet_record_start makes a handle keep, for plan.c and ffn.c; record.c. */
#ifndef MOET_RECORD_H
#define MOET_RECORD_H

#include "plan.h"

/* Keeps a routing, if nobody else holds the mutex just now. */
void moet_record_add(const moet_plan *plan, const int32_t *counts, const moet_routing *routing, int64_t tokens);

/* Called for each valid launch: keeps the routing of one with host counts that the table has no near answer to. tokens:
 * of op FFN, 0 where unknown. One load and a branch while nothing is recorded. */
static inline void moet_record_launch(const moet_plan *plan, const int32_t *counts, const moet_routing *routing,
                                      int64_t tokens, const moet_decision *d)
{
    if (!atomic_load_explicit(&plan->handle->is_recording, memory_order_relaxed)) return;
    const bool is_near =
        d->hit == MOET_HIT_EXACT || (d->hit == MOET_HIT_NEAREST && d->distance <= MOET_RECORD_DISTANCE);
    if (!is_near && !plan->options.device_counts && routing->rows > 0) moet_record_add(plan, counts, routing, tokens);
}

#endif
