/* import.c: passes of a trace into workloads; see import.h. */
#include "import.h"

#include <stdio.h>
#include <stdlib.h>

static moet_status add_rank(const moet_import_options *options, const moet_trace_pass *pass, int32_t rank,
                            const int64_t *counts, int32_t experts, const char *path, moet_workloads *list,
                            int64_t *empty)
{
    moet_workload w = {.experts = experts, .hidden = options->hidden, .inter = options->inter};
    w.counts = malloc((size_t)experts * sizeof *w.counts);
    if (w.counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload of %d experts", experts);
    }
    for (int32_t e = 0; e < experts; e++) {
        const int64_t rows = (counts[e] + options->divide / 2) / options->divide;
        w.rows += rows;
        if (w.rows > MOET_MAX_ROWS) {
            free(w.counts);
            return moet_fail(
                MOET_INVALID,
                "%.200s: step %lld, layer %lld: rank %d has more than %d rows; --divide N where the counts "
                "are sums over N passes",
                path, (long long)pass->step, (long long)pass->layer, rank, MOET_MAX_ROWS);
        }
        w.counts[e] = (int32_t)rows;
    }
    moet_status status = MOET_OK;
    *empty += w.rows == 0;
    if (w.rows > 0) {
        snprintf(w.name, sizeof w.name, "%s", options->name);
        snprintf(w.skew, sizeof w.skew, "trace:s%lld:l%lld:r%d", (long long)pass->step, (long long)pass->layer, rank);
        status = moet_workloads_add(list, &w);
    }
    moet_workload_release(&w);
    return status;
}

moet_status moet_import_trace(const moet_trace *trace, const char *path, const moet_import_options *options,
                              moet_workloads *list, int64_t *empty)
{
    const int32_t ranks = options->ranks, experts = trace->experts / ranks;
    if (trace->experts % ranks != 0) {
        return moet_fail(MOET_INVALID, "%s: --ep: %d does not divide the %d experts", path, ranks, trace->experts);
    }
    if (experts > MOET_MAX_EXPERTS) {
        return moet_fail(MOET_INVALID, "%s: --ep: %d ranks have %d experts each, at most %d are served", path, ranks,
                         experts, MOET_MAX_EXPERTS);
    }
    const int32_t first = options->rank < 0 ? 0 : options->rank, last = options->rank < 0 ? ranks - 1 : options->rank;
    for (int64_t i = 0; i < trace->count; i++) {
        for (int32_t rank = first; rank <= last; rank++) {
            const int64_t *counts = trace->counts + i * trace->experts + (int64_t)rank * experts;
            MOET_TRY(add_rank(options, &trace->passes[i], rank, counts, experts, path, list, empty));
        }
    }
    return MOET_OK;
}
