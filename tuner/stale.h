/* stale: the tasks of a sweep that mends a table: what `moe-tune recheck --save FILE` found lost, stale, wrong or not
 * running. */
#ifndef MOET_STALE_H
#define MOET_STALE_H

#include "sweep.h"

typedef struct moet_stale {
    char device_key[MOET_DEVICE_KEY_SIZE]; /* of the device that was rechecked; "" where no line says */
    moet_workloads workloads;
    moet_sweep_tasks tasks; /* of this shard; each once */
} moet_stale;

/* Reads a file ("-": stdin) of recheck's JSON lines; those that hold or were left are passed over. MALFORMED names file
 * and line; INVALID where lines are of several devices or there is none. */
moet_status moet_stale_read(const char *path, const moet_shard *shard, moet_stale *stale);
void moet_stale_release(moet_stale *stale);

#endif
