/* ep_launcher: rank, ranks and rendezvous from the variables of what started the processes. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moet_ep.h"
#include "status.h"

/* A launcher's variables. local: rank on its host; hosts_are_one: its ranks or hosts tell whether all are on one. */
typedef struct launcher {
    const char *rank, *ranks, *local;
    const char *local_ranks, *hosts; /* equal to ranks, or 1, where there is one host; NULL: not told */
    const char *job;                 /* a text that is the job's own; NULL: none */
} launcher;

static const launcher launchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", NULL, NULL},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", NULL,
     "PMIX_NAMESPACE"},
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL, "SLURM_JOB_NUM_NODES", "SLURM_JOB_ID"},
};

static const char *value_of(const char *name)
{
    const char *value = name ? getenv(name) : NULL;
    return value && value[0] ? value : NULL;
}

static moet_status number_of(const char *name, int32_t low, int32_t high, int32_t *number)
{
    const char *text = value_of(name);
    char *end = NULL;
    const long value = text ? strtol(text, &end, 10) : 0;
    if (!text || *end || value < low || value > high)
        return moet_fail(MOET_INVALID, "the variable %s is '%.32s', must be a number of %d to %d", name,
                         text ? text : "", low, high);
    *number = (int32_t)value;
    return MOET_OK;
}

/* A port for a job: two at a time on one host rarely have the same. FNV-1a of its text. */
static int32_t port_of(const char *job)
{
    uint32_t hash = 2166136261u;
    for (const char *c = job; *c; c++) hash = (hash ^ (uint8_t)*c) * 16777619u;
    return 20000 + (int32_t)(hash % 10000);
}

moet_status moet_ep_launcher(moet_ep_options *options, int32_t *local)
{
    MOET_NEED(options);
    int32_t rank = 0, ranks = 0, own = 0, local_ranks = 0, hosts = 0, port = 29500; /* torchrun's port */
    const launcher *found = NULL;
    for (int32_t i = 0; i < MOET_COUNT_OF(launchers) && !found; i++) {
        if (value_of(launchers[i].rank) && value_of(launchers[i].ranks)) found = &launchers[i];
    }
    if (!found)
        return moet_fail(MOET_NOT_FOUND, "no launcher: none of RANK, OMPI_COMM_WORLD_RANK and SLURM_PROCID is set");
    MOET_TRY(number_of(found->ranks, 1, MOET_EP_MAX_RANKS, &ranks));
    MOET_TRY(number_of(found->rank, 0, ranks - 1, &rank));
    if (value_of(found->local)) MOET_TRY(number_of(found->local, 0, ranks - 1, &own));
    if (value_of(found->local_ranks)) MOET_TRY(number_of(found->local_ranks, 1, ranks, &local_ranks));
    if (value_of(found->hosts)) MOET_TRY(number_of(found->hosts, 1, INT32_MAX, &hosts));
    if (value_of("MASTER_PORT"))
        MOET_TRY(number_of("MASTER_PORT", 1, 65535, &port));
    else if (value_of(found->job))
        port = port_of(value_of(found->job));
    const char *address = value_of("MASTER_ADDR");
    if (!address && (ranks == 1 || local_ranks == ranks || hosts == 1)) address = "127.0.0.1";
    char rendezvous[MOET_EP_NAME_SIZE] = "";
    if (address && snprintf(rendezvous, sizeof rendezvous, "%s:%d", address, port) >= (int)sizeof rendezvous)
        return moet_fail(MOET_INVALID, "the variable MASTER_ADDR is longer than %zu characters", sizeof rendezvous - 8);
    options->rank = rank;
    options->ranks = ranks;
    memcpy(options->rendezvous, rendezvous, sizeof rendezvous);
    if (local) *local = own;
    return MOET_OK;
}
