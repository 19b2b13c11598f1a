/* store_ep: trials of the expert-parallel layer in a store: a way of running it, measured on several ranks. */
#ifndef MOET_STORE_EP_H
#define MOET_STORE_EP_H

#include "store.h"

/* What is measured. Texts are the caller's. */
typedef struct moet_store_ep_point {
    const char *device_key;      /* of rank 0, whose run is in the store (moet_store_begin_run) */
    const moet_problem *problem; /* of one rank: its local experts */
    int32_t ranks, hosts;
    int32_t choices;     /* experts of a token */
    const char *returns; /* "rows", "sums" */
    int64_t tokens;      /* on each rank */
    const char *skew;    /* "uniform", "zipf:0.5" */
} moet_store_ep_point;

/* The layer's time, and its parts' alone. */
#define MOET_STORE_EP_PART_TABLE(X)                                                                                    \
    X(LAYER, "layer") X(DISPATCH, "dispatch") X(EXPERTS, "experts") X(COMBINE, "combine")
typedef enum moet_store_ep_part {
#define MOET_X(name, text) MOET_STORE_EP_##name,
    MOET_STORE_EP_PART_TABLE(MOET_X)
#undef MOET_X
        MOET_STORE_EP_PART_COUNT
} moet_store_ep_part;

/* A way of running it: texts as of moet_ep_choice_format. */
typedef struct moet_store_ep_trial {
    const char *asked, *choice; /* what was asked for, and what that came to */
    const char *name;           /* of the shape, for people */
    int64_t busiest;            /* expert rows of the busiest rank */
    bool is_default;            /* what moet_ep_create takes without a table */
    bool keeps_counts;          /* timed without the wait for the other ranks' counts */
    bool is_checked;
    const char *config;     /* of the experts */
    const char *table_hash; /* "": none */
    int64_t median_ns, noise_ns;
    int32_t rounds;
    const int64_t *time_ns[MOET_STORE_EP_PART_COUNT]; /* [rounds] each; NULL: not measured */
} moet_store_ep_trial;

/* Writes trial and samples in one transaction, in place of an earlier one of the same point and `asked`. */
moet_status moet_store_put_ep(moet_store *store, int64_t run_id, const moet_store_ep_point *point,
                              const moet_store_ep_trial *trial);
/* Whether there is one that was measured with this table. */
moet_status moet_store_has_ep(moet_store *store, const moet_store_ep_point *point, const char *asked,
                              const char *table_hash, bool *is_there);

/* Texts live until the next step. */
typedef struct moet_store_ep_row {
    const char *device_key, *problem_key, *returns, *skew, *asked, *choice, *name, *config, *table_hash, *measured_at;
    int32_t ranks, hosts, choices;
    int64_t tokens, busiest;
    bool is_default, keeps_counts, is_checked;
    int64_t median_ns, noise_ns;
    int32_t sample_count;
    bool is_winner;
    int64_t default_ns; /* of the point; 0: not measured */
} moet_store_ep_row;
typedef moet_status (*moet_store_visit_ep)(void *context, const moet_store_ep_row *row);
/* By device key, problem key, ranks, hosts, choices, returns, tokens, busiest and skew; the trials of a point by time.
 * device (may be NULL): as moet_store_filter's device_key. A visitor's error ends the walk and is returned.
 *
 * Each point has one winner: ties, within max(1 %, both noises) of the fastest and no slower than the default, go to
 * the default, then to the lower choice. A time without the wait for counts is less than a call takes: where the
 * default's has it, such trials do not win. */
moet_status moet_store_each_ep(moet_store *store, const char *device, moet_store_visit_ep visit, void *context);

#endif
