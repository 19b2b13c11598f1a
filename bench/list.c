/* What of a family's space only its vendor library knows. */
#include <stdlib.h>

#include "session.h"

/* Configs are kept until all of them are there: on an error nothing is visited. */
typedef struct listed {
    int32_t count, limit;
    moet_config *configs;
} listed;

static moet_status keep(void *context, const moet_config *config)
{
    listed *l = context;
    if (l->count < l->limit) l->configs[l->count++] = *config;
    return MOET_OK;
}

moet_status moet_bench_list(moet_bench *bench, const moet_problem *problem, const int32_t *counts,
                            const moet_config *base, int32_t limit, moet_config_visit visit, void *context)
{
    moet_routing routing;
    char why[MOET_REASON_SIZE];
    MOET_TRY(moet_routing_summarize(counts, problem->experts, &routing));
    if (routing.rows == 0 || limit < 1) return moet_fail(MOET_INVALID, "list: no rows, or a limit of %d", limit);
    if (!base->family->applicable(problem, base, &bench->device->info, why))
        return moet_fail(MOET_UNSUPPORTED, "%s", why);
    if (!base->family->list) return MOET_OK;
    moet_bench_step(bench, NULL, MOET_STEP_PREPARE); /* it may load the library */
    listed l = {.limit = limit, .configs = malloc((size_t)limit * sizeof *l.configs)};
    if (!l.configs) return moet_fail(MOET_NO_MEMORY, "no memory for %d configurations", limit);
    const moet_prepare_args args = {
        .device = bench->device, .problem = problem, .config = base, .max_rows = routing.rows};
    moet_status status = base->family->list(&args, counts, limit, keep, &l);
    for (int32_t i = 0; i < l.count && status == MOET_OK; i++) status = visit(context, &l.configs[i]);
    free(l.configs);
    return status;
}
