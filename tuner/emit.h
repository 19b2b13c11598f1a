/* emit: the table writer: winners of a store as a folder of plain files (docs/table-format.md). */
#ifndef MOET_EMIT_H
#define MOET_EMIT_H

#include "emit_winners.h"
#include "parse.h"
#include "store.h"

struct cJSON;

typedef struct moet_emitted {
    char hash[MOET_SHA256_TEXT_SIZE];
    int32_t devices, problems, points, entries, cubins;
    int32_t ep_points; /* of the expert-parallel layer */
    /* of moet_emit_winners, over devices and problems */
    int32_t winner_configs, configs;
    double mean_regret, most_regret;
    moet_bits_cost bits_cost; /* with options->bits */
    int32_t suspect_defaults; /* winners beside which the default was wrong at another workload of the problem */
    bool changed; /* false: the folder held this very table */
} moet_emitted;

typedef struct moet_emit_options {
    const char *device;   /* NULL: all; else those that moet_store_filter's device_key finds */
    bool all_winners;     /* each point's own, instead of the few that cover a problem's points (emit_winners.h) */
    moet_text_list skews; /* none: all */
    const char *bits;     /* a bit class (emit_bits.h); NULL: any */
} moet_emit_options;

/* Writes a table into dir, which is made if need be (its parent must exist), of the database as it is at one moment.
 * NOT_FOUND without any winner, of GEMMs or of the expert-parallel layer, which options but device say nothing of.
 * INVALID where dir holds something else; BUSY where another emit replaced the table meanwhile. On an error the folder
 * serves as before. */
moet_status moet_emit(moet_store *store, const char *dir, const moet_emit_options *options, moet_emitted *emitted);

/* Reads dir/table.json of any version as text: format, version and hash are checked, members are not. Freed by
 * cJSON_Delete. */
moet_status moet_emit_read(const char *dir, struct cJSON **table);

/* emit_files.c: the folder. `hash` (may be NULL) of the table in dir, "" where dir is absent, empty, or holds only
 * what an interrupted emit left. INVALID where it holds something else. */
typedef struct moet_emit_folder {
    char hash[MOET_SHA256_TEXT_SIZE];
    char parent[MOET_SHA256_TEXT_SIZE];
} moet_emit_folder;
moet_status moet_emit_folder_look(const char *dir, moet_emit_folder *folder);
/* Writes kernels first and the text last (text NULL: it is there already), then removes kernels that are not in
 * cubins[], which is sorted. Of several processes one at a time; BUSY where the folder's table is not the one with the
 * hash `replaced`, as it was looked at: its kernels are not to be removed. */
moet_status moet_emit_folder_write(moet_store *store, const char *dir, const char *replaced, const char *text,
                                   const char *const *cubins, int32_t cubin_count);

#endif
