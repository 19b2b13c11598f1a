/* store_fill: what tests of databases begin with, puts made-up trials into them, and reads whole databases as text. */
#ifndef MOET_STORE_FILL_H
#define MOET_STORE_FILL_H

#include "../tuner/store.h"

/* Of a group of tests, from fill_group_open to fill_group_close: a folder for its files, the host, another machine. */
extern char fill_folder[256];
extern moet_device *fill_host, fill_elsewhere;
int fill_group_open(void **state);
int fill_group_close(void **state);

/* `name` in the folder. */
void fill_path(const char *name, char path[512]);
/* A database there, opened for writing. */
moet_store *fill_store(const char *name, char path[512]);
/* The number that a query of the database gives. */
int64_t fill_number(const char *path, const char *sql);
/* table.json of an emitted table; malloc'd. */
char *fill_table_text(const char *dir);

/* What a test varies of a trial; the rest is filled in. */
typedef struct fill_trial {
    const moet_device *device;
    const moet_problem *problem;
    const int32_t *counts; /* [problem->experts] */
    int64_t tokens;        /* op FFN */
    const moet_config *config;
    bool device_counts, is_default, final_rounds, replace;
    int32_t version; /* 0: the family's */
    moet_trial_status status;
    int64_t median_ns, noise_ns;
    int32_t samples;
    const char *cubins[MOET_MAX_CUBINS]; /* bytes of made-up kernels; NULL: no more */
    const char *bit_class;               /* NULL: "host_tile" */
    int32_t algorithm_count;
    const moet_algorithm *algorithms;
} fill_trial;

/* What a made-up kernel is compiled for: with an 'a' or without, by its length, as GEMMs and helper kernels of one
 * config may differ. */
void fill_arch(const moet_device *device, const char *kernel, char arch[16]);

int64_t fill_run(moet_store *store, const moet_device *device);
int64_t fill_run_of(moet_store *store, const moet_device *device, moet_effort effort);
/* Whether it was inserted. */
bool fill_put(moet_store *store, int64_t run, const fill_trial *trial);

/* Random trials of two devices and of up to `most` kernels each, many of which other seeds make too. The problem has
 * four experts; the configs are the host's. */
void fill_random(moet_store *store, const moet_device *host, const moet_device *elsewhere, const moet_problem *problem,
                 uint64_t seed, int32_t most);

/* Every trial, one a line, all but row ids; malloc'd. */
char *fill_dump(moet_store *store);

/* The n-th config of the host's tunable family that is applicable. */
void fill_config(const moet_device *device, const moet_problem *problem, int32_t n, moet_config *config);

#endif
