/* plot: pictures of results, drawn by gnuplot as a child from data that this program writes. */
#ifndef MOET_PLOT_H
#define MOET_PLOT_H

#include <stdio.h>

#include "store.h"

/* name, what it is drawn from, what it shows */
#define MOET_PLOT_TABLE(X)                                                                                             \
    X(ROOFLINE, "roofline", DB, "every winner under the device's ceilings")                                            \
    X(EFFICIENCY, "efficiency", DB, "efficiency over rows an expert, the best of each family")                         \
    X(WINNERS, "winners", DB, "what wins where, over rows an expert and skew")                                         \
    X(PEERS, "peers", BENCH, "time of each peer / time of moe-tune, sorted, the worst points named")                   \
    X(REGRET, "regret", REGRET, "what a table's choices cost on workloads that were not tuned, sorted")                \
    X(SWEEP, "sweep", DB, "time of sweeps against how good what they found is")                                        \
    X(WATERFALL, "waterfall", DB, "where the time of the ten least efficient winners of op up and down goes")
typedef enum moet_plot_kind {
#define MOET_X(id, name, source, text) MOET_PLOT_##id,
    MOET_PLOT_TABLE(MOET_X)
#undef MOET_X
        MOET_PLOT_KIND_COUNT
} moet_plot_kind;

typedef enum moet_plot_source { MOET_PLOT_FROM_DB, MOET_PLOT_FROM_BENCH, MOET_PLOT_FROM_REGRET } moet_plot_source;

#define MOET_PLOT_MAX_FILES 8
typedef struct moet_plot_sources {
    const char *dbs[MOET_PLOT_MAX_FILES]; /* SWEEP: several; else one */
    int32_t db_count;
    const char *device;                     /* part of a device key; NULL: the database has one device */
    const char *bench;                      /* JSON lines of `bench`, peer "moe-tune" */
    const char *peers[MOET_PLOT_MAX_FILES]; /* of other programs' benches */
    int32_t peers_count;
    const char *regrets[MOET_PLOT_MAX_FILES]; /* of `regret --format json`: tables beside each other */
    int32_t regret_count;
} moet_plot_sources;

const char *moet_plot_name(moet_plot_kind kind);
const char *moet_plot_text(moet_plot_kind kind);
moet_plot_source moet_plot_source_of(moet_plot_kind kind);
/* INVALID names the kinds. */
moet_status moet_plot_parse(const char *name, moet_plot_kind *kind);

/* Nothing is faster than the device: an efficiency that noise does not explain says that its ceilings are too low. */
#define MOET_PLOT_DOUBT "the ceilings were disturbed or the working set fits a cache; measure again"
static inline bool moet_plot_is_doubtful(double efficiency) { return efficiency > 1.05; }

/* Draws into the file path, "svg" or "png" by its end, which is replaced as a whole. *best: the greatest efficiency of
 * what is drawn or, being doubtful, left out; 0 where the kind shows none. NOT_FOUND: gnuplot is missing, or there is
 * nothing to draw. UNSUPPORTED: of this database this kind cannot be drawn, others may. */
moet_status moet_plot_draw(moet_plot_kind kind, const moet_plot_sources *sources, const char *path, double *best);

/* ---- the writers of data, for plot.c: rows for gnuplot to data, and what it is told by names to settings ---- */

/* Inside a gnuplot string of double quotes, in which words may stand in single ones: what comes from a file is text.
 * Quotes, backslashes and control characters are left out, and backquotes, whose command gnuplot would run; bytes that
 * are no UTF-8 are U+FFFD. */
void moet_plot_put_text(FILE *to, const char *text);

/* The only device of a database, or the one whose key has `part`; the store stays open for the caller. */
moet_status moet_plot_open(const char *db, const char *part, moet_store **store, char key[MOET_DEVICE_KEY_SIZE]);

moet_status moet_plot_write_db(moet_plot_kind kind, const moet_plot_sources *sources, FILE *data, FILE *settings,
                               double *best);
moet_status moet_plot_write_waterfall(const moet_plot_sources *sources, FILE *data, FILE *settings, double *best);
moet_status moet_plot_write_peers(const moet_plot_sources *sources, FILE *data, FILE *settings);
moet_status moet_plot_write_regret(const moet_plot_sources *sources, FILE *data, FILE *settings);

#endif
