/* workload: a problem's shape plus the rows each expert gets; its text form is one JSON object a line. Also the
 * models data file and the skew generators. */
#ifndef MOET_WORKLOAD_H
#define MOET_WORKLOAD_H

#include <stdio.h>

#include "../src/moet.h"

#define MOET_WORKLOAD_NAME_SIZE 96
#define MOET_SKEW_SIZE 48

typedef struct moet_workload {
    char name[MOET_WORKLOAD_NAME_SIZE]; /* "deepseek-v3/ep32" */
    int32_t experts, hidden, inter;
    int64_t rows;
    char skew[MOET_SKEW_SIZE]; /* "balanced", "zipf:1", ... as given */
    int64_t tokens;            /* 0: unknown; else every count <= tokens */
    uint64_t seed;             /* of the skew generator; 0: counts came from a file */
    double weight;             /* how often it happens beside the others, > 0; 0: not given, which counts as 1 */
    int32_t *counts;           /* [experts], owned */
} moet_workload;
void moet_workload_release(moet_workload *workload);
/* Its weight, 1 where none is given. */
double moet_workload_weight(const moet_workload *workload);
moet_status moet_workload_copy(const moet_workload *from, moet_workload *to);

/* A growing list; owns its workloads. */
typedef struct moet_workloads {
    int32_t count, capacity;
    moet_workload *items;
} moet_workloads;
moet_status moet_workloads_add(moet_workloads *list, moet_workload *workload); /* takes ownership, zeroes the source */
void moet_workloads_release(moet_workloads *list);

/* One line of JSON (strict: unknown and missing fields, wrong types, numbers out of bounds, counts that do not sum to
 * rows are errors naming `where`, e.g. "public.jsonl:12"). parse(format(w)) == w. format returns malloc'd text without
 * newline. */
moet_status moet_workload_parse(const char *line, size_t length, const char *where, moet_workload *workload);
moet_status moet_workload_format(const moet_workload *workload, char **line);
/* Reads a .jsonl file; blank lines are skipped. All or nothing. "-" reads stdin. */
moet_status moet_workloads_read(const char *path, moet_workloads *list);
/* The same of an open stream; name is for messages. */
moet_status moet_workloads_read_stream(FILE *stream, const char *name, moet_workloads *list);

/* Draws counts[experts] that sum to rows: "balanced", "uniform" (multinomial), "lognormal:S", "zipf:S", "powerlaw:A",
 * "hot:F" (one expert gets fraction F), "idle:F" (fraction F of the experts gets nothing). The same (skew, experts,
 * rows, seed) gives the same counts on every machine. INVALID names the text and the forms. */
moet_status moet_skew_draw(const char *skew, int32_t experts, int64_t rows, uint64_t seed, int32_t *counts);

typedef struct moet_model {
    char name[64];
    int32_t experts, top_k, hidden, inter, layers; /* experts: routed, over all ranks */
    bool bias;
    char note[64];
} moet_model;
/* From the models file built into the program (tuner/models.tsv). NOT_FOUND lists the nearest names. */
moet_status moet_model_find(const char *name, moet_model *model);
int32_t moet_model_count(void);
moet_status moet_model_at(int32_t index, moet_model *model);

#endif
