/* expect: what a plan with device counts chooses for, seen on the device instead of guessed. */
#include <string.h>

#include "counts.h"
#include "plan.h"

static const moet_counts_table *const tables[] = {
#ifdef MOET_CUDA
    &moet_counts_cuda,
#endif
    &moet_counts_host,
};

static moet_status ensure_counts(moet_handle *handle)
{
    if (handle->counts_table) return MOET_OK;
    for (int32_t i = 0; i < MOET_COUNT_OF(tables); i++) {
        if (strcmp(tables[i]->backend, handle->device->backend->name) != 0) continue;
        MOET_TRY(tables[i]->create(handle->device, &handle->counts));
        handle->counts_table = tables[i];
        return MOET_OK;
    }
    return moet_fail(MOET_UNSUPPORTED, "moet_plan_summarize: backend '%s' has no kernel for it",
                     handle->device->backend->name);
}

static moet_status check_device_counts(const moet_plan *plan, const char *call)
{
    return plan->options.device_counts
               ? MOET_OK
               : moet_fail(MOET_INVALID, "%s: the plan takes counts from host memory, where every launch sees them",
                           call);
}

moet_status moet_plan_summarize(moet_plan *plan, const int32_t *counts, moet_routing *routing, void *stream)
{
    MOET_NEED(plan);
    MOET_TRY(check_device_counts(plan, "moet_plan_summarize"));
    if (!counts || !routing) return moet_fail(MOET_INVALID, "moet_plan_summarize: counts or routing is NULL");
    if ((uintptr_t)counts % sizeof *counts || (uintptr_t)routing % sizeof(int64_t))
        return moet_fail(MOET_INVALID, "moet_plan_summarize: counts must be 4-byte and routing 8-byte aligned");
    MOET_TRY(ensure_counts(plan->handle));
    return plan->handle->counts_table->summarize(plan->handle->counts, counts, plan->problem.experts, routing, stream);
}

moet_status moet_plan_expect(moet_plan *plan, const moet_routing *routing)
{
    MOET_NEED(plan);
    MOET_TRY(check_device_counts(plan, "moet_plan_expect"));
    if (!routing) return moet_fail(MOET_INVALID, "moet_plan_expect: routing is NULL");
    if (routing->experts != plan->problem.experts)
        return moet_fail(MOET_INVALID, "moet_plan_expect: the routing is of %d experts, the plan of %d",
                         routing->experts, plan->problem.experts);
    if (routing->rows < 0 || !(routing->max_over_mean >= 1 && routing->max_over_mean <= MOET_MAX_EXPERTS))
        return moet_fail(MOET_INVALID,
                         "moet_plan_expect: %lld rows with a max_over_mean of %g are no routing: 0 or more rows, and "
                         "1 to %d",
                         (long long)routing->rows, routing->max_over_mean, MOET_MAX_EXPERTS);
    if (routing->rows == 0) return MOET_OK;
    moet_plan_choose(plan, routing->rows < plan->options.max_rows ? routing->rows : plan->options.max_rows,
                     routing->max_over_mean);
    return MOET_OK;
}
