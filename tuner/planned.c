/* planned.c: see planned.h. */
#include "planned.h"

#include <stdlib.h>
#include <string.h>

moet_status moet_planned_open(const char *table_dir, const char *device, moet_handle **handle)
{
    /* The command line is nearer than the environment, which would win inside moet_open. */
    const char *set = getenv("MOET_TABLE");
    char *saved = set != NULL ? strdup(set) : NULL;
    if (set != NULL && saved == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for MOET_TABLE");
    }
    unsetenv("MOET_TABLE");
    moet_status status = moet_open(table_dir, device, handle);
    if (saved != NULL) {
        setenv("MOET_TABLE", saved, 1);
        free(saved);
    }
    return status;
}

static moet_status launch_plan(void *context, const moet_launch_args *args) { return moet_launch(context, args); }

static moet_status launch_path(void *context, const moet_ffn_args *args) { return moet_ffn(context, args); }

moet_status moet_planned_add(moet_bench *bench, moet_handle *handle, const moet_problem *problem, const int32_t *counts,
                             bool device_counts, const char *name, moet_planned *planned)
{
    moet_planned made = {0};
    moet_routing routing;
    moet_config config;
    MOET_TRY(moet_routing_summarize(counts, problem->experts, &routing));
    moet_plan_options options = {.max_rows = routing.rows > 0 ? routing.rows : 1};
    if (problem->op == MOET_OP_FFN) {
        moet_bench_path_size(bench, &options.max_tokens, &options.choices);
        options.max_tokens = options.max_tokens > 0 ? options.max_tokens : 1;
    }
    if (device_counts) {
        options.device_counts = true;
        options.expected_rows = options.max_rows;
        options.expected_max_over_mean = routing.max_over_mean;
    }
    MOET_TRY(moet_plan_create(handle, problem, &options, &made.plan));
    moet_status status = moet_plan_query(made.plan, counts, &made.choice);
    if (status == MOET_OK) status = moet_config_parse(made.choice.config, &config);
    if (status == MOET_OK) {
        bool capturable = config.family->traits(problem, &config).capturable;
        status = problem->op == MOET_OP_FFN ? moet_bench_add_path_launcher(bench, name, launch_path, made.plan,
                                                                           capturable, device_counts, &made.subject)
                                            : moet_bench_add_launcher(bench, name, launch_plan, made.plan, capturable,
                                                                      device_counts, &made.subject);
    }
    if (status != MOET_OK) {
        moet_plan_destroy(made.plan);
        return status;
    }
    *planned = made;
    return MOET_OK;
}

void moet_planned_release(moet_planned *planned)
{
    moet_plan_destroy(planned->plan);
    *planned = (moet_planned){0};
}
