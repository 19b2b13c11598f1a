/* bench_file: the JSON lines of `moe-tune bench` and of other programs' benches, for `moe-tune compare`. */
#ifndef MOET_BENCH_FILE_H
#define MOET_BENCH_FILE_H

#include "../src/moet.h"
#include "workload.h"

typedef struct moet_bench_point {
    char name[MOET_WORKLOAD_NAME_SIZE];
    char skew[MOET_SKEW_SIZE];
    char op[16];
    char layout[8]; /* "nk" where the line has none */
    char peer[64];
    int64_t rows;
    int64_t tokens; /* op ffn; as many as rows where the line has none */
    double time_us, efficiency; /* efficiency 0: not in the line */
    int32_t experts;            /* 0: no counts in the line */
    int32_t *counts;            /* [experts], owned */
} moet_bench_point;

typedef struct moet_bench_file {
    char device[128]; /* "" where no line names it */
    int32_t count, capacity;
    moet_bench_point *points;
} moet_bench_file;

/* Reads a file ("-": stdin): lines with "device" name it, the others are points; members not listed above are passed
 * over. Of two points of one peer with the same key the later counts. MALFORMED names file and line. */
moet_status moet_bench_file_read(const char *path, moet_bench_file *file);
void moet_bench_file_release(moet_bench_file *file);

/* Same name, rows, tokens, skew, op and layout, and counts where both have them: the same thing was measured. */
bool moet_bench_point_matches(const moet_bench_point *a, const moet_bench_point *b);

#endif
