/* table: a tuned table in memory: load, validate, look up. docs/table-format.md describes the files. */
#ifndef MOET_TABLE_H
#define MOET_TABLE_H

#include "device.h"
#include "family.h"
#include "moet.h"
#include "moet_ep.h"

/* What emit writes. Version 1, with at most one cubin a kernel, is read too. */
#define MOET_TABLE_FORMAT_VERSION 2

/* Which counts a configuration must be able to take. Each point of a table has up to one winner of each kind. */
typedef enum moet_table_kind { MOET_TABLE_ANY, MOET_TABLE_DEVICE_COUNTS, MOET_TABLE_KIND_COUNT } moet_table_kind;

/* What another of the table's configurations took at a point. */
typedef struct moet_table_other {
    moet_config config;
    int64_t time_ns;
} moet_table_other;

typedef struct moet_table_winner {
    bool present; /* false: not tuned, or refused */
    bool refused;
    moet_config config;
    int64_t time_ns;
    int32_t cubin_count;                       /* 0 where the family compiles nothing */
    const moet_cubin *cubins[MOET_MAX_CUBINS]; /* owned by the table */
    int32_t algorithm_count;                   /* of a vendor library; 0: it is asked */
    moet_algorithm *algorithms;                /* owned by the table */
    int32_t other_count;
    moet_table_other *others; /* owned by the table */
} moet_table_winner;

/* One tuned workload of a problem. */
typedef struct moet_table_point {
    int64_t rows;
    int32_t max; /* rows of the busiest expert */
    double max_over_mean;
    double log_rows, log_skew; /* ln rows, ln max_over_mean: what distances are made of */
    int32_t *counts;           /* [experts of the problem] */
    moet_table_winner winner[MOET_TABLE_KIND_COUNT];
} moet_table_point;

/* A family default and its compiled kernels. */
typedef struct moet_table_default {
    moet_config config;
    int32_t cubin_count;                       /* never 0: defaults without a kernel need no table */
    const moet_cubin *cubins[MOET_MAX_CUBINS]; /* owned by the table */
} moet_table_default;

typedef struct moet_table_problem {
    moet_problem problem;
    int32_t point_count;
    moet_table_point *points;
    int32_t default_count;
    moet_table_default *defaults;
} moet_table_problem;

/* How the expert-parallel layer is run best (ep_choice.h): of a problem's local experts, on so many ranks and hosts, by
 * tokens on each rank. */
#define MOET_EP_CHOICE_SIZE 192
typedef struct moet_table_ep_point {
    int64_t tokens, busiest; /* busiest: expert rows of the busiest rank, of ranks * tokens * choices in all */
    char choice[MOET_EP_CHOICE_SIZE];
} moet_table_ep_point;
typedef struct moet_table_ep {
    moet_problem problem; /* of one rank */
    int32_t ranks, hosts, choices;
    moet_ep_returns returns;
    int32_t point_count;
    moet_table_ep_point *points;
} moet_table_ep;

typedef struct moet_table {
    char hash[MOET_SHA256_TEXT_SIZE]; /* of the table's own content */
    bool has_rates;
    moet_device_rates rates; /* of this device, as emit knew them */
    int32_t problem_count;
    moet_table_problem *problems; /* those of this device */
    int32_t foreign_count;
    moet_problem *foreign; /* those of other devices, perhaps more than once: all refused */
    int32_t ep_count;
    moet_table_ep *ep; /* those of this device */
    int32_t cubin_count;
    moet_cubin *cubins;  /* each once */
    int32_t entry_count; /* winners that serve */
    int32_t refusal_count;
    char **refusals; /* one line a refused winner */
} moet_table;

/* Reads dir/table.json and the cubins it names. All or nothing on malformed input (MALFORMED names file and place);
 * entries for other devices, architectures, family or library versions become refusals, with expected/actual. */
moet_status moet_table_load(const char *dir, const moet_device *device, moet_table **table);
void moet_table_close(moet_table *table);
void moet_table_problem_release(moet_table_problem *problem); /* what it points to */

/* Parses the text of a table.json whose cubins lie in `dir` (NULL: cubin files are not read and winners that need one
 * have none; for tests). check_hash false passes over a wrong hash: so that a fuzzer gets past it. */
moet_status moet_table_parse(const char *text, size_t size_bytes, const char *dir, bool check_hash,
                             const moet_device *device, moet_table **table);

/* The member "algorithms" of a winner's object, which may be absent; malloc'd, NULL for none. MALFORMED: why
 * [MOET_REASON_SIZE] says what is wrong. (table_algorithms.c) */
struct cJSON;
moet_status moet_table_read_algorithms(const struct cJSON *winner, moet_algorithm **algorithms, int32_t *count,
                                       char *why);

/* The member "rates" of a device's object, and "others" of a winner's, which may be absent; as above. Configurations that this build does not know are passed over. (table_others.c) */
moet_status moet_table_read_rates(const struct cJSON *device, bool *has_rates, moet_device_rates *rates, char *why);
moet_status moet_table_read_others(const struct cJSON *winner, moet_table_other **others, int32_t *count, char *why);

/* The member "ep" of a device's object, which may be absent, into the table; NULL: it is read for its form. Errors as
 * above. Points whose choice this build does not know are passed over. (table_ep.c) */
moet_status moet_table_read_ep(const struct cJSON *device, moet_table *table, char *why);
void moet_table_ep_release(moet_table *table);

const moet_table_problem *moet_table_find(const moet_table *table, const moet_problem *problem);
/* The problem of the same op, experts, hidden and inter that differs least in the rest; NULL if there is none. */
const moet_table_problem *moet_table_find_alike(const moet_table *table, const moet_problem *problem);

/* The compiled kernels of a config for a problem into list[MOET_MAX_CUBINS], as moet_family's cubins() would give them,
 * and their number: each from the defaults of any problem for which the family compiles the same source with the same
 * options. 0 where one of them is not there. */
int32_t moet_table_default_cubins(const moet_table *table, const moet_problem *problem, const moet_config *config,
                                  const moet_device *device, const moet_cubin **list);

/* Whether the table has the problem for other devices. */
bool moet_table_is_foreign(const moet_table *table, const moet_problem *problem);

/* The points near a routing with rows > 0 (moet.h, MOET_NEAREST_LIMIT and _SKEW_LIMIT), the nearest first and of
 * equally near ones the first, into list[MOET_TABLE_NEIGHBORS]; their number. One with the same rows and busiest expert
 * has distance 0. usable (NULL: all) [problem->point_count]: others are passed over. */
#define MOET_TABLE_NEIGHBORS 4
typedef struct moet_table_neighbor {
    int32_t point; /* index */
    double distance;
} moet_table_neighbor;
int32_t moet_table_nearest(const moet_table_problem *problem, const bool *usable, int64_t rows, double max_over_mean,
                           moet_table_neighbor *list);

#endif
