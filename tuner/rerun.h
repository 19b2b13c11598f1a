/* rerun: winners and defaults once more before a table is emitted, under sustained load: a race's rounds are short, and a
 * device that is hot or at its power limit for seconds may rank otherwise. */
#ifndef MOET_RERUN_H
#define MOET_RERUN_H

#include "emit.h"

#define MOET_RERUN_SUSTAIN_NS ((int64_t)2000000000) /* of the winner's launches before the rounds of a point */

typedef struct moet_rerun {
    int32_t entries;  /* that were run */
    int32_t reranked; /* of these, whose default is faster now, or whose winner does not run */
} moet_rerun;

/* Runs what would be emitted with these options for a device (as moet_device_open takes it), each point with 2 s of load
 * before its rounds; what ranks otherwise is said on stderr. Of other devices nothing is run. The store is only read.
 * WRONG where something is; NOT_FOUND where the store has no winner of this device. */
moet_status moet_rerun_winners(moet_store *store, const moet_emit_options *emit, const char *device, moet_rerun *rerun);

#endif
