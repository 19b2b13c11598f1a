#include "ep_record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bench/bench.h"
#include "command.h"
#include "libraries.h"

/* ---- opening ---- */

static const char *table_hash_of(const moet_ep_record *record)
{
    const moet_table *table = record->bench->handle->table;
    return table ? table->hash : "";
}

static moet_status begin_run(moet_ep_record *record)
{
    char text[512];
    moet_libraries libraries;
    moet_device *device = record->bench->handle->device;
    moet_libraries_list(device, &libraries);
    moet_libraries_format(&libraries, text, sizeof text);
    const moet_store_run run = {.device = &device->info,
                                .device_key = device->key,
                                .command = record->command,
                                .revision = moet_command_revision(),
                                .libraries = text,
                                .effort = MOET_EFFORT_NORMAL};
    return moet_store_begin_run(record->store, &run, &record->run_id);
}

moet_status moet_ep_record_open(moet_ep_record *record, moet_ep_bench *bench)
{
    const moet_ep_options *as = &bench->as;
    record->bench = bench;
    record->run_id = -1;
    MOET_TRY(moet_ep_meet(bench->handle->device, as, NULL, &record->comm));
    MOET_TRY(moet_ep_count_hosts(record->comm, &record->hosts));
    if (!record->db || as->rank != 0) return MOET_OK;
    return moet_store_open(record->db, MOET_STORE_WRITE, &record->store);
}

void moet_ep_record_close(moet_ep_record *record)
{
    moet_store_close(record->store);
    moet_ep_comm_destroy(record->comm);
    record->store = NULL;
    record->comm = NULL;
}

/* ---- what to measure ---- */

static moet_store_ep_point point_of(const moet_ep_record *record, const moet_ep_shape *point, moet_ep_returns returns,
                                    moet_problem *local)
{
    const moet_ep_bench *bench = record->bench;
    *local = moet_ep_bench_problem(bench, point);
    local->experts /= bench->as.ranks;
    return (moet_store_ep_point){.device_key = bench->handle->device->key,
                                 .problem = local,
                                 .ranks = bench->as.ranks,
                                 .hosts = record->hosts,
                                 .choices = point->choices,
                                 .returns = moet_ep_returns_name(returns),
                                 .tokens = point->tokens,
                                 .skew = point->skew};
}

static void asked_of(const moet_ep_record *record, const moet_ep_shape *point, const moet_ep_variant *variant,
                     char text[MOET_EP_CHOICE_SIZE])
{
    const moet_ep_options options = moet_ep_bench_options(record->bench, point, variant);
    moet_ep_choice_format(&options, text);
}

static moet_status is_known(moet_ep_record *record, const moet_ep_shape *point, const moet_ep_variants *of,
                            bool *is_known)
{
    moet_problem local;
    *is_known = record->store && !record->is_again;
    for (int32_t i = 0; i < of->count && *is_known; i++) {
        char asked[MOET_EP_CHOICE_SIZE];
        const moet_store_ep_point key = point_of(record, point, of->list[i].returns, &local);
        asked_of(record, point, &of->list[i], asked);
        MOET_TRY(moet_store_has_ep(record->store, &key, asked, table_hash_of(record), is_known));
    }
    return MOET_OK;
}

/* The table's choice into the variant, if it has one. */
static void choose(const moet_ep_record *record, const moet_ep_shape *point, moet_ep_variant *variant)
{
    moet_problem local;
    moet_ep_options options = moet_ep_bench_options(record->bench, point, variant);
    (void)point_of(record, point, variant->returns, &local);
    const char *choice = moet_ep_choice_find(record->bench->handle->table, &local, &options, record->hosts);
    if (!choice || moet_ep_choice_parse(choice, &options) != MOET_OK) return;
    snprintf(variant->transport, sizeof variant->transport, "%s", options.transport);
    variant->chunks = options.chunks;
    variant->comm_sms = options.comm_sms;
}

moet_status moet_ep_record_plan(moet_ep_record *record, const moet_ep_shape *point, const moet_ep_variants *of,
                                moet_ep_variants *plan)
{
    moet_ep_variants own = *of, *all = calloc((size_t)record->bench->as.ranks, sizeof *all);
    bool is_skipped = false;
    if (!all) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    moet_status status = is_known(record, point, of, &is_skipped);
    if (is_skipped) own.count = 0;
    for (int32_t i = 0; i < own.count && record->by_table; i++) choose(record, point, &own.list[i]);
    if (status == MOET_OK) status = moet_ep_comm_allgather(record->comm, &own, sizeof own, all);
    if (status == MOET_OK) *plan = all[0];
    record->skipped += is_skipped;
    free(all);
    return status;
}

/* ---- keeping ---- */

moet_status moet_ep_record_put(void *context, const moet_ep_result *result)
{
    moet_ep_record *record = context;
    char asked[MOET_EP_CHOICE_SIZE], choice[MOET_EP_CHOICE_SIZE];
    moet_problem local;
    const moet_store_ep_point key = point_of(record, result->point, result->variant->returns, &local);
    moet_ep_options ran = result->ep->options;
    if (!record->store) return MOET_OK;
    if (record->run_id < 0) MOET_TRY(begin_run(record));
    asked_of(record, result->point, result->variant, asked);
    snprintf(ran.transport, sizeof ran.transport, "%s", moet_ep_transport_name(result->ep));
    moet_ep_choice_format(&ran, choice);
    moet_store_ep_trial trial = {.asked = asked,
                                 .choice = choice,
                                 .name = result->point->name,
                                 .busiest = result->busiest,
                                 .is_default = moet_ep_bench_is_default(result->variant),
                                 .keeps_counts = result->is_graph && !moet_ep_is_graph_safe(result->ep),
                                 .is_checked = record->bench->is_checked,
                                 .config = result->config,
                                 .table_hash = table_hash_of(record),
                                 .rounds = record->bench->rounds,
                                 .time_ns = {[MOET_STORE_EP_LAYER] = result->layer_ns,
                                             [MOET_STORE_EP_DISPATCH] = result->dispatch_ns,
                                             [MOET_STORE_EP_EXPERTS] = result->experts_ns,
                                             [MOET_STORE_EP_COMBINE] = result->combine_ns}};
    trial.median_ns = moet_stats_median(result->layer_ns, trial.rounds);
    trial.noise_ns = moet_stats_iqr(result->layer_ns, trial.rounds) / 2;
    return moet_store_put_ep(record->store, record->run_id, &key, &trial);
}
