/* recheck: whether the winners of a table still win on this device.
 *
 * Of each entry (a winner of a point and kind of counts) the winner, as a plan launches it, the runner-up that the table
 * names, and what would run without a table are verified and timed in interleaved rounds. A winner is lost where another
 * is faster by more than a tie (docs/design.md, "Winners") in two sets of rounds, one after the other. Entries that this
 * device or this build refuses are stale; nothing is measured for them.
 *
 * Points are visited so that a limited time covers most: first one of every winner's configuration, from the middle of
 * its points, then ever more of them, spread over each one's points. */
#ifndef MOET_RECHECK_H
#define MOET_RECHECK_H

#include <signal.h>

#include "../bench/bench.h"
#include "../src/table.h"

#define MOET_VERDICT_TABLE(X)                                                                                          \
    X(HOLDS, "holds")                                                                                                  \
    X(LOST, "lost")       /* another is faster */                                                                      \
    X(UNCLEAR, "unclear") /* no other is faster by more than a tie, but the tie is wide: the device is busy */         \
    X(STALE, "stale")     /* refused: another version of family, library or architecture */                            \
    X(WRONG, "wrong")     /* winner, runner-up or default is */                                                        \
    X(FAILED, "failed")   /* the winner does not run */                                                                \
    X(LEFT, "left")       /* not rechecked, for want of time or interrupted */
typedef enum moet_verdict {
#define MOET_X(name, text) MOET_VERDICT_##name,
    MOET_VERDICT_TABLE(MOET_X)
#undef MOET_X
        MOET_VERDICT_COUNT
} moet_verdict;
const char *moet_verdict_name(moet_verdict verdict);
/* INVALID names the text. */
moet_status moet_verdict_parse(const char *text, moet_verdict *verdict);

/* Who runs beside whom. */
typedef enum moet_contender {
    MOET_CONTENDER_WINNER,
    MOET_CONTENDER_RUNNER_UP,
    MOET_CONTENDER_DEFAULT,
    MOET_CONTENDER_COUNT
} moet_contender;

typedef struct moet_recheck_time {
    char config[MOET_CONFIG_SIZE]; /* "": there is none */
    int64_t median_ns, noise_ns;   /* 0: not timed */
} moet_recheck_time;

typedef struct moet_recheck_entry {
    const moet_table_problem *problem;
    const moet_table_point *point;
    moet_table_kind kind;
    const char *workload, *skew; /* as the table has them */
    int64_t tokens;              /* op FFN; 0: as many as rows */
    int64_t tuned_ns;            /* the winner's time in the table */
    bool has_default;            /* it was right then */
    bool is_constrained;         /* the default was faster then, and was not chosen (emit --bits): it takes no win away */
    moet_recheck_time times[MOET_CONTENDER_COUNT];
    moet_verdict verdict;
    double error;                  /* of the winner, in units of the bound; NaN: not verified */
    char reason[MOET_REASON_SIZE]; /* of the verdict; or which contender was not timed; "" */
} moet_recheck_entry;

typedef struct moet_recheck_options {
    const char *table;
    const char *device; /* as moet_device_open takes it */
    uint64_t seed;      /* of the inputs */
    int32_t rounds;     /* >= 3, of a set */
    int64_t limit_ns;   /* no point begins that would end later than this after opening; 0: none */
    int64_t sustain_ns; /* of the winner's load before the rounds of a point */
    bool no_runner_up;
    const volatile sig_atomic_t *interrupted; /* may be NULL; once set, no round begins */
} moet_recheck_options;

typedef struct moet_recheck moet_recheck;

/* Opens table and device. NOT_FOUND where the table has no entry made for this device. options must outlive it. */
moet_status moet_recheck_open(const moet_recheck_options *options, moet_recheck **recheck);
void moet_recheck_close(moet_recheck *recheck);

const moet_device_info *moet_recheck_device(const moet_recheck *recheck);
/* The driver that the table's times were measured with, "" unknown. */
const char *moet_recheck_driver(const moet_recheck *recheck);
/* Points that have entries to measure. */
int32_t moet_recheck_points(const moet_recheck *recheck);
/* Different configurations of winners that serve, and those of them that were measured. */
void moet_recheck_coverage(const moet_recheck *recheck, int32_t *configs, int32_t *measured);

/* Goes through the entries, each of which is told once, when its verdict stands: stale ones first, those left last.
 * before (may be NULL): told before a point is measured; part: of the points that serve. Errors are those of the bench:
 * what was told stands. */
typedef struct moet_recheck_visitor {
    void (*before)(void *context, double part, const moet_recheck_entry *first);
    void (*told)(void *context, const moet_recheck_entry *entry);
    void *context;
} moet_recheck_visitor;
moet_status moet_recheck_run(moet_recheck *recheck, const moet_recheck_visitor *visitor);

#endif
