/* ep_record: what rank 0 of `moe-tune ep` knows for all ranks: which points the database has already and how a table
 * has them run; and what it keeps of each way of running the layer. */
#ifndef MOET_EP_RECORD_H
#define MOET_EP_RECORD_H

#include "ep_bench.h"
#include "store_ep.h"

typedef struct moet_ep_record {
    /* the caller's */
    const char *db;      /* NULL: nothing is kept. Rank 0's; the others' is not looked at */
    const char *command; /* the command line, for the run's row */
    bool is_again;       /* measure also what the database has */
    bool by_table;       /* run each point as the handle's table says */
    /* its own */
    const moet_ep_bench *bench;
    moet_ep_comm *comm;
    moet_store *store;
    int64_t run_id;
    int32_t hosts, skipped; /* skipped: points that were in the database */
} moet_ep_record;

/* The ways to run the layer at a point. */
typedef struct moet_ep_variants {
    moet_ep_variant list[MOET_EP_MAX_VARIANTS];
    int32_t count;
} moet_ep_variants;

/* Meets the other ranks, opens the database. Collective, like plan; the record is to be closed also after an error. */
moet_status moet_ep_record_open(moet_ep_record *record, moet_ep_bench *bench);
void moet_ep_record_close(moet_ep_record *record);

/* What to measure at a point, of the ways `of`, on all ranks what rank 0 finds: none (count 0) where the database has
 * them all; with by_table the table's choice in place of each way with its returns, and the way itself where the table
 * has none. */
moet_status moet_ep_record_plan(moet_ep_record *record, const moet_ep_shape *point, const moet_ep_variants *of,
                                moet_ep_variants *plan);

/* Puts a result into the database (moet_ep_bench's keep). */
moet_status moet_ep_record_put(void *record, const moet_ep_result *result);

#endif
