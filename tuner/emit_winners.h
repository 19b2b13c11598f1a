/* emit_winners: which trials a table takes: of each tuned point and kind one, together few configurations. */
#ifndef MOET_EMIT_WINNERS_H
#define MOET_EMIT_WINNERS_H

#include "parse.h"
#include "store.h"

typedef struct moet_emit_choice {
    int64_t trial_id;
    moet_table_kind kind;
    int64_t default_ns; /* 0: no default was measured */
} moet_emit_choice;

typedef struct moet_emit_winners {
    int32_t count;
    moet_emit_choice *items; /* by trial and kind */
    /* over all points and kinds: different configurations of winners and of what was chosen; the chosen ones' time over
     * the winners', less 1: its mean and most */
    int32_t winner_configs, configs;
    double mean_regret, most_regret;
} moet_emit_winners;

/* device: as moet_store_filter's device_key. skews (count 0: all): only points whose skew's text is one of these, or
 * begins with one and a ':'. all: each point's own winner, else those that moet_cover chooses among a problem's winners,
 * a time within max(1 %, both noises) of the fastest being as good. */
moet_status moet_emit_winners_find(moet_store *store, const char *device, const moet_text_list *skews, bool all,
                                   moet_emit_winners *winners);
void moet_emit_winners_release(moet_emit_winners *winners);

/* The choice with this trial for this kind; NULL if there is none. */
const moet_emit_choice *moet_emit_winners_get(const moet_emit_winners *winners, int64_t trial_id, moet_table_kind kind);

#endif
