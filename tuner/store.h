/* store: every trial and all its samples, in one SQLite file. The only header over the only file that includes
 * sqlite3.h (store.c, and store_*.c). */
#ifndef MOET_STORE_H
#define MOET_STORE_H

#include "../bench/bench.h"
#include "../src/table.h"
#include "effort.h"
#include "workload.h"

#define MOET_STORE_APPLICATION_ID 0x6d6f6574 /* "moet" */
#define MOET_STORE_VERSION 8

typedef struct moet_store moet_store;

/* A problem's key in a store: its canonical text, and of op FFN on a workload whose tokens are not as many as its rows
 * ",tokens=R": equal counts of other tokens are other work. */
#define MOET_STORE_PROBLEM_SIZE (MOET_KEY_SIZE + 32)
void moet_store_problem_key(const moet_problem *problem, const moet_workload *workload,
                            char text[MOET_STORE_PROBLEM_SIZE]);
/* How much of it is the canonical text. */
size_t moet_store_problem_length(const char *key);
/* The tokens behind it; 0: none, they are as many as the rows. */
int64_t moet_store_problem_tokens(const char *key);

/* SQLite's version, "3.40.1". */
const char *moet_store_library(void);

typedef enum moet_store_mode {
    MOET_STORE_READ,
    MOET_STORE_WRITE, /* creates the file if absent */
    MOET_STORE_SOURCE /* READ of a file that is named by an argument, not by --db, as messages say */
} moet_store_mode;

/* Opens, checks application_id and user_version, migrates older versions (WRITE) or reads them as they are (READ).
 * Foreign keys on, WAL where the file system can, else a rollback journal; busy timeout 30 s. Errors name the file and
 * the next step. */
moet_status moet_store_open(const char *path, moet_store_mode mode, moet_store **store);
void moet_store_close(moet_store *store);

/* Provenance of a sweep: one row a process run; id is used for its trials. */
typedef struct moet_store_run {
    const moet_device_info *device;
    const char *device_key;
    const char *command;    /* the command line, replayable */
    const char *revision;   /* source revision of the program */
    const char *libraries;  /* "cublasLt 130100, nvrtc 13.0, ..." */
    moet_ceilings ceilings; /* as measured at the start */
    moet_effort effort;     /* of its trials */
} moet_store_run;
moet_status moet_store_begin_run(moet_store *store, const moet_store_run *run, int64_t *run_id);

/* Identity of a trial for resuming: device key, problem key, counts, config, device_counts, family version and
 * validator. */
typedef struct moet_store_key {
    const char *device_key;
    const moet_problem *problem;
    const moet_workload *workload;
    const char *config; /* canonical text */
    bool device_counts;
    int32_t family_version;
    const char *validator;
} moet_store_key;

/* Writes trial, samples and cubins in one transaction. A trial with the same key is replaced only if `replace`;
 * otherwise the stored one stays and *inserted (may be NULL) is false. So does one that a run of a higher effort
 * measured in final rounds, unless the new one says that the candidate does not work. final_rounds: measured in the
 * fresh rounds at the end (winner, default, runner-up). is_default: the family default for this workload and kind of
 * counts. */
moet_status moet_store_put_trial(moet_store *store, int64_t run_id, const moet_store_key *key, const moet_trial *trial,
                                 bool is_default, bool final_rounds, bool replace, bool *inserted);
/* A moment as the store has them, UTC with milliseconds: they compare as texts. */
#define MOET_MOMENT_SIZE 32
void moet_store_now(char text[MOET_MOMENT_SIZE]);
/* Whether a finished trial with this key is there; *final_rounds (may be NULL) as it was put. What was measured before
 * the moment `since` ("": whenever) is not, unless it is one that a trial of `effort` would not replace. */
moet_status moet_store_has_trial(moet_store *store, const moet_store_key *key, const char *since, moet_effort effort,
                                 bool *present, bool *final_rounds);
/* Whether the candidate was wrong at any workload of the problem, with either kind of counts, whatever its tokens. */
moet_status moet_store_is_suspect(moet_store *store, const moet_store_key *key, bool *suspect);
/* Marks that a workload is tuned, its final rounds done, for a candidate set (a hash text of candidates) with an
 * effort, so that a resumed sweep skips it whole. A mark of a higher effort stays. is_done: with this effort or a
 * higher one. */
moet_status moet_store_put_done(moet_store *store, int64_t run_id, const moet_store_key *key, const char *candidates,
                                moet_effort effort);
moet_status moet_store_is_done(moet_store *store, const moet_store_key *key, const char *candidates, moet_effort effort,
                               bool *done);
/* One more name of a workload that is done: it may be there under another, by its counts. */
moet_status moet_store_put_name(moet_store *store, const moet_store_key *key);
/* Makes a workload unfinished whose results no longer hold: done marks of runs that began before a moment (as
 * measured_at) go, and trials measured before it stay but no longer count as of final rounds: they win only until others
 * have some. */
moet_status moet_store_reopen(moet_store *store, const moet_store_key *key, const char *before);

/* A device's cost model. get: NOT_FOUND where it has none. put replaces it; its device is in the store (begin_run). */
typedef struct moet_store_cost {
    moet_device_rates rates;
    int32_t points; /* measured times behind it */
    double error;   /* root mean square of ln(estimate / time) */
} moet_store_cost;
moet_status moet_store_put_cost(moet_store *store, const char *device_key, const moet_store_cost *cost);
moet_status moet_store_get_cost(moet_store *store, const char *device_key, moet_store_cost *cost);

/* What is read in between is the database of one moment, whoever writes meanwhile: for what several walks make. Not
 * nested; other connections may write, but where there is no write-ahead log only until their busy timeout. */
moet_status moet_store_begin_reading(moet_store *store);
void moet_store_end_reading(moet_store *store);

/* Reading. Rows come sorted: device key, problem key, rows, max/mean, counts; trials of a workload by time, failed
 * ones last, then by config. Texts live until the next step. */
typedef struct moet_store_cubin {
    char sha256[MOET_SHA256_TEXT_SIZE];
    char arch[16];
} moet_store_cubin;
typedef struct moet_store_trial_row {
    const char *device_key;
    const char *problem_key;
    const char *workload_name, *skew;
    int64_t workload_id;
    int32_t experts, active, max;
    const int32_t *counts;
    int64_t rows;
    double max_over_mean, gini;
    int64_t trial_id;
    const char *config;
    int32_t family_version;
    const char *validator;
    bool device_counts, eager, final_rounds, is_default;
    bool is_winner[MOET_TABLE_KIND_COUNT];
    bool is_current; /* of its family's newest version and validator on this workload: only such ones may win */
    bool is_suspect; /* the same candidate was wrong somewhere in the problem (moet_store_is_suspect): it may not */
    moet_trial_status status;
    const char *reason;
    int64_t median_ns, noise_ns;
    int32_t sample_count;
    double efficiency, error;
    const char *bit_class;
    const char *measured_at; /* UTC, ISO 8601 */
    int64_t run_id;          /* moet_store_run_row */
    moet_effort effort;      /* of the run that measured it */
    int32_t cubin_count;
    moet_store_cubin cubins[MOET_MAX_CUBINS];
} moet_store_trial_row;
typedef moet_status (*moet_store_visit)(void *context, const moet_store_trial_row *row);
/* filter texts may be NULL (any). device_key: a key, or a part of one. any_tokens: problem_key has none, and those that
 * differ from it in tokens only are found too. name matches the workload's name or
 * "name/rows/skew" prefix, whole parts of it ("deepseek-v3/ep32/512"). workload (may be NULL): its shape and counts;
 * reading one workload costs little however large the database is. */
typedef struct moet_store_filter {
    const char *device_key, *problem_key, *name;
    const moet_workload *workload;
    bool any_tokens, winners_only, ok_only;
} moet_store_filter;
/* A visitor's error ends the walk and is returned. filter NULL: all. */
moet_status moet_store_each_trial(moet_store *store, const moet_store_filter *filter, moet_store_visit visit,
                                  void *context);

/* "any", "device_counts": as the table and reports name them. */
const char *moet_store_kind_name(moet_table_kind kind);

/* A winner of one kind with what it is compared with: the fastest other config, and the family default. */
typedef struct moet_store_rival {
    const char *config; /* NULL: none was measured */
    int64_t median_ns, noise_ns;
    bool is_suspect; /* a default only: as above */
} moet_store_rival;
typedef struct moet_store_winner_row {
    moet_table_kind kind;
    moet_store_trial_row trial;
    moet_store_rival runner_up, default_trial;
} moet_store_winner_row;
typedef moet_status (*moet_store_visit_winner)(void *context, const moet_store_winner_row *row);
/* Sorted like trials, then by kind. winners_only and ok_only of the filter say nothing here. */
moet_status moet_store_each_winner(moet_store *store, const moet_store_filter *filter, moet_store_visit_winner visit,
                                   void *context);
/* Device keys, sorted. Freed by moet_store_keys_release. */
typedef struct moet_store_keys {
    int32_t count;
    char **texts;
} moet_store_keys;
moet_status moet_store_device_keys(moet_store *store, moet_store_keys *keys);
void moet_store_keys_release(moet_store_keys *keys);
/* Bytes of a stored cubin, checked against its hash. */
moet_status moet_store_get_cubin(moet_store *store, const char *sha256, moet_cubin *cubin);
/* A trial's algorithms, as its family listed them, into list[MOET_MAX_ALGORITHMS]. */
moet_status moet_store_get_algorithms(moet_store *store, int64_t trial_id, moet_algorithm *list, int32_t *count);
/* The device; driver and ceilings of its latest run that has a trial, else of its latest run. */
moet_status moet_store_device_info(moet_store *store, const char *device_key, moet_device_info *info,
                                   moet_ceilings *ceilings);

/* What a profiler counted of the kernels of a trial's launch (tuner/ncu.h): beside the trial, none of its times. */
typedef struct moet_store_counter {
    int32_t position; /* of the kernel in the launch */
    const char *kernel, *metric;
    double value; /* finite */
} moet_store_counter;
/* In place of what an earlier profile of the trial counted. tool: its name. */
moet_status moet_store_put_profile(moet_store *store, int64_t trial_id, const char *tool,
                                   const moet_store_counter *counters, int32_t count);
typedef moet_status (*moet_store_visit_counter)(void *context, const char *tool, const moet_store_counter *counter);
/* By kernel, then by metric; none where the trial was not profiled. Texts live until the next one. */
moet_status moet_store_each_counter(moet_store *store, int64_t trial_id, moet_store_visit_counter visit, void *context);

/* Runs of a device that have trials, by their start: where its numbers come from. Texts live until the next one. */
typedef struct moet_store_run_row {
    int64_t run_id;
    const char *started_at, *command, *revision, *libraries, *driver;
    int32_t driver_cuda_version;
    moet_ceilings ceilings;
    double seconds;                /* from its start to its last trial */
    int64_t ok, wrong, failed, of; /* trials by their status (failed: timed out too), and all of them */
} moet_store_run_row;
typedef moet_status (*moet_store_visit_run)(void *context, const moet_store_run_row *row);
moet_status moet_store_each_run(moet_store *store, const char *device_key, moet_store_visit_run visit, void *context);

/* Copies everything of `from` that `into` lacks; of two trials with one key one that is wrong, then with final rounds,
 * then of higher effort, then more samples, then the lower median, then the lower run identity stays; of two marks of
 * what is done the higher effort; of two cost models the one of more points, then of the lower error; of two trials of
 * the expert-parallel layer the one of more samples, then as above: commutative and idempotent. */
moet_status moet_store_merge(moet_store *into, const char *from_path, int64_t *added);

#endif
