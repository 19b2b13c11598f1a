/* workload_find.c: see workload_find.h. */
#include "workload_find.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/status.h"
#include "parse.h"

/* MODEL/epN/ROWS/SKEW, as a sweep of --model MODEL --ep N --rows ROWS --skew SKEW has it. */
static moet_status draw(const char *text, uint64_t seed, moet_workload *w, bool *has_bias)
{
    char name[MOET_WORKLOAD_NAME_SIZE], *rest = name, *parts[4];
    int64_t ranks = 0;
    moet_model model;
    snprintf(name, sizeof name, "%s", text);
    for (int32_t i = 0; i < 4; i++) {
        parts[i] = strsep(&rest, i < 3 ? "/" : "");
        if (parts[i] == NULL || (i == 1 && strncmp(parts[i], "ep", 2) != 0)) {
            return moet_fail(MOET_INVALID,
                             "'%.90s' is no file and no workload: give MODEL/epN/ROWS/SKEW, as "
                             "deepseek-v3/ep32/8192/balanced (`moe-tune sweep --list-models`)",
                             text);
        }
    }
    if (moet_model_find(parts[0], &model) != MOET_OK) { /* a wrong model is a wrong argument */
        return moet_fail(MOET_INVALID, "%s", moet_last_error());
    }
    MOET_TRY(moet_parse_integer(parts[1] + 2, "epN", 1, 4096, &ranks));
    MOET_TRY(moet_parse_integer(parts[2], "ROWS", 1, MOET_MAX_ROWS, &w->rows));
    if (model.experts % ranks != 0 || model.experts / ranks > MOET_MAX_EXPERTS) {
        return moet_fail(MOET_INVALID, "%lld ranks do not divide the %d experts of %s", (long long)ranks, model.experts,
                         model.name);
    }
    w->experts = (int32_t)(model.experts / ranks);
    w->hidden = model.hidden;
    w->inter = model.inter;
    w->seed = seed;
    snprintf(w->name, sizeof w->name, "%s/ep%lld", model.name, (long long)ranks);
    snprintf(w->skew, sizeof w->skew, "%s", parts[3]);
    w->counts = malloc((size_t)w->experts * sizeof *w->counts);
    if (w->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload of %d experts", w->experts);
    }
    *has_bias = model.bias;
    return moet_skew_draw(parts[3], w->experts, w->rows, w->seed, w->counts);
}

/* The file's workload that `match` names. */
static moet_status read_one(const char *path, const char *match, moet_workloads *list)
{
    moet_workloads all = {0};
    MOET_TRY(moet_workloads_read(path, &all));
    moet_status status = MOET_OK;
    int32_t found = 0;
    for (int32_t i = 0; i < all.count && status == MOET_OK; i++) {
        if (match == NULL || strstr(all.items[i].name, match) != NULL) {
            found++;
            if (found == 1) status = moet_workloads_add(list, &all.items[i]);
        }
    }
    if (status == MOET_OK && found != 1) {
        status = moet_fail(MOET_INVALID, "%s: %d workloads%s%s, one is profiled: --match TEXT names it", path, found,
                           match != NULL ? " match " : "", match != NULL ? match : "");
    }
    moet_workloads_release(&all);
    return status;
}

moet_status moet_workload_find(const char *text, const char *match, uint64_t seed, moet_workloads *list, bool *has_bias)
{
    *has_bias = false;
    if (strcmp(text, "-") == 0 || access(text, F_OK) == 0) {
        return read_one(text, match, list);
    }
    moet_workload drawn = {0};
    moet_status status = draw(text, seed, &drawn, has_bias);
    if (status == MOET_OK) status = moet_workloads_add(list, &drawn);
    moet_workload_release(&drawn);
    return status;
}
