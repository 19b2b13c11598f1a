/* emit_winners: which trials a table takes: of each tuned point and kind one, together few configurations. */
#ifndef MOET_EMIT_WINNERS_H
#define MOET_EMIT_WINNERS_H

#include "emit_bits.h"
#include "parse.h"
#include "store.h"

/* What another of the table's configurations, or the default, took at the same point. */
typedef struct moet_emit_other {
    char *config;
    int64_t time_ns;
} moet_emit_other;

typedef struct moet_emit_choice {
    int64_t trial_id;
    moet_table_kind kind;
    int64_t default_ns; /* 0: no default was measured */
    int32_t other_count;
    moet_emit_other *others; /* by config */
    char *runner_up;         /* the fastest other configuration there; NULL: none was measured */
} moet_emit_choice;

/* What keeping to a bit class costs: time of the class's winner over the winner of all, of points and kinds. */
typedef struct moet_bits_cost {
    int32_t points, other; /* other: of these, those whose winner of all has other bits */
    int32_t left_out;      /* where no trial is of the class, beside points */
    double geomean, worst; /* 1: nothing; 0 where points is 0 */
} moet_bits_cost;

typedef struct moet_emit_winners {
    int32_t count;
    moet_emit_choice *items; /* by trial and kind */
    /* over all points and kinds: different configurations of winners and of what was chosen; the chosen ones' time over
     * the winners', less 1: its mean and most */
    int32_t winner_configs, configs;
    double mean_regret, most_regret;
    moet_bits_cost bits_cost;
    int32_t suspect_defaults; /* items whose default was wrong at another workload of the problem */
} moet_emit_winners;

/* device: as moet_store_filter's device_key. skews (count 0: all): only points whose skew's text is one of these, or
 * begins with one and a ':'. bits (NULL: all): only trials of these; a winner that is none of them gives its place to
 * the fastest that is, of final rounds if there is one. all: each point's own winner, else those that moet_cover
 * chooses among a problem's winners, a time within max(1 %, both noises) of the fastest being as good. */
moet_status moet_emit_winners_find(moet_store *store, const char *device, const moet_text_list *skews,
                                   const moet_emit_bits *bits, bool all, moet_emit_winners *winners);
void moet_emit_winners_release(moet_emit_winners *winners);

/* The configurations that a table of the device takes for a problem (a key of the store), whatever the kind of counts;
 * one may come twice. A visitor's error ends the walk and is returned. */
typedef moet_status (*moet_emit_visit)(void *context, const char *config);
moet_status moet_emit_winners_each_config(moet_store *store, const char *device_key, const char *problem_key,
                                          moet_emit_visit visit, void *context);

/* The choice with this trial for this kind; NULL if there is none. */
const moet_emit_choice *moet_emit_winners_get(const moet_emit_winners *winners, int64_t trial_id, moet_table_kind kind);

#endif
